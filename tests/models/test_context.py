"""The specification of the contexts: rolling = one masked pass over the clip = unrolled."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from streamer.models.cache import RingLayout
from streamer.models.context import (
    BlockCausalContext,
    FullContext,
    StreamingContext,
    UnrolledContext,
)
from streamer.models.rolling import RollingContext
from streamer.models.rotary import axis_channels
from streamer.models.transformer import CausalWanTransformer, PromptKV, TransformerConfig

# Eight layers of rounding in float64; a wrong frame or position moves the result by more than 1e-3.
ROUNDING = 1e-12
HEIGHT, WIDTH = 4, 6
CONFIG = TransformerConfig(
    width=48,
    num_heads=2,
    ffn_width=64,
    num_layers=2,
    in_channels=4,
    out_channels=4,
    text_width=8,
    text_length=5,
    freq_width=16,
    predicts_clean=True,
    carries=1,  # layers and copies
)
# (window, sink, blocks): without eviction, wrapped once and several times, not aligned to blocks,
# uneven blocks, sinks that are wider than a block, no window at all.
CASES = [
    (None, 0, (3, 3, 3)),
    (None, 2, (1, 3, 3)),
    (6, 0, (3, 3, 3, 3)),
    (6, 1, (3, 3, 3, 3, 3)),
    (7, 2, (3, 3, 3, 3)),
    (9, 4, (3, 3, 3, 3, 3)),
    (4, 3, (1, 1, 1, 1, 1, 1, 1)),
    (5, 1, (1, 3, 3, 2, 3)),
    (3, 0, (3, 3, 3)),
]


@pytest.fixture(scope="module")
def network() -> CausalWanTransformer:
    torch.manual_seed(0)
    return CausalWanTransformer(CONFIG).double().requires_grad_(False)


@pytest.fixture(scope="module")
def prompt(network: CausalWanTransformer) -> PromptKV:
    return network.encode_text(torch.randn(2, 3, CONFIG.text_width, dtype=torch.float64))


def make_clip(num_frames: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Latents [2, F, C, H, W] and one timestep per frame, equal inside no block."""
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(2, num_frames, 4, HEIGHT, WIDTH, dtype=torch.float64, generator=generator)
    return latents, torch.rand(2, num_frames, dtype=torch.float64, generator=generator) * 1000


def make_layout(window: int | None, sink: int, blocks: tuple[int, ...]) -> RingLayout:
    return RingLayout(window, sink, block=1, capacity=sum(blocks))


def make_rolling(
    layout: RingLayout, first_frame: int = 0, absolute: bool = False
) -> RollingContext:
    return RollingContext(
        CONFIG.cache_shape(HEIGHT, WIDTH, batch=2),
        layout,
        dtype=torch.float64,
        first_frame=first_frame,
        absolute_positions=absolute,
    )


def stream(
    network: CausalWanTransformer,
    prompt: PromptKV,
    context: StreamingContext,
    blocks: tuple[int, ...],
    clip: tuple[Tensor, Tensor],
) -> Tensor:
    """One pass for each block, in order."""
    flows = []
    for latents, timestep in zip(clip[0].split(blocks, 1), clip[1].split(blocks, 1), strict=True):
        context.begin(latents.shape[1])
        flows.append(network(latents, timestep, prompt, context))
        context.commit()
    return torch.cat(flows, dim=1)


