"""Decoding in a thread beside the steps of the next block: the same video, in less time."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from streamer.config import Config
from streamer.engine.decoding import DecodeThread
from streamer.engine.diffusion import DiffusionModel
from streamer.models.vae import DecoderState
from streamer.stream import (
    BlockTimings,
    Event,
    FrameBlock,
    Prompt,
    Reseed,
    Script,
    StreamSpec,
    Transition,
    TransitionKind,
    Truth,
)
from tests.engine.tiny_model import make_tiny_config

SPEC = StreamSpec("tiny", 7, 64, 64, 16)
NUM_STEPS = 4
RED = Prompt("a", "red balloon", None)
EVENTS: dict[int, list[Event]] = {
    0: [RED],
    2: [Prompt("b", "blue sea", Transition(TransitionKind.SWAP))],
    4: [Prompt("c", "night hills", Transition(TransitionKind.BLEND, 3))],
    8: [Prompt("d", "green snow", Transition(TransitionKind.CUT))],
    10: [Prompt("e", "red hills", Transition(TransitionKind.RECACHE))],
    12: [Reseed(11)],
    14: [Prompt("f", "blue snow", Transition(TransitionKind.SCENE))],
}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return make_tiny_config(
        tmp_path_factory.mktemp("beside"),
        stream={"window": 9, "sink": 3, "transition": {"kind": "swap"}},
        steps=(1000, 750, 500, 250),
    )


@pytest.fixture
def plain(config: Config) -> DiffusionModel:
    return DiffusionModel(config, lambda part, stage: None)


@pytest.fixture
def beside(config: Config) -> DiffusionModel:
    """The same model with two steps taken ahead."""
    model = DiffusionModel(config, lambda part, stage: None)
    model.decode_thread, model.num_ahead = DecodeThread(1, 1), 2
    return model


def play(
    model: DiffusionModel, count: int = 17, events: dict[int, list[Event]] | None = None
) -> list[FrameBlock]:
    stream = model.open(SPEC)
    events = EVENTS if events is None else events
    blocks = [stream.next_block(events.get(index, ())) for index in range(count)]
    stream.close()
    return blocks


def assert_same(some: Sequence[FrameBlock], others: Sequence[FrameBlock]) -> None:
    for one, other in zip(some, others, strict=True):
        assert (one.index, one.first_frame) == (other.index, other.first_frame)
        assert one.prompt_id == other.prompt_id
        assert np.array_equal(one.latents, other.latents), one.index
        assert np.array_equal(one.frames, other.frames), one.index


def test_frames_are_the_same_under_every_kind_of_event(
    plain: DiffusionModel, beside: DiffusionModel
):
    without, with_thread = play(plain), play(beside)
    assert_same(with_thread, without)
    assert not np.array_equal(without[2].frames, without[3].frames)  # the video does move


@pytest.mark.parametrize("num_ahead", [0, 3, 9])
def test_frames_are_the_same_however_many_steps_are_taken_ahead(
    plain: DiffusionModel, beside: DiffusionModel, num_ahead: int
):
    beside.num_ahead = num_ahead
    assert_same(play(beside, 6), play(plain, 6))


def test_a_restored_stream_goes_on_the_same(plain: DiffusionModel, beside: DiffusionModel):
    blocks = play(beside, 5, {0: [RED]})
    script = Script(SPEC)
    script.append(0, RED)
    frame = blocks[-1].first_frame + len(blocks[-1].frames)
    truth = Truth(script, 5, frame, tuple((each.index, each.latents) for each in blocks[2:]))
    streams = [model.restore(truth) for model in (beside, plain)]
    one, other = ([stream.next_block(()) for _ in range(3)] for stream in streams)
    assert one[0].index == 5
    assert_same(one, other)


def test_two_streams_by_turns_do_not_disturb_each_other(
    plain: DiffusionModel, beside: DiffusionModel
):
    alone = play(plain, 5, {0: [RED]})
    one, other = beside.open(SPEC), beside.open(StreamSpec("tiny", 8, 64, 64, 16))
    blocks = []
    for index in range(5):
        blocks.append(one.next_block([RED] if index == 0 else ()))
        other.next_block([RED] if index == 1 else ())
    assert_same(blocks, alone)


def test_figures_belong_to_the_block_whose_steps_they_are(beside: DiffusionModel):
    """Steps taken ahead are told with the block that they make, the clean pass with its own."""
    for block in play(beside):
        timings = block.timings
        assert len(timings.passes_ms) == NUM_STEPS + 1
        assert all(spent > 0 for spent in timings.passes_ms)
        assert timings.denoise_ms == pytest.approx(sum(timings.passes_ms))
        assert timings.decode_ms > 0


def test_no_step_is_taken_twice_and_a_change_waits_for_nothing(
    beside: DiffusionModel, monkeypatch: pytest.MonkeyPatch
):
    passes: list[int] = []
    decoders: list[str] = []
    decode = beside.decoder.decode

    def noted(latents: Tensor, state: DecoderState | None = None) -> tuple[Tensor, DecoderState]:
        decoders.append(threading.current_thread().name)
        return decode(latents, state)

    monkeypatch.setattr(beside.decoder, "decode", noted)
    beside.follow(lambda: passes.append(1))
    stream, counts = beside.open(SPEC), []
    for index in range(6):
        passes.clear()
        stream.next_block([RED] if index in (0, 3) else ())
        counts.append(len(passes))
    everything = NUM_STEPS + 1
    assert counts == [everything, everything + 2, everything, everything, everything + 2, 5]
    main = threading.current_thread().name
    assert [name == main for name in decoders] == [True, False, False, True, False, False]


def test_an_error_in_the_thread_surfaces_where_the_block_was_asked_for(
    beside: DiffusionModel, monkeypatch: pytest.MonkeyPatch
):
    stream = beside.open(SPEC)
    stream.next_block([RED])

    def broken(latents: Tensor, state: DecoderState | None = None) -> tuple[Tensor, DecoderState]:
        raise ZeroDivisionError(threading.current_thread().name)

    monkeypatch.setattr(beside.decoder, "decode", broken)
    with pytest.raises(ZeroDivisionError, match="decode"):
        stream.next_block(())


@pytest.fixture
def two_threads() -> Iterator[None]:
    usual = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(usual)


@pytest.mark.usefixtures("two_threads")
def test_each_side_has_its_share_of_the_cores_only_meanwhile():
    thread = DecodeThread(3, 1)
    with thread.beside():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    assert thread._pool.submit(torch.get_num_threads).result() == 3
    assert torch.get_num_threads() == 2


def test_a_stream_without_a_window_ends_where_it_would(config: Config, tmp_path: Path):
    section = config.stream.model_copy(update={"window": 0, "sink": 0})
    endless = config.model_copy(update={"stream": section})
    model = DiffusionModel(endless, lambda part, stage: None)
    model.decode_thread, model.num_ahead = DecodeThread(1, 1), 2
    stream = model.open(SPEC)
    stream._context.layout = type(stream._context.layout)(None, 0, 3, 9)
    assert [stream.next_block(()).index for _ in range(3)] == [0, 1, 2]
    with pytest.raises(Exception, match="is full after 9"):
        stream.next_block(())


def test_one_core_has_nothing_to_share(plain: DiffusionModel):
    assert plain.decode_thread is None
    assert plain.num_ahead == 0


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize(
    ("passes", "num_ahead"), [(0.5, None), (1.2, 1), (2.4, 2), (30.0, NUM_STEPS - 1)]
)
def test_steps_are_taken_ahead_as_far_as_the_decoder_takes(
    plain: DiffusionModel, passes: float, num_ahead: int | None
):
    """A long pass must not be made on half of the cores beside a decoder that is soon ready.

    passes: how many passes over a full window take as long as decoding does.
    """
    torch.set_num_threads(2)  # loading the model has set what its configuration says
    growth = plain._pass_flops() / plain._pass_flops(plain.stream.num_frame_per_block)
    assert growth > 1.0
    first_ms = 20.0
    plain._share_cores(
        BlockTimings(
            text_ms=0.0,
            denoise_ms=5 * first_ms,
            decode_ms=passes * growth * first_ms,
            total_ms=0.0,
            passes_ms=(3 * first_ms, *[first_ms] * 4),  # the very first one also prepares
            copy_ms=0.0,
        )
    )
    assert (plain.decode_thread is not None) == (num_ahead is not None)
    assert plain.num_ahead == (num_ahead or 0)
