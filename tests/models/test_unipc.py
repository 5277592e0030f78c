"""UniPC: exact where it must be, far closer than Euler elsewhere, finite from pure noise."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from streamer.models.sampler import to_clean
from streamer.models.unipc import UniPC

MEAN, SPREAD = 0.7, 0.4
Denoiser = Callable[[Tensor, float], Tensor]


def expected_clean(latents: Tensor, sigma: float) -> Tensor:
    """The best guess when clean latents are normal with MEAN and SPREAD."""
    variance = (1 - sigma) ** 2 * SPREAD**2 + sigma**2
    return MEAN + (1 - sigma) * SPREAD**2 / variance * (latents - (1 - sigma) * MEAN)


def exact(latents: Tensor, sigma: float, sigma_next: float) -> Tensor:
    """The solution of the probability flow of that distribution."""

    def spread(level: float) -> float:
        return math.sqrt((1 - level) ** 2 * SPREAD**2 + level**2)

    score = (latents - (1 - sigma) * MEAN) / spread(sigma)
    return (1 - sigma_next) * MEAN + score * spread(sigma_next)


def solve(sigmas: list[float], latents: Tensor, denoise: Denoiser = expected_clean) -> Tensor:
    solver = UniPC(sigmas)
    for sigma in sigmas:
        latents = solver.step(latents, denoise(latents, sigma))
    return latents


def euler(sigmas: list[float], latents: Tensor) -> Tensor:
    for sigma, following in zip(sigmas, [*sigmas[1:], 0.0], strict=True):
        flow = (latents - expected_clean(latents, sigma)) / sigma
        latents = latents + flow * (following - sigma)
    return latents


def error(solver: Callable[[list[float], Tensor], Tensor], num_steps: int) -> float:
    sigmas = [1 / (1 + math.exp(8 * i / (num_steps - 1) - 4)) for i in range(num_steps)]
    start = torch.linspace(-2, 2, 9, dtype=torch.float64)
    return float((solver(sigmas, start) - exact(start, sigmas[0], 0.0)).abs().max())


def test_few_steps_come_much_closer_than_eulers():
    assert error(solve, 9) < error(euler, 9) / 4


def test_twice_the_steps_divide_the_error_by_more_than_three():
    assert error(solve, 24) < error(solve, 12) / 3


def test_predictions_that_do_not_change_are_reached_exactly():
    clean = torch.randn(4, dtype=torch.float64)
    made = solve([0.9, 0.6, 0.3, 0.1], torch.randn(4, dtype=torch.float64), lambda x, s: clean)
    torch.testing.assert_close(made, clean, atol=1e-12, rtol=0)


@pytest.mark.parametrize("num_steps", [1, 2, 3, 9])
def test_it_starts_from_pure_noise(num_steps: int):
    sigmas = [1.0 - 0.95 * i / num_steps for i in range(num_steps)]
    made = solve(sigmas, torch.linspace(-2, 2, 9, dtype=torch.float64))
    assert torch.isfinite(made).all()


def test_the_sample_is_that_of_the_last_steps_own_level():
    solver, latents = UniPC([0.8, 0.2]), torch.randn(4, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="first step"):
        _ = solver.sample
    moved = solver.step(latents, expected_clean(latents, 0.8))
    assert solver.sample is latents
    last = solver.step(moved, expected_clean(moved, 0.2))
    near = exact(latents, 0.8, 0.2)
    assert (solver.sample - near).abs().max() < (moved - near).abs().max()
    torch.testing.assert_close(last, expected_clean(moved, 0.2), atol=1e-12, rtol=0)


def test_one_block_of_lightx2vs_scheduler_is_reproduced():
    """Recorded: what its network was asked, the flow, and the state after each of nine steps."""
    recorded = load_file(Path(__file__).parents[1] / "data" / "unipc_block.safetensors")
    sigmas = recorded["sigmas"].double().tolist()
    solver = UniPC(sigmas[:-1])
    for step, sigma in enumerate(sigmas[:-1]):
        latents = recorded["x_in"][step]
        clean = to_clean(latents, recorded["flow"][step], sigma)
        after = solver.step(latents, clean)
        torch.testing.assert_close(after, recorded["latents_after"][step], atol=5e-5, rtol=0)