@dataclass
class MaskedContext:
    """The rule written out: a dense mask over the clip, keys rotated anew for every block.

    Independent of the contexts and the rotary tables under test: it takes unrotated queries and
    keys.
    """

    window: int | None
    sink: int
    blocks: tuple[int, ...]
    absolute: bool = False
    grid: tuple[int, int] = field(default=(0, 0), init=False)

    def rotary(self, num_frames: int, rows: int, columns: int, q: Tensor) -> Tensor:
        self.grid = (rows, columns)
        identity = torch.tensor([1.0, 0.0], dtype=torch.float64)
        return identity.expand(num_frames * rows * columns, q.shape[-1] // 2, 2).contiguous()

    def angles(self, frames: list[int], head_width: int) -> Tensor:
        angles = []
        for frame in frames:
            for row in range(self.grid[0]):
                for column in range(self.grid[1]):
                    token = []
                    for position, n in zip(
                        (frame, row, column), axis_channels(head_width), strict=True
                    ):
                        token += [position * 10000.0 ** (-2 * i / n) for i in range(n // 2)]
                    angles.append(token)
        return torch.tensor(angles, dtype=torch.float64)

    def turn(self, x: Tensor, frames: list[int]) -> Tensor:
        angles = self.angles(frames, x.shape[-1])[:, None]
        even, odd = x[..., 0::2], x[..., 1::2]
        turned = [
            even * angles.cos() - odd * angles.sin(),
            even * angles.sin() + odd * angles.cos(),
        ]
        return torch.stack(turned, dim=-1).flatten(-2)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        tokens, total = self.grid[0] * self.grid[1], sum(self.blocks)
        results, first = [], 0
        for count in self.blocks:
            end = first + count
            gone = max(0, end - self.window) if self.window else 0
            seen = [f < end and (f < self.sink or f >= self.sink + gone) for f in range(total)]
            moved = [f + gone if f < self.sink and not self.absolute else f for f in range(total)]
            query = self.turn(q[:, first * tokens : end * tokens], list(range(first, end)))
            scores = torch.einsum("bnad,bmad->banm", query, self.turn(k, moved)) / math.sqrt(
                q.shape[-1]
            )
            mask = torch.tensor(seen).repeat_interleave(tokens)
            weights = scores.masked_fill(~mask, -math.inf).softmax(dim=-1)
            results.append(torch.einsum("banm,bmad->bnad", weights, v))
            first = end
        return torch.cat(results, dim=1)


@pytest.mark.parametrize("absolute", [False, True], ids=["relative", "absolute"])
@pytest.mark.parametrize(("window", "sink", "blocks"), CASES)
def test_rolling_masked_and_unrolled_agree(
    network: CausalWanTransformer,
    prompt: PromptKV,
    window: int | None,
    sink: int,
    blocks: tuple[int, ...],
    absolute: bool,
) -> None:
    clip, layout = make_clip(sum(blocks)), make_layout(window, sink, blocks)
    expected = network(*clip, prompt, MaskedContext(window, sink, blocks, absolute))
    whole = network(*clip, prompt, BlockCausalContext(blocks, layout, absolute_positions=absolute))
    rolling = stream(network, prompt, make_rolling(layout, absolute=absolute), blocks, clip)
    unrolled = UnrolledContext(CONFIG.num_caches, layout, absolute_positions=absolute)
    torch.testing.assert_close(whole, expected, rtol=0, atol=ROUNDING)
    torch.testing.assert_close(rolling, expected, rtol=0, atol=ROUNDING)
    torch.testing.assert_close(
        stream(network, prompt, unrolled, blocks, clip), expected, rtol=0, atol=ROUNDING
    )


def test_sinks_stay_near_or_at_their_true_distance(
    network: CausalWanTransformer, prompt: PromptKV
) -> None:
    blocks, layout = (3, 3, 3, 3), RingLayout(6, 1)
    clip = make_clip(12)
    near = stream(network, prompt, make_rolling(layout), blocks, clip)
    true = stream(network, prompt, make_rolling(layout, absolute=True), blocks, clip)
    # Until the first eviction (frame 6) the two are the same thing; then they are not.
    torch.testing.assert_close(near[:, :6], true[:, :6], rtol=0, atol=ROUNDING)
    assert (near[:, 6:] - true[:, 6:]).abs().max() > 1e-3


@pytest.mark.parametrize(("window", "sink", "blocks"), CASES[3:6])
def test_a_noisy_block_sees_clean_history_as_in_serving(
    network: CausalWanTransformer,
    prompt: PromptKV,
    window: int,
    sink: int,
    blocks: tuple[int, ...],
) -> None:
    layout, total = make_layout(window, sink, blocks), sum(blocks)
    clean, noisy = make_clip(total, seed=2)[0], make_clip(total, seed=3)[0]
    timestep = make_clip(total)[1]
    told = torch.cat([torch.zeros_like(timestep), timestep], dim=1)
    both = BlockCausalContext(blocks, layout, teacher_forcing=True)
    forced = network(torch.cat([clean, noisy], dim=1), told, prompt, both)[:, total:]
    context, start = make_rolling(layout), 0
    for count in blocks:
        here = slice(start, start + count)
        context.begin(count)
        served = network(noisy[:, here], timestep[:, here], prompt, context)
        torch.testing.assert_close(served, forced[:, here], rtol=0, atol=ROUNDING)
        network(clean[:, here], torch.zeros_like(timestep[:, here]), prompt, context)
        context.commit()
        start += count


def test_every_pass_of_a_block_overwrites_the_same_slots(
    network: CausalWanTransformer, prompt: PromptKV
) -> None:
    blocks, layout = (3, 3, 3, 3), RingLayout(6, 1)
    clip = make_clip(12)
    once = stream(network, prompt, make_rolling(layout), blocks, clip)
    context, flows = make_rolling(layout), []
    for latents, timestep in zip(clip[0].split(3, 1), clip[1].split(3, 1), strict=True):
        context.begin(3)
        network(torch.randn_like(latents), timestep, prompt, context)
        context.begin(3)
        flows.append(network(latents, timestep, prompt, context))
        context.commit()
    torch.testing.assert_close(torch.cat(flows, dim=1), once, rtol=0, atol=0)


@pytest.mark.parametrize("first_frame", [1_000, 1_000_000_000])
def test_positions_have_no_limit(
    network: CausalWanTransformer, prompt: PromptKV, first_frame: int
) -> None:
    blocks, layout = (3, 3, 3, 3, 3), RingLayout(6, 1)
    clip = make_clip(15)
    early = stream(network, prompt, make_rolling(layout), blocks, clip)
    late = stream(network, prompt, make_rolling(layout, first_frame), blocks, clip)
    # The angle of a far position is rounded to first_frame * 1e-16.
    torch.testing.assert_close(late, early, rtol=0, atol=1e-11 + first_frame * 1e-14)


def test_a_reset_context_starts_a_new_stream(
    network: CausalWanTransformer, prompt: PromptKV
) -> None:
    blocks, context = (3, 3, 3), make_rolling(RingLayout(6, 1))
    clip = make_clip(9)
    first = stream(network, prompt, context, blocks, clip)
    stream(network, prompt, context, blocks, make_clip(9, seed=9))
    context.reset()
    torch.testing.assert_close(
        stream(network, prompt, context, blocks, clip), first, rtol=0, atol=0
    )


def test_the_cache_never_moves(network: CausalWanTransformer, prompt: PromptKV) -> None:
    context = make_rolling(RingLayout(6, 1))
    addresses = (context.k.data_ptr(), context.v.data_ptr())
    stream(network, prompt, context, (3, 3, 3, 3), make_clip(12))
    assert (context.k.data_ptr(), context.v.data_ptr()) == addresses
    keys, values = context.in_order(0)
    assert keys.shape == values.shape == (2, 6 * 6, CONFIG.num_heads, CONFIG.head_width)


def roll_out_with_gradients(network: CausalWanTransformer, prompt: PromptKV) -> list[Tensor | None]:
    """Noisy passes with gradients, clean passes without, for four blocks; one backward for all.

    Gradients of the noisy inputs, then of a key projection.
    """
    context = UnrolledContext(CONFIG.num_caches, RingLayout(6, 1))
    clean, timestep = make_clip(12)
    noisy = [latents.clone().requires_grad_() for latents in make_clip(12, seed=5)[0].split(3, 1)]
    losses = []
    for latents, history in zip(noisy, clean.split(3, 1), strict=True):
        context.begin(3)
        losses.append(network(latents, timestep[:, :3], prompt, context).square().sum())
        with torch.no_grad():
            network(history, torch.zeros_like(timestep[:, :3]), prompt, context)
        context.commit()
    weight = network.blocks[0].self_attn.k.weight
    return list(torch.autograd.grad(torch.stack(losses).sum(), [*noisy, weight]))


def test_layers_recomputed_after_later_blocks_give_the_same_gradients(prompt: PromptKV) -> None:
    torch.manual_seed(0)
    network = CausalWanTransformer(CONFIG).double()
    kept = roll_out_with_gradients(network, prompt)
    network.gradient_checkpointing = True
    for recomputed, expected in zip(roll_out_with_gradients(network, prompt), kept, strict=True):
        assert expected.abs().max() > 0
        torch.testing.assert_close(recomputed, expected, rtol=0, atol=1e-10)


def test_gradients_stop_at_the_history(prompt: PromptKV) -> None:
    network = CausalWanTransformer(CONFIG).double()
    context = UnrolledContext(CONFIG.num_caches, RingLayout(6, 1))
    clip, timestep = make_clip(12)
    inputs = [latents.clone().requires_grad_() for latents in clip.split(3, 1)]
    for latents in inputs:
        context.begin(3)
        flow = network(latents, timestep[:, :3], prompt, context)
        context.commit()
    flow.square().sum().backward()
    assert [latents.grad is not None for latents in inputs] == [False, False, False, True]


def test_block_causal_gradients_equal_those_of_the_dense_mask(
    network: CausalWanTransformer, prompt: PromptKV
) -> None:
    blocks, (latents, timestep) = (3, 3, 3, 3), make_clip(12)
    gradients = []
    for context in (
        BlockCausalContext(blocks, RingLayout(7, 2)),
        MaskedContext(7, 2, blocks),
    ):
        leaf = latents.clone().requires_grad_()
        network(leaf, timestep, prompt, context).square().sum().backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=1e-10)


def test_full_context_does_not_see_padding_frames(
    network: CausalWanTransformer, prompt: PromptKV
) -> None:
    latents, timestep = make_clip(3)
    other = latents.clone()
    other[1, 2] += 5.0
    told = timestep[:, 0]
    flows = [network(x, told, prompt, FullContext(valid_frames=(3, 2))) for x in (latents, other)]
    torch.testing.assert_close(flows[0][1, :2], flows[1][1, :2], rtol=0, atol=0)
    alone = network(
        latents[1:, :2], told[1:], PromptKV(prompt.k[:, 1:], prompt.v[:, 1:]), FullContext()
    )
    torch.testing.assert_close(flows[0][1:, :2], alone, rtol=0, atol=ROUNDING)


def test_rolling_refuses_to_cut_a_gradient(prompt: PromptKV) -> None:
    network, context = CausalWanTransformer(CONFIG).double(), make_rolling(RingLayout(6))
    context.begin(3)
    latents, timestep = make_clip(3)
    with pytest.raises(RuntimeError, match="UnrolledContext"):
        network(latents, timestep, prompt, context)


@pytest.mark.parametrize("kind", ["rolling", "unrolled", "whole"])
def test_a_pass_of_another_length_is_refused(
    network: CausalWanTransformer, prompt: PromptKV, kind: str
) -> None:
    rolling, unrolled = make_rolling(RingLayout(6)), UnrolledContext(2, RingLayout(6))
    rolling.begin(3)
    unrolled.begin(3)
    contexts = {
        "rolling": rolling,
        "unrolled": unrolled,
        "whole": BlockCausalContext((3,), RingLayout(6)),
    }
    with pytest.raises(ValueError, match="2 frames"):
        network(*make_clip(2), prompt, contexts[kind])


def test_commit_needs_a_block(network: CausalWanTransformer) -> None:
    with pytest.raises(RuntimeError, match="begin"):
        make_rolling(RingLayout(6)).commit()
    unrolled = UnrolledContext(2, RingLayout(6))
    unrolled.begin(3)
    with pytest.raises(RuntimeError, match="layer 0"):
        unrolled.commit()
