"""Fragments and recaches: what is carried, where positions stand, and what keeps its keys."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from streamer.models.cache import RingLayout
from streamer.models.fragments import anchored_latents, make_fragments, make_rollouts
from streamer.models.rolling import RollingContext
from streamer.models.sampler import (
    DenoisingSteps,
    FlowMatchTable,
    denoise_block,
    recache_together,
    solve_block,
    write_block,
)
from streamer.models.transformer import CausalWanTransformer, PromptKV, TransformerConfig
from streamer.models.wan_vae import WanVAE, WanVAEConfig

CONFIG = TransformerConfig(
    width=24, num_heads=2, ffn_width=48, num_layers=2, text_width=8, text_length=4, freq_width=16
)
STEPS = FlowMatchTable(8.0).steps([1000, 500], warp=False)
BLOCK = 3


@dataclass
class Recording:
    """The network, keeping what it was asked: position, frames, timestep."""

    network: CausalWanTransformer
    calls: list[tuple[int, int, float]] = field(default_factory=list)

    def __call__(
        self, latents: Tensor, timestep: Tensor, text: PromptKV, context: RollingContext
    ) -> Tensor:
        self.calls.append((context.next_position, latents.shape[1], float(timestep[0])))
        return self.network(latents, timestep, text, context)


@pytest.fixture(scope="module")
def network() -> CausalWanTransformer:
    torch.manual_seed(0)
    return CausalWanTransformer(CONFIG).double().eval().requires_grad_(False)


def text(network: CausalWanTransformer, seed: int = 1) -> PromptKV:
    generator = torch.Generator().manual_seed(seed)
    return network.encode_text(torch.randn(1, 4, 8, generator=generator, dtype=torch.float64))


def clip(frames: int, seed: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, frames, 16, 4, 4, generator=generator, dtype=torch.float64)


def context(window: int | None, sink: int = 0, capacity: int = 12) -> RollingContext:
    layout = RingLayout(window, sink, BLOCK, capacity)
    shape = CONFIG.cache_shape(4, 4)
    return RollingContext(shape, layout, dtype=torch.float64, absolute_positions=True)


def noise(fragment: int, block: int, draw: int) -> Tensor:
    return clip(BLOCK, seed=1000 * fragment + 10 * block + draw)


def written(
    network: CausalWanTransformer, window: int, sink: int, frames: Tensor
) -> RollingContext:
    made = context(window, sink)
    for part in frames.split(BLOCK, dim=1):
        write_block(network, part, text(network), made)
    return made


def test_a_recache_keeps_the_keys_of_sinks_left_behind_and_renews_the_rest(network):
    frames = clip(12)
    made = written(network, 9, 3, frames)
    before = made.in_order(1)[0].clone()
    recache_together(network, frames[:, -9:], text(network, seed=7), made)
    after, sink = made.in_order(1)[0], 3 * 4
    assert torch.equal(after[:, :sink], before[:, :sink])
    assert (after[:, sink:] - before[:, sink:]).abs().amin(dim=(0, 2, 3)).min() > 0
    assert (made.num_frames, made.next_position) == (12, 12)


def test_a_recache_may_make_the_windows_first_frames_the_sinks(network):
    frames, other = clip(12), text(network, seed=7)
    made = written(network, 9, 3, frames)
    recache_together(network, frames[:, -9:], other, made, keeps_sinks=False)
    assert (made.num_frames, made.next_position) == (9, 12)
    fresh = context(9, 3)
    fresh.reset(3)
    write_block(network, frames[:, -9:], other, fresh)
    assert torch.equal(made.in_order(1)[0], fresh.in_order(1)[0])


def test_frames_recached_together_see_each_other_and_those_written_in_blocks_do_not(network):
    frames, later = clip(6), clip(6)
    later[:, 3:] += 1.0
    seen = []
    for whole in (frames, later):
        made = written(network, 9, 3, whole)
        in_blocks = made.in_order(1)[0].clone()
        recache_together(network, whole, text(network), made)
        seen.append((in_blocks[:, :12], made.in_order(1)[0][:, :12].clone()))
    assert torch.equal(seen[0][0], seen[1][0])
    assert not torch.allclose(seen[0][1], seen[1][1])


def test_no_more_can_be_taken_back_than_is_held(network):
    made = written(network, 9, 3, clip(12))
    with pytest.raises(ValueError, match="beside 3 sinks the ring holds 6"):
        made.reopen(7)
    made.reset()
    with pytest.raises(ValueError, match="cannot be taken back"):
        made.reopen(1)


def test_a_later_fragment_begins_at_0_with_the_last_blocks_noisy_sample(network):
    model = Recording(network)
    made = make_fragments(
        model, STEPS, noise, text(network), context(None), num_blocks=3, num_fragments=2
    )
    assert made.shape[1] == (3 + 2) * BLOCK
    first = [(position, BLOCK, t) for position in (0, 3, 6) for t in (1000.0, 500.0)]
    later = [(position, BLOCK, t) for position in (3, 6) for t in (1000.0, 500.0)]
    assert model.calls == [*first, (0, BLOCK, 500.0), *later]


def test_without_a_clean_pass_later_blocks_see_the_last_steps_keys(network):
    made = make_fragments(
        network, STEPS, noise, text(network), context(None), num_blocks=2, num_fragments=1
    )
    cache = context(None)
    first = solve_block(network, STEPS, lambda draw: noise(0, 0, draw), text(network), cache)
    cache.commit()
    second = denoise_block(network, STEPS, lambda draw: noise(0, 1, draw), text(network), cache)
    assert torch.equal(made, torch.cat([first.clean, second], dim=1))
    cleanly = context(None)
    denoise_block(network, STEPS, lambda draw: noise(0, 0, draw), text(network), cleanly)
    other = denoise_block(network, STEPS, lambda draw: noise(0, 1, draw), text(network), cleanly)
    assert not torch.allclose(second, other)


def test_unipc_needs_noise_only_to_begin_with(network):
    steps = DenoisingSteps.literal([999, 500, 74])
    assert steps.sigmas == (0.999, 0.5, 0.074)
    draws: list[int] = []

    def counted(draw: int) -> Tensor:
        draws.append(draw)
        return noise(0, 0, draw)

    solved = solve_block(network, steps, counted, text(network), context(None))
    assert draws == [0]
    assert not torch.equal(solved.clean, solved.sample)


def test_rollouts_carry_an_anchor_and_the_last_latents(network):
    torch.manual_seed(3)
    vae = WanVAE(WanVAEConfig(width=2, blocks_per_stage=1)).double().eval().requires_grad_(False)
    model = Recording(network)
    rollouts = list(
        make_rollouts(
            model,
            STEPS,
            noise,
            text(network),
            context(None),
            vae,
            blocks=[3, 3, 3],
            num_rollouts=2,
            overlap=6,
        )
    )
    one, two = rollouts
    assert torch.equal(two.latents[:, :6], two.start)
    assert torch.equal(two.start[:, 1:], one.latents[:, 4:])
    picture = one.pixels[:, -21][:, None]
    assert torch.equal(two.start[:, :1], vae.encode(picture)[0])
    assert [call for call in model.calls if call[2] == 0.0][3:] == [
        (0, 3, 0.0),
        (3, 3, 0.0),
        (6, 3, 0.0),
    ]
    assert torch.equal(anchored_latents(vae, one.latents, one.pixels, 6), two.start)


def test_overlaps_and_counts_that_cannot_be_are_refused(network):
    vae = WanVAE(WanVAEConfig(width=2, blocks_per_stage=1)).double()
    for overlap in (0, 2, 9):
        with pytest.raises(ValueError, match="leading blocks"):
            next(
                make_rollouts(
                    network,
                    STEPS,
                    noise,
                    text(network),
                    context(None),
                    vae,
                    blocks=[3, 3, 3],
                    num_rollouts=2,
                    overlap=overlap,
                )
            )
    with pytest.raises(ValueError, match="at least 2"):
        make_fragments(
            network, STEPS, noise, text(network), context(None), num_blocks=1, num_fragments=2
        )
