"""Blocks whose first step ran with the clean pass of the block before are the same blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from streamer_kernels.attend_views import ViewTable
from torch import Tensor

from streamer.config import Config
from streamer.engine.diffusion import UNLIMITED_WINDOW_FRAMES, DiffusionModel
from streamer.errors import EngineError
from streamer.stream import (
    Event,
    FrameBlock,
    History,
    Prompt,
    Reseed,
    Script,
    StreamSpec,
    Transition,
    TransitionKind,
    Truth,
)
from tests.engine.tiny_model import make_tiny_config

SPEC = StreamSpec("tiny", 5, 64, 64, 16)
# Twelve blocks, each made of the one before, in float32 and in another order of sums.
ROUNDING = 2e-4
FIRST = Prompt("a", "red balloon over the hills", Transition(TransitionKind.SWAP))


def prompt(kind: TransitionKind, text: str = "blue night sea", blocks: int = 1) -> Prompt:
    return Prompt("b", text, Transition(kind, blocks))


def changed(config: Config, **model: Any) -> Config:
    assert config.model is not None
    return config.model_copy(update={"model": config.model.model_copy(update=model)})


def load(config: Config) -> DiffusionModel:
    return DiffusionModel(config, lambda part, stage: None)


@pytest.fixture(scope="module")
def fused_model(tiny_config: Config) -> DiffusionModel:
    return load(changed(tiny_config, fused=True))


def play(
    model: DiffusionModel, count: int, events: dict[int, Sequence[Event]] | None = None
) -> list[FrameBlock]:
    stream = model.open(SPEC)
    script = {0: [FIRST]} | (events or {})
    blocks = [stream.next_block(script.get(index, ())) for index in range(count)]
    stream.close()
    return blocks


def difference(blocks: list[FrameBlock], others: list[FrameBlock]) -> float:
    return max(
        float(np.abs(a.latents - b.latents).max()) for a, b in zip(blocks, others, strict=True)
    )


def test_a_processor_runs_one_block_at_a_time_unless_told(
    tiny_model: DiffusionModel, fused_model: DiffusionModel
):
    assert not tiny_model.is_fused
    assert tiny_model.new_context().spare_frames == 0
    assert fused_model.measure().is_fused


def test_the_blocks_are_the_same_with_a_pass_less(
    tiny_model: DiffusionModel, fused_model: DiffusionModel
):
    wanted, blocks = play(tiny_model, 12), play(fused_model, 12)
    assert difference(blocks, wanted) < ROUNDING
    assert [len(block.timings.passes_ms) for block in wanted] == [3] * 12
    assert [len(block.timings.passes_ms) for block in blocks] == [3] + [2] * 11


@pytest.mark.parametrize(
    "event",
    [
        prompt(TransitionKind.SWAP),
        prompt(TransitionKind.RECACHE),
        prompt(TransitionKind.CUT),
        prompt(TransitionKind.SCENE),
        prompt(TransitionKind.BLEND, blocks=3),
        Reseed(77),
    ],
    ids=["swap", "recache", "cut", "scene", "blend", "seed"],
)
@pytest.mark.parametrize("block", [1, 6])
def test_what_comes_after_the_first_step_still_takes_effect(
    tiny_model: DiffusionModel, fused_model: DiffusionModel, event: Event, block: int
):
    """The first step was taken under the old text and seed; it must not be seen."""
    wanted = play(tiny_model, block + 5, {block: [event]})
    blocks = play(fused_model, block + 5, {block: [event]})
    assert difference(blocks, wanted) < ROUNDING
    plain = play(tiny_model, block + 1)
    assert difference(plain[-1:], wanted[block : block + 1]) > 10 * ROUNDING
    # All steps of that block were taken anew, none of any other.
    assert [len(each.timings.passes_ms) for each in blocks[block + 1 :]] == [2] * 4
    assert len(blocks[block].timings.passes_ms) == 3


def test_a_blend_goes_on_in_the_first_step(fused_model: DiffusionModel):
    """The halves of a pass have different texts while a blend runs, and the same ones after it."""
    seen: list[int] = []
    flow = fused_model.flow
    stream = fused_model.open(SPEC)

    def counted(latents: Tensor, timestep: Tensor, text: Any, context: Any) -> Tensor:
        if latents.shape[1] == 6:
            seen.append(text.k.shape[1])
        return flow(latents, timestep, text, context)

    stream._seat.replayed._model = counted
    for index in range(6):
        blend = prompt(TransitionKind.BLEND, blocks=3)
        stream.next_block([FIRST] if index == 0 else [blend] if index == 2 else ())
    stream.close()
    assert seen == [1, 1, 2, 2, 1, 1]


def test_the_same_script_makes_the_same_pictures_to_the_bit(fused_model: DiffusionModel):
    events = {3: [prompt(TransitionKind.RECACHE)], 5: [Reseed(9)]}
    one, two = (play(fused_model, 8, events) for _ in range(2))
    for a, b in zip(one, two, strict=True):
        assert np.array_equal(a.frames, b.frames)


def test_a_restored_stream_begins_with_all_its_steps(fused_model: DiffusionModel):
    blocks = play(fused_model, 4)
    section = fused_model.stream
    history = History(section.window, section.sink)
    for block in blocks[:2]:
        history.add(block.index, block.latents)
    restored = fused_model.restore(Truth(Script(SPEC, [(0, FIRST)]), 2, 24, history.kept()))
    found = [restored.next_block(()) for _ in range(2)]
    assert difference(found, blocks[2:]) < ROUNDING


def test_a_stream_without_a_window_ends_at_the_same_block(tmp_path: Path):
    config = make_tiny_config(tmp_path, stream={"window": 0, "sink": 0})
    stream = load(changed(config, fused=True)).open(SPEC)
    for _ in range(UNLIMITED_WINDOW_FRAMES // 3):
        stream.next_block(())
    with pytest.raises(EngineError, match=r"set stream\.window"):
        stream.next_block(())
    assert stream.next_block((prompt(TransitionKind.CUT),)).index == 80


class Rerun:
    """Stands in for CUDA graphs: replays a call by making it again."""

    def __init__(self) -> None:
        self.replayed: list[int] = []

    def __call__(self, call: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        result = torch.empty_like(call())

        def replay() -> None:
            self.replayed.append(result.shape[1])
            result.copy_(call())

        return replay, result


def test_pairs_are_replayed_from_the_first_block_of_the_next_stream(
    tiny_config: Config, tiny_model: DiffusionModel, monkeypatch: pytest.MonkeyPatch
):
    # As of a kernel, which reads the views on the device.
    monkeypatch.setattr(ViewTable, "read", lambda table: table.views)
    model = load(changed(tiny_config, fused=True))
    model.recorder = recorder = Rerun()
    play(model, 6)
    recorder.replayed.clear()
    blocks = play(model, 6)
    assert recorder.replayed.count(6) == 6
    assert difference(blocks, play(tiny_model, 6)) < ROUNDING
