"""A model with Wan's own parts in the engine: decoders, text, solvers, recache, openings."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from streamer.config import Config
from streamer.driver import StreamDriver
from streamer.engine.diffusion import DiffusionModel
from streamer.engine.handle import Engine
from streamer.errors import ConfigError, PictureError
from streamer.models.tiny_vae import TAEW2_1, TinyVAE
from streamer.models.wan_vae import WanVAE
from streamer.offline import pictures_before
from streamer.stream import (
    Event,
    FrameBlock,
    History,
    Opening,
    Prompt,
    Reseed,
    Script,
    StreamSpec,
    Transition,
    TransitionKind,
    Truth,
    begins_anew,
)
from tests.engine.tiny_model import make_tiny_config, make_wan_config
from tests.fakes import pattern_config

SPEC = StreamSpec("tiny", 5, 64, 64, 16)
FIRST = Prompt("a", "red balloon over the hills")
SAME = 1e-5
"""Latents have unit size; equal computations in another order differ by float32 rounding."""


def quiet(part: float, stage: str) -> None:
    """Nobody listens."""


def prompt(kind: TransitionKind) -> Prompt:
    return Prompt("b", "blue night sea", Transition(kind))


def play(
    model: DiffusionModel, events: dict[int, Event], count: int, spec: StreamSpec = SPEC
) -> list[FrameBlock]:
    stream = model.open(spec)
    return [
        stream.next_block((events[index],) if index in events else ()) for index in range(count)
    ]


@pytest.fixture(scope="module")
def wan(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, DiffusionModel]:
    config = make_wan_config(tmp_path_factory.mktemp("wan"))
    return config, DiffusionModel(config, quiet)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> DiffusionModel:
    return DiffusionModel(make_tiny_config(tmp_path_factory.mktemp("tiny")), quiet)


def picture(level: int, frames: int = 1) -> NDArray[np.uint8]:
    rng = np.random.default_rng(level)
    noise = rng.integers(0, 60, (frames, 64, 64, 3))
    return (noise + level).astype(np.uint8)


def test_the_first_block_of_a_clip_is_three_pictures_shorter_and_a_cut_begins_a_clip(wan):
    config, model = wan
    events: dict[int, Event] = {0: FIRST, 2: prompt(TransitionKind.CUT), 4: Reseed(3)}
    blocks = play(model, events, 6)
    assert [len(block.frames) for block in blocks] == [9, 12, 9, 12, 9, 12]
    assert [block.first_frame for block in blocks] == [0, 9, 21, 30, 42, 51]
    script = Script(SPEC, sorted(events.items()))
    assert [pictures_before(config, script, b) for b in range(6)] == [0, 9, 21, 30, 42, 51]
    assert pictures_before(pattern_config(), script, 5) == 60
    assert blocks[0].frames.std() > 1.0


def test_the_text_steers(wan):
    _, model = wan
    one, two = (
        play(model, {0: Prompt("a", text)}, 1)[0].latents for text in ("red balloon", "blue sea")
    )
    assert np.abs(one - two).max() > 1e-4


def test_a_restored_stream_goes_on_and_its_decoder_remembers(wan):
    _, model = wan
    section = model.stream
    stream, history = model.open(SPEC), History(section.window, section.sink)
    script = Script(SPEC, [(0, FIRST)])
    for index in range(3):
        history.add(index, stream.next_block(script.at(index)).latents)
    restored = model.restore(Truth(script, 3, 33, history.kept()))
    one, two = stream.next_block(()), restored.next_block(())
    assert np.abs(one.latents - two.latents).max() < SAME
    assert one.frames.shape == two.frames.shape == (12, 64, 64, 3)
    assert np.abs(one.frames.astype(int) - two.frames.astype(int)).max() <= 1


@pytest.mark.parametrize("kind", ["lightvae", "taehv"])
def test_other_decoders_fit_the_same_latents(tmp_path: Path, kind: str):
    config = make_wan_config(tmp_path)
    if kind == "taehv":
        torch.save(TinyVAE(TAEW2_1).state_dict(), tmp_path / "taew2_1.pth")
        config = make_wan_config(
            tmp_path, decoder={"kind": kind, "weights": str(tmp_path / "taew2_1.pth")}
        )
    model = DiffusionModel(config, quiet)
    assert isinstance(model.decoder, TinyVAE if kind == "taehv" else WanVAE)
    assert [len(block.frames) for block in play(model, {0: FIRST}, 2)] == [9, 12]


def test_parked_text_and_sixteen_bits_make_nearly_the_same_picture(tmp_path: Path, wan):
    _, exact = wan
    parked = make_wan_config(tmp_path, text={"parked": True, "dtype": "float32"})
    plain = make_wan_config(tmp_path, text={"dtype": "float32"})
    one, two = (play(DiffusionModel(c, quiet), {0: FIRST}, 1)[0].latents for c in (parked, plain))
    assert np.array_equal(one, two)
    assert np.abs(one - play(exact, {0: FIRST}, 1)[0].latents).max() < 0.1


def test_the_unipc_solver_runs_a_list_as_it_is_and_refuses_a_warp(tmp_path: Path):
    config = make_wan_config(
        tmp_path, sampler={"solver": "unipc", "warp": False, "denoising_step_list": [999, 500, 74]}
    )
    model = DiffusionModel(config, quiet)
    assert model.steps.sigmas == (0.999, 0.5, 0.074)
    assert np.isfinite(play(model, {0: FIRST}, 2)[1].latents).all()
    with pytest.raises(ConfigError, match="set warp to false"):
        DiffusionModel(make_wan_config(tmp_path, sampler={"solver": "unipc"}), quiet)


def test_a_recache_together_differs_from_one_in_blocks_and_from_none(tmp_path: Path, tiny):
    """Before the window has rolled (2) and after, when the sinks keep their keys (4)."""
    config = make_tiny_config(tmp_path, stream={"recache_together": True})
    together = DiffusionModel(config, quiet)
    for change in (2, 4):
        made = [
            play(model, {0: FIRST, change: prompt(kind)}, change + 2)
            for model, kind in (
                (together, TransitionKind.RECACHE),
                (tiny, TransitionKind.RECACHE),
                (tiny, TransitionKind.SWAP),
            )
        ]
        for a, b in ((0, 1), (0, 2), (1, 2)):
            apart = max(
                float(np.abs(made[a][i].latents - made[b][i].latents).max())
                for i in (change, change + 1)
            )
            assert apart > 2 * SAME, (change, a, b)
        assert np.array_equal(made[0][change - 1].latents, made[1][change - 1].latents)


# ---- openings -----------------------------------------------------------------------------------


def opened(model: DiffusionModel, pictures: NDArray[np.uint8]) -> StreamSpec:
    return replace(SPEC, opening=Opening.of(model.encode(pictures)))


def test_a_picture_is_one_latent_frame_and_a_clip_whole_blocks(wan, tiny):
    _, model = wan
    for count, frames in ((1, 1), (4, 1), (5, 2), (9, 3), (16, 3), (21, 6), (33, 9), (80, 9)):
        assert len(model.encode(picture(40, count))) == frames, count
    for count, frames in ((1, 1), (4, 1), (12, 3), (23, 3), (36, 9), (80, 9)):
        assert len(tiny.encode(picture(40, count))) == frames, count


def test_the_end_of_a_clip_is_what_is_encoded(wan):
    _, model = wan
    clip = picture(90, 40)
    assert np.array_equal(model.encode(clip), model.encode(clip[-33:]))
    assert not np.array_equal(model.encode(clip), model.encode(clip[:33]))


@pytest.mark.parametrize("frames", [1, 21])
def test_a_stream_goes_on_from_its_opening(wan, frames: int):
    config, model = wan
    dark, light = (opened(model, picture(level, frames)) for level in (10, 190))
    made = [play(model, {0: FIRST}, 2, spec) for spec in (SPEC, dark, light)]
    assert np.abs(made[1][0].latents - made[2][0].latents).max() > 10 * SAME
    assert np.abs(made[0][0].latents - made[1][0].latents).max() > 10 * SAME
    assert [len(block.frames) for block in made[1]] == [12, 12]
    assert pictures_before(config, Script(dark, [(0, FIRST)]), 2) == 24


def test_a_picture_in_the_history_is_what_writing_its_latents_first_means(wan):
    """The first block sees the picture's keys under the first prompt, one frame before it."""
    _, model = wan
    spec = opened(model, picture(60))
    swapped = play(model, {0: Prompt("a", FIRST.text, Transition(TransitionKind.SWAP))}, 1, spec)
    recached = play(model, {0: FIRST}, 1, spec)
    assert np.array_equal(swapped[0].latents, recached[0].latents)


