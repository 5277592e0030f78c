"""One pass over the clean pass of a block and the first step of the next = one after the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from streamer_kernels.attend_library import processor_flash
from streamer_kernels.attend_views import ViewTable
from torch import Tensor

from streamer.models.cache import RingLayout
from streamer.models.graph import ReplayedPass
from streamer.models.guidance import FlowModel
from streamer.models.rolling import Fill, RollingContext
from streamer.models.sampler import (
    DenoisingSteps,
    Model,
    block_noise,
    solve_block,
    write_and_begin,
    write_block,
)
from streamer.models.transformer import CausalWanTransformer, PromptKV, TransformerConfig

# Two layers of rounding in float64, through ten blocks that are made of each other.
ROUNDING = 1e-11
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
)
TOLD_TEXT = replace(
    CONFIG,
    learned_grid=(2, 3),
    pooled_text=True,
    text_canvas=16,
    canvas_frames=3,
    predicts_clean=True,
    carries=1,
)
STEPS = DenoisingSteps((1000.0, 500.0), (1.0, 0.5), "renoise")
SHAPE = (1, 3, 4, 4, 6)
NUM_BLOCKS = 9
CONTEXT_NOISE = 30.0


def draw_network(config: TransformerConfig = CONFIG) -> CausalWanTransformer:
    torch.manual_seed(0)
    network = CausalWanTransformer(config).double().requires_grad_(False)
    # A new network ends in zeros, which would hide everything.
    for parameter in network.parameters():
        parameter.normal_(std=0.15)
    return network


@pytest.fixture(scope="module")
def network() -> CausalWanTransformer:
    return draw_network()


def prompt(network: CausalWanTransformer, seed: int) -> PromptKV:
    generator = torch.Generator().manual_seed(seed)
    embeds = torch.randn(1, 3, network.config.text_width, generator=generator, dtype=torch.float64)
    return network.encode_text(embeds)


def make_context(
    window: int | None,
    sink: int,
    batch: int = 1,
    config: TransformerConfig = CONFIG,
    **options: Any,
) -> RollingContext:
    layout = RingLayout(window, sink, block=3, capacity=3 * NUM_BLOCKS)
    shape = config.cache_shape(4, 6, batch)
    return RollingContext(shape, layout, dtype=torch.float64, spare_frames=3, **options)


def noise(block: int) -> Callable[[int], Tensor]:
    return lambda draw: block_noise(7, block, draw, SHAPE, dtype=torch.float64)


def one_after_the_other(
    model: Model, texts: list[PromptKV], context: RollingContext
) -> list[Tensor]:
    blocks = []
    for block, text in enumerate(texts):
        blocks.append(solve_block(model, STEPS, noise(block), text, context).clean)
        write_block(model, blocks[-1], text, context, CONTEXT_NOISE)
    return blocks


def in_pairs(model: Model, texts: list[PromptKV], context: RollingContext) -> list[Tensor]:
    blocks, begun = [], None
    for block, text in enumerate(texts):
        clean = solve_block(model, STEPS, noise(block), text, context, begun).clean
        blocks.append(clean)
        later = texts[min(block + 1, len(texts) - 1)]
        both = text if later is text else text.beside(later)
        start = noise(block + 1)(0)
        begun = write_and_begin(
            model, clean, start, STEPS.timesteps[0], both, context, CONTEXT_NOISE
        )
    return blocks


def assert_same(blocks: list[Tensor], wanted: list[Tensor], atol: float = ROUNDING) -> None:
    assert wanted[-1].std() > 0.1
    for found, right in zip(blocks, wanted, strict=True):
        torch.testing.assert_close(found, right, rtol=0, atol=atol)


# Without eviction, wrapped many times, not aligned to blocks, sinks wider than a block, a window of
# one block, no window.
@pytest.mark.parametrize("absolute", [False, True], ids=["relative", "absolute"])
@pytest.mark.parametrize(
    ("window", "sink"), [(30, 1), (6, 0), (9, 3), (7, 2), (10, 4), (3, 0), (None, 2)]
)
def test_pairs_make_the_blocks_of_single_passes(
    network: CausalWanTransformer, window: int | None, sink: int, absolute: bool
) -> None:
    first, second = prompt(network, 1), prompt(network, 2)
    texts = [first] * 4 + [second] * (NUM_BLOCKS - 4)
    contexts = [make_context(window, sink, absolute_positions=absolute) for _ in range(2)]
    wanted = one_after_the_other(network, texts, contexts[0])
    assert_same(in_pairs(network, texts, contexts[1]), wanted)
    for layer in range(CONFIG.num_layers):
        for found, right in zip(
            contexts[1].in_order(layer), contexts[0].in_order(layer), strict=True
        ):
            torch.testing.assert_close(found, right, rtol=0, atol=ROUNDING)


def test_each_half_reads_its_own_text_in_every_form() -> None:
    """Keys, the pooled text and the canvas; a text for all would not do."""
    network = draw_network(TOLD_TEXT)
    texts = [prompt(network, seed) for seed in range(NUM_BLOCKS)]
    wanted = one_after_the_other(network, texts, make_context(9, 1, config=TOLD_TEXT))
    assert_same(in_pairs(network, texts, make_context(9, 1, config=TOLD_TEXT)), wanted)
    wrong = one_after_the_other(
        network, [texts[0], *texts[:-1]], make_context(9, 1, config=TOLD_TEXT)
    )
    assert (wrong[1] - wanted[1]).abs().max() > 1e-3


def test_with_guidance_both_samples_have_their_own_pair(network: CausalWanTransformer) -> None:
    model = FlowModel(network, scale=3.0)
    embeds = torch.randn(
        4, 1, 3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(4)
    )
    first, second = (model.encode_text(*embeds[i : i + 2]) for i in (0, 2))
    texts = [first] * 3 + [second] * 3
    wanted = one_after_the_other(model, texts, make_context(7, 1, batch=2))
    assert_same(in_pairs(model, texts, make_context(7, 1, batch=2)), wanted)


def test_the_next_block_sees_the_clean_keys_and_the_first_nothing_of_it(
    network: CausalWanTransformer,
) -> None:
    """The power of the comparison: other noise moves the second half only."""
    text, flows, keys = prompt(network, 1), [], []
    for clean_seed, noise_seed in ((1, 2), (1, 3), (4, 2)):
        context = make_context(7, 1)
        for seed in (8, 9):
            write_block(network, draw(seed), text, context)
        flows.append(
            write_and_begin(network, draw(clean_seed), draw(noise_seed), 1000.0, text, context)
        )
        keys.append(context.in_order(1)[0])
    assert torch.equal(keys[0], keys[1])
    assert (flows[0] - flows[1]).abs().max() > 1e-2
    assert (flows[0] - flows[2]).abs().max() > 1e-3


def draw(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(SHAPE, generator=generator, dtype=torch.float64)


def test_a_first_step_that_is_not_wanted_leaves_a_clean_history(
    network: CausalWanTransformer,
) -> None:
    """A prompt came meanwhile: the next block begins with all its steps, under the new text."""
    first, second = prompt(network, 1), prompt(network, 2)
    plain, paired = make_context(7, 2), make_context(7, 2)
    wanted = one_after_the_other(network, [first] * 4, plain)
    assert_same(in_pairs(network, [first] * 4, paired), wanted)
    blocks = [
        solve_block(network, STEPS, noise(4), second, context).clean for context in (plain, paired)
    ]
    assert_same(blocks[1:], blocks[:1])


def test_a_pass_over_two_blocks_without_room_is_refused(network: CausalWanTransformer) -> None:
    layout = RingLayout(7, 1)
    context = RollingContext(CONFIG.cache_shape(4, 6), layout, dtype=torch.float64)
    with pytest.raises(ValueError, match="3 frames does not fit 0 spare frames"):
        context.begin_pair(3)


class Rerun:
    """Stands in for a CUDA graph: replays a call by making it again, into one fixed tensor."""

    def __init__(self) -> None:
        self.replayed: list[torch.Size] = []

    def __call__(self, call: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        result = call()

        def replay() -> None:
            self.replayed.append(result.shape)
            result.copy_(call())

        return replay, result


@pytest.mark.parametrize("reads_host", [True, False], ids=["library", "kernel"])
def test_replayed_pairs_are_the_pairs(
    network: CausalWanTransformer, monkeypatch: pytest.MonkeyPatch, reads_host: bool
) -> None:
    """An attention that takes its views from the host cannot be replayed for others of them."""
    text = prompt(network, 1)
    wanted = one_after_the_other(network, [text] * NUM_BLOCKS, make_context(9, 3))
    ops = network.blocks[0].ops
    if reads_host:
        ops = replace(ops, attend_views=processor_flash().attend_views)
    else:
        # As a kernel does it, which reads the table on the device.
        monkeypatch.setattr(ViewTable, "read", lambda table: table.views)
    context, recorder = make_context(9, 3, ops=ops), Rerun()
    replayed = ReplayedPass(network, text, context, recorder)
    # A library tells its log-sums in float32.
    rounding = 1e-5 if reads_host else ROUNDING
    assert_same(in_pairs(replayed, [text] * NUM_BLOCKS, context), wanted, rounding)
    pairs = [key[2] for key, each in replayed._recorded.items() if key[2].num_ahead and each.replay]
    # Until sinks move, and from then on: two kinds, and one pass of each that is not replayed.
    assert pairs == ([] if reads_host else [Fill(3, 3, 0, False), Fill(3, 3, 0, True)])
    num_pairs = sum(shape[1] == 6 for shape in recorder.replayed)
    assert num_pairs == (0 if reads_host else NUM_BLOCKS - 2)


def test_everything_that_a_pair_reads_stays_where_it_is(network: CausalWanTransformer) -> None:
    context, text = make_context(9, 1), prompt(network, 1)
    addresses: dict[bool, set[tuple[int, ...]]] = {}
    for block in range(8):
        write_and_begin(network, draw(block), draw(block + 1), 1000.0, text, context)
        context.begin_pair(3)
        place = context.place(1)
        sinks = [] if place.sink_table is None else [place.sink_table]
        table = context._tables[3, context.fill.is_shifted].spans
        rotary = context.rotary(6, 2, 3, torch.zeros(1, 36, 2, 24))
        tensors = (table, rotary, place.ring_k, place.ring_v, place.slots, *sinks)
        key = context.fill.is_shifted
        addresses.setdefault(key, set()).add(tuple(each.data_ptr() for each in tensors))
    assert set(addresses) == {False, True}
    assert all(len(found) == 1 for found in addresses.values())
