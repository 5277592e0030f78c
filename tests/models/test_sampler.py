"""Flow matching: levels, moves between them, reproducible noise, the order of the loop."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from streamer.models.sampler import (
    DenoisingSteps,
    FlowMatchTable,
    add_noise,
    block_noise,
    denoise_block,
    euler_step,
    to_clean,
    to_flow,
    write_block,
)
from streamer.models.transformer import PromptKV

SHAPE = (2, 3, 4, 2, 2)
TEXT = PromptKV(torch.zeros(1), torch.zeros(1))


def test_a_warped_list_is_the_published_one() -> None:
    steps = FlowMatchTable(5.0).steps([1000, 750, 500, 250], warp=True)
    assert steps.timesteps == pytest.approx((1000.0, 937.5, 833.33333, 625.0), abs=1e-4)
    assert steps.sigmas == pytest.approx((1.0, 0.9375, 0.8333333, 0.625), abs=1e-6)
    eight = FlowMatchTable(8.0).steps([1000, 750, 500, 250], warp=True)
    assert eight.timesteps == pytest.approx((1000.0, 960.0, 888.8889, 727.2727), abs=1e-3)


def test_an_unwarped_list_is_taken_as_it_is_and_loses_its_zero() -> None:
    steps = FlowMatchTable(8.0).steps([1000, 757, 522, 0], warp=False)
    assert steps.timesteps == (1000.0, 757.0, 522.0)
    # By the table, not t / 1000.
    assert steps.sigmas[1] != 0.757
    assert steps.sigmas == pytest.approx((1.0, 0.757, 0.522), abs=2e-3)


def test_timestep_zero_has_the_last_sigma_of_the_table() -> None:
    sigma = FlowMatchTable(5.0).sigma(torch.tensor([0.0, 1000.0]))
    assert sigma.tolist() == pytest.approx([0.00498, 1.0], abs=1e-5)


@pytest.mark.parametrize("steps", [[], [0], [1001], [-1]])
def test_an_impossible_list_is_refused(steps: list[int]) -> None:
    with pytest.raises(ValueError, match=r"denoising_step_list is empty|expected numbers from 0"):
        FlowMatchTable(5.0).steps(steps, warp=True)


def test_training_weights_average_one_and_vanish_at_the_ends() -> None:
    weights = FlowMatchTable(1.0).training_weights()
    assert weights.mean().item() == pytest.approx(1.0, abs=1e-5)
    assert weights.argmax().item() == 500
    assert weights.min().item() == 0.0


@pytest.mark.parametrize("sigma", [0.3, torch.rand(2) + 0.1, torch.rand(2, 3) + 0.1])
def test_the_moves_undo_each_other(sigma: Tensor | float) -> None:
    clean, noise = torch.randn(SHAPE), torch.randn(SHAPE)
    noisy = add_noise(clean, noise, sigma)
    # float32 rounding, divided by the smallest sigma of 0.1.
    torch.testing.assert_close(to_clean(noisy, noise - clean, sigma), clean, rtol=0, atol=1e-6)
    torch.testing.assert_close(to_flow(noisy, clean, sigma), noise - clean, rtol=0, atol=1e-5)
    moved = euler_step(noisy, noise - clean, sigma, torch.as_tensor(sigma) / 2)
    expected = add_noise(clean, noise, torch.as_tensor(sigma) / 2)
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-6)


def test_a_level_per_frame_reaches_just_its_frame() -> None:
    clean, noise = torch.zeros(SHAPE), torch.ones(SHAPE)
    noisy = add_noise(clean, noise, torch.tensor([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]]))
    assert noisy[1, 2].unique().tolist() == pytest.approx([0.6])


def test_noise_is_a_function_of_seed_block_and_draw() -> None:
    torch.manual_seed(1)
    first = block_noise(7, 3, 0, SHAPE)
    torch.manual_seed(2)
    assert torch.equal(block_noise(7, 3, 0, SHAPE), first)
    others = [(8, 3, 0), (7, 4, 0), (7, 3, 1), (3, 7, 0), (-7, 3, 0), (7 + 2**63, 3, 0)]
    assert not any(torch.equal(block_noise(*other, SHAPE), first) for other in others)
    many = block_noise(7, 3, 0, (100_000,))
    # Five standard errors of 100,000 draws.
    assert abs(many.mean()) < 0.016
    assert many.std().item() == pytest.approx(1.0, abs=0.012)


class RecordingContext:
    """Writes down the life of a block."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def begin(self, num_frames: int | None = None) -> None:
        self.events.append(f"begin {num_frames}")

    def commit(self) -> None:
        self.events.append("commit")


def test_a_block_is_denoised_step_by_step_then_written_clean() -> None:
    context, inputs = RecordingContext(), []
    answer = torch.full(SHAPE, 0.25)

    def model(
        latents: Tensor, timestep: Tensor, text: PromptKV, context: RecordingContext
    ) -> Tensor:
        assert timestep.shape == (2,)
        context.events.append(f"pass {timestep[0].item():g}")
        inputs.append(latents)
        level = {1000.0: 1.0, 500.0: 0.5, 40.0: 1.0}[timestep[0].item()]
        return (latents - answer) / level

    noise = [torch.randn(SHAPE), torch.randn(SHAPE)]
    steps = DenoisingSteps((1000.0, 500.0), (1.0, 0.5))
    clean = denoise_block(model, steps, noise.__getitem__, TEXT, context, context_timestep=40.0)
    torch.testing.assert_close(clean, answer, rtol=0, atol=1e-6)
    torch.testing.assert_close(inputs[0], noise[0])
    torch.testing.assert_close(inputs[1], 0.5 * answer + 0.5 * noise[1], rtol=0, atol=1e-6)
    torch.testing.assert_close(inputs[2], clean)
    assert context.events == ["begin 3", "pass 1000", "pass 500", "begin 3", "pass 40", "commit"]


def test_given_latents_are_written_with_one_pass() -> None:
    context = RecordingContext()

    def model(
        latents: Tensor, timestep: Tensor, text: PromptKV, context: RecordingContext
    ) -> Tensor:
        context.events.append(f"pass {timestep[0].item():g}")
        return latents

    write_block(model, torch.randn(SHAPE), TEXT, context)
    assert context.events == ["begin 3", "pass 0", "commit"]