def test_a_cut_leaves_the_opening_behind(wan):
    _, model = wan
    events: dict[int, Event] = {0: FIRST, 2: prompt(TransitionKind.CUT)}
    plain, begun = play(model, events, 4), play(model, events, 4, opened(model, picture(60)))
    for a, b in zip(plain[2:], begun[2:], strict=True):
        assert np.abs(a.latents - b.latents).max() < SAME


def test_restore_and_a_script_that_was_written_and_read_keep_the_opening(wan):
    _, model = wan
    section = model.stream
    spec = opened(model, picture(60, 5))
    script = Script(spec, [(0, FIRST)])
    text = io.StringIO("".join(f"{line}\n" for line in script.lines()))
    assert Script.read(text).spec == spec
    history = History.of(spec, section.window, section.sink, section.num_frame_per_block)
    stream = model.open(spec)
    for index in range(5):
        events = script.at(index)
        if any(begins_anew(event) for event in events):
            history.restart()
        grown = stream.next_block(events)
        assert (index, len(grown.frames)) == (index, 12)
        if index in (1, 2):
            restored = model.restore(Truth(script, index, 12 * index, history.kept()))
            assert np.abs(restored.next_block(()).latents - grown.latents).max() < SAME
        history.add(index, grown.latents)
    assert [index for index, _ in history.kept()] == [-1, 0, 2, 3, 4]  # two blocks hold 3 sinks


def test_an_opening_of_another_model_is_refused(wan, tiny):
    _, model = wan
    with pytest.raises(ConfigError, match="begins with latents of"):
        model.open(opened(tiny, picture(60)))


async def test_pictures_travel_to_the_worker_and_back(tmp_path: Path):
    config = make_tiny_config(tmp_path)
    engine = Engine(config)
    try:
        await engine.start()
        opening = await engine.encode(picture(60))
        driver = StreamDriver(engine, replace(SPEC, opening=opening), config.stream)
        block = await driver.advance([FIRST])
    finally:
        await engine.close()
    model = DiffusionModel(config, quiet)
    here = play(model, {0: FIRST}, 1, opened(model, picture(60)))[0]
    assert np.abs(block.latents - here.latents).max() < SAME


async def test_colour_bars_cannot_begin_with_a_picture():
    engine = Engine(pattern_config())
    try:
        with pytest.raises(PictureError, match="colour bars"):
            await engine.encode(picture(60))
    finally:
        await engine.close()
