"""Replaying recorded passes = running them; and a pass that could not be recorded is found here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from streamer.models.cache import RingLayout
from streamer.models.graph import Recorder, ReplayedPass
from streamer.models.guidance import FlowModel
from streamer.models.rolling import RollingContext
from streamer.models.sampler import DenoisingSteps, block_noise, denoise_block
from streamer.models.transformer import CausalWanTransformer, PromptKV, TransformerConfig

CONFIG = TransformerConfig(
    width=32,
    num_heads=2,
    ffn_width=48,
    num_layers=2,
    in_channels=4,
    out_channels=4,
    text_width=8,
    text_length=5,
    freq_width=16,
)
STEPS = DenoisingSteps((1000.0, 500.0), (1.0, 0.5), "renoise")
SHAPE = (1, 3, 4, 4, 6)


class Rerun:
    """Stands in for a CUDA graph: replays a call by making it again, into one fixed tensor.

    Like a graph it reads only what lies at the addresses that it was recorded with: a call with
    other tensors is not seen.
    """

    def __init__(self) -> None:
        self.num_recorded = self.num_replayed = 0

    def __call__(self, call: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        self.num_recorded += 1
        result = torch.full(SHAPE, torch.nan)

        def replay() -> None:
            self.num_replayed += 1
            result.copy_(call())

        return replay, result


def refuse(call: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    raise RuntimeError("operation not permitted when stream is capturing\nand more")


@pytest.fixture(scope="module")
def flow() -> FlowModel:
    torch.manual_seed(0)
    return FlowModel(CausalWanTransformer(CONFIG).eval().requires_grad_(False))


def make_context(sink: int = 1) -> RollingContext:
    return RollingContext(CONFIG.cache_shape(4, 6), RingLayout(7, sink))


def make_prompt(flow: FlowModel, seed: int = 1) -> PromptKV:
    generator = torch.Generator().manual_seed(seed)
    return flow.encode_text(torch.randn(1, 3, CONFIG.text_width, generator=generator))


def make_blocks(
    flow: FlowModel, recorder: Recorder | None, count: int
) -> tuple[list[Tensor], ReplayedPass]:
    context, prompt = make_context(), make_prompt(flow)
    replayed = ReplayedPass(flow, prompt, context, recorder)
    blocks = []
    for block in range(count):
        if block == 5:
            prompt.copy_(make_prompt(flow, seed=2))
        blocks.append(
            denoise_block(
                replayed,
                STEPS,
                lambda draw, b=block: block_noise(7, b, draw, SHAPE),
                prompt,
                context,
            )
        )
    return blocks, replayed


def test_replayed_blocks_are_the_blocks(flow: FlowModel):
    recorder = Rerun()
    wanted, _ = make_blocks(flow, None, 8)
    blocks, replayed = make_blocks(flow, recorder, 8)
    for block, right in zip(blocks, wanted, strict=True):
        assert torch.equal(block, right)
    # 3 and 6 frames seen, 7 with the first evictions: three kinds; of 24 passes one each is eager.
    assert (recorder.num_recorded, replayed.num_recorded) == (3, 3)
    assert recorder.num_replayed == 24 - 3


def test_the_first_pass_of_a_kind_is_never_recorded(flow: FlowModel):
    recorder = Rerun()
    context, prompt = make_context(), make_prompt(flow)
    replayed = ReplayedPass(flow, prompt, context, recorder)
    context.begin(3)
    told = torch.full((1,), 500.0)
    replayed(torch.zeros(SHAPE), told, prompt, context)
    assert recorder.num_recorded == 0
    replayed(torch.zeros(SHAPE), told, prompt, context)
    assert recorder.num_recorded == 1


def test_a_pass_that_cannot_be_recorded_runs_and_says_why(
    flow: FlowModel, caplog: pytest.LogCaptureFixture
):
    wanted, _ = make_blocks(flow, None, 4)
    blocks, replayed = make_blocks(flow, refuse, 4)
    assert all(torch.equal(a, b) for a, b in zip(blocks, wanted, strict=True))
    assert replayed.num_recorded == 0
    told = [record for record in caplog.records if "graph_failed" in record.getMessage()]
    assert len(told) == 1
    assert "operation not permitted when stream is capturing" in told[0].getMessage()


def test_another_prompt_or_context_is_not_replayed(flow: FlowModel):
    recorder = Rerun()
    context, prompt = make_context(), make_prompt(flow)
    replayed = ReplayedPass(flow, prompt, context, recorder)
    other = make_prompt(flow, seed=2)
    context.begin(3)
    told, latents = torch.full((1,), 500.0), torch.ones(SHAPE)
    for _ in range(3):
        result = replayed(latents, told, other, context)
    assert recorder.num_recorded == 0
    assert torch.equal(result, flow(latents, told, other, context))


class NoWayBack(TorchDispatchMode):
    """Fails on whatever makes the host wait for the device, or carries numbers to it."""

    FORBIDDEN = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal.default")

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        if any(name in str(func) for name in self.FORBIDDEN):
            raise AssertionError(f"{func} reads from the device")
        return func(*args, **(kwargs or {}))


def test_the_check_for_reads_from_the_device_can_fail():
    with pytest.raises(AssertionError, match="reads from the device"), NoWayBack():
        torch.ones(1).item()


@pytest.mark.parametrize("sink", [0, 1])
def test_no_pass_reads_from_the_device(flow: FlowModel, sink: int):
    context, prompt = make_context(sink), make_prompt(flow)
    for block in range(4):
        noises = [block_noise(7, block, draw, SHAPE) for draw in range(2)]
        with NoWayBack():
            denoise_block(flow, STEPS, noises.__getitem__, prompt, context)


def test_everything_that_a_pass_reads_stays_where_it_is(flow: FlowModel):
    context, prompt = make_context(), make_prompt(flow)
    addresses: dict[tuple[int, int, bool], set[tuple[int, ...]]] = {}
    for _ in range(8):
        context.begin(3)
        table = context.rotary(3, 2, 3, torch.zeros(1, 18, 2, 16))
        place = context.place(1)
        sinks = [] if place.sink_table is None else [place.sink_table]
        tensors = (table, place.ring_k, place.ring_v, place.slots, prompt.k, prompt.v, *sinks)
        addresses.setdefault(context.fill, set()).add(tuple(t.data_ptr() for t in tensors))
        flow(torch.zeros(SHAPE), torch.full((1,), 0.0), prompt, context)
        context.commit()
        prompt.copy_(make_prompt(flow, seed=3))
    assert len(addresses) == 3
    assert all(len(found) == 1 for found in addresses.values())
