"""A stream that goes on with a smaller decoder or fewer steps, and back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from streamer.config import Config
from streamer.driver import StreamDriver
from streamer.engine.diffusion import DiffusionModel
from streamer.engine.handle import Engine
from streamer.errors import ConfigError
from streamer.models import decoders
from streamer.models.tiny_vae import TAEW2_1, TinyVAE
from streamer.offline import render, score_from_script
from streamer.stream import (
    Economy,
    FrameBlock,
    Prompt,
    Reseed,
    Script,
    StreamSpec,
    Transition,
    TransitionKind,
    Truth,
)
from tests.engine.test_diffusion import FIRST, SPEC, Played
from tests.engine.tiny_model import _write_decoder, make_tiny_config, make_wan_config

SMALL, FEW, BOTH = Economy(decoder=True), Economy(steps=True), Economy(True, True)
NONE = Economy()


def thrifty(folder: Path) -> Config:
    """The tiny model with another decoder for the same latents, and a list of one step."""
    config = make_tiny_config(folder)
    torch.manual_seed(9)
    _write_decoder(folder / "small", 4)
    tree = config.model_dump(mode="json")
    tree["model"]["small_decoder"] = {"weights": str(folder / "small")}
    tree["model"]["sampler"]["reduced_step_list"] = [1000]
    return Config.model_validate(tree)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return thrifty(tmp_path_factory.mktemp("thrifty"))


@pytest.fixture(scope="module")
def model(config: Config) -> DiffusionModel:
    return DiffusionModel(config, lambda part, stage: None)


def always(model: DiffusionModel, played: Played, economy: Economy) -> list[FrameBlock]:
    """Three blocks of a stream from the same state that had this setting from the first."""
    events = [(block, e) for block, e in played.script.events if not isinstance(e, Economy)]
    script = Script(SPEC, [(0, economy), *events])
    first_frame = sum(len(block.frames) for block in played.blocks)
    truth = Truth(script, len(played.blocks), first_frame, played.history.kept())
    stream = model.restore(truth)
    return [stream.next_block(()) for _ in range(3)]


@pytest.mark.parametrize("economy", [SMALL, FEW, BOTH])
def test_after_a_switch_a_stream_goes_on_as_one_that_always_had_the_setting(
    model: DiffusionModel, economy: Economy
):
    """The ring is rebuilt in one and grown in the other; while nothing is dropped they agree."""
    played = Played(model, {0: [FIRST], 2: [economy]}).play(2)
    expected = always(model, played, economy)
    plain = Played(model, {0: [FIRST]}).play(5).blocks[2:]
    for found, wanted, before in zip(played.play(5).blocks[2:], expected, plain, strict=True):
        assert np.abs(found.latents - wanted.latents).max() < 1e-5
        assert np.abs(found.frames.astype(int) - wanted.frames.astype(int)).max() <= 1
        assert np.abs(found.frames.astype(int) - before.frames.astype(int)).max() > 5


def test_the_small_decoder_changes_the_pictures_and_not_the_latents(model: DiffusionModel):
    switched = Played(model, {0: [FIRST], 2: [SMALL]}).play(4).blocks
    plain = Played(model, {0: [FIRST]}).play(4).blocks
    for a, b in zip(switched, plain, strict=True):
        assert np.array_equal(a.latents, b.latents)
        assert np.array_equal(a.frames, b.frames) == (a.index < 2)


def test_back_at_the_whole_decoder_the_pictures_are_those_of_a_stream_that_never_left_it(
    model: DiffusionModel,
):
    switched = Played(model, {0: [FIRST], 2: [SMALL], 4: [NONE]}).play(7).blocks
    plain = Played(model, {0: [FIRST]}).play(7).blocks
    for a, b in zip(switched[4:], plain[4:], strict=True):
        assert np.abs(a.frames.astype(int) - b.frames.astype(int)).max() <= 1


def test_a_setting_outlives_a_new_seed_a_cut_and_a_restore(model: DiffusionModel):
    cut = Prompt("c", "snow", Transition(TransitionKind.CUT))
    played = Played(model, {0: [FIRST], 1: [BOTH], 3: [Reseed(9)], 5: [cut]}).play(6)
    restored = played.restored().next_block(())
    grown = played.play(7).blocks[6]
    assert np.abs(restored.latents - grown.latents).max() < 1e-5
    assert np.abs(restored.frames.astype(int) - grown.frames.astype(int)).max() <= 1
    always_so = Played(model, {0: [FIRST, BOTH], 3: [Reseed(9)], 5: [cut]}).play(6)
    assert np.array_equal(played.blocks[5].frames, always_so.blocks[5].frames)


def test_with_a_cut_the_new_decoder_begins_a_clip(model: DiffusionModel):
    cut = Prompt("c", "snow", Transition(TransitionKind.CUT))
    played = Played(model, {0: [FIRST], 3: [SMALL, cut]}).play(4)
    fresh = model.restore(Truth(Script(SPEC, [(0, SMALL)]), 3, 36, ()))
    assert np.array_equal(fresh.next_block((cut,)).frames, played.blocks[3].frames)


async def test_a_script_with_switches_replays_to_the_same_frames(config: Config):
    engine = Engine(config)
    spec = StreamSpec("tiny", 5, 64, 64, 16)
    try:
        driver = StreamDriver(engine, spec, config.stream)
        made = []
        for events in ([FIRST], [FEW], [BOTH], [], [NONE]):
            made.append(await driver.advance(events))
        assert engine.able == {"decoder", "steps"}
        await driver.end()
        again = StreamDriver(engine, spec, config.stream)
        score = score_from_script(config, driver.script)
        replayed = [block async for block in render(again, score)]
    finally:
        await engine.close()
    assert len(replayed) == len(made)
    for a, b in zip(made, replayed, strict=True):
        assert np.array_equal(a.frames, b.frames)
    assert again.script.events == driver.script.events


def test_what_a_model_lacks_is_refused_with_the_way_out(tiny_model: DiffusionModel):
    assert tiny_model.able == frozenset()
    stream = tiny_model.open(SPEC)
    with pytest.raises(ConfigError, match=r"model\.small_decoder"):
        stream.next_block((SMALL,))
    with pytest.raises(ConfigError, match=r"model\.sampler\.reduced_step_list"):
        tiny_model.restore(Truth(Script(SPEC, [(0, FEW)]), 1, 12, ()))


def test_a_small_decoder_whose_file_is_missing_is_done_without(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    config = thrifty(tmp_path)
    (tmp_path / "small" / "vae.safetensors").unlink()
    (tmp_path / "small" / "vae.json").unlink()
    (tmp_path / "small").rmdir()
    assert DiffusionModel(config, lambda part, stage: None).able == {"steps"}
    assert "small_decoder_missing" in caplog.text


def test_a_small_decoder_for_other_latents_is_refused(tmp_path: Path):
    config = thrifty(tmp_path)
    _write_decoder(tmp_path / "small", 8)
    with pytest.raises(ConfigError, match=r"latent_channels of model\.small_decoder is 8"):
        DiffusionModel(config, lambda part, stage: None)


def test_wan_and_taehv_stand_in_for_each_other_picture_by_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Both show one picture first; after the switch a block shows as many as before."""
    slim = replace(TAEW2_1, encoder_channels=(4,) * 4, decoder_channels=(8, 8, 4, 4))
    monkeypatch.setattr(decoders, "TAEW2_1", slim)
    config = make_wan_config(tmp_path)
    torch.save(TinyVAE(slim).state_dict(), tmp_path / "taew2_1.pth")
    tree = config.model_dump(mode="json")
    tree["model"]["small_decoder"] = {"kind": "taehv", "weights": str(tmp_path / "taew2_1.pth")}
    model = DiffusionModel(Config.model_validate(tree), lambda part, stage: None)
    stream = model.open(SPEC)
    counts = [len(stream.next_block(e).frames) for e in ((FIRST,), (SMALL,), (), (NONE,), ())]
    assert counts == [9, 12, 12, 12, 12]
