import numpy as np
import pytest

from streamer.config import Config, load_config
from streamer.engine.pattern import COLOURS, PatternModel, palette, read_barcode
from streamer.stream import (
    History,
    Prompt,
    Reseed,
    Script,
    StreamSpec,
    Transition,
    TransitionKind,
    Truth,
)

SPEC = StreamSpec("pattern", 5, 256, 160, 16)


@pytest.fixture
def config() -> Config:
    return load_config("pattern")


@pytest.fixture
def model(config: Config) -> PatternModel:
    return PatternModel(config, lambda part, stage: None)


def test_a_block_has_twelve_pictures_whose_barcodes_count(model: PatternModel):
    stream = model.open(SPEC)
    for index in range(3):
        block = stream.next_block((Prompt("a", "red"),) if index == 0 else ())
        assert block.frames.shape == (12, 160, 256, 3)
        assert (block.index, block.first_frame, block.prompt_id) == (index, index * 12, "a")
        assert [read_barcode(frame) for frame in block.frames] == list(
            range(index * 12, index * 12 + 12)
        )


def test_the_barcode_survives_noise(model: PatternModel):
    frame = model.open(SPEC).next_block(()).frames[11].astype(np.int64)
    noise = np.random.default_rng(0).integers(-60, 60, frame.shape)
    assert read_barcode(np.clip(frame + noise, 0, 255).astype(np.uint8)) == 11


@pytest.mark.parametrize("word", ["red", "green", "blue"])
def test_bars_take_the_colour_that_the_prompt_names(model: PatternModel, word: str):
    block = model.open(SPEC).next_block((Prompt("a", f"a {word} Evening".replace("Evening", "")),))
    assert tuple(block.frames[5, 100, 100]) == COLOURS[word]


def test_a_prompt_without_colours_gets_its_own(model: PatternModel):
    assert not np.array_equal(palette((("a fox", 1.0),)), palette((("an owl", 1.0),)))
    assert np.array_equal(palette((("a fox", 1.0),)), palette((("a fox", 1.0),)))


def test_pictures_move_smoothly(model: PatternModel):
    frames = model.open(SPEC).next_block((Prompt("a", "red green blue"),)).frames[:, 20:]
    steps = np.abs(np.diff(frames.astype(np.int64), axis=0)).mean(axis=(1, 2, 3))
    assert steps.min() > 0.5
    assert steps.max() < 20


def test_the_same_script_gives_the_same_pictures_and_another_seed_others(model: PatternModel):
    prompt = (Prompt("a", "red blue"),)
    first, again = model.open(SPEC).next_block(prompt), model.open(SPEC).next_block(prompt)
    reseeded = model.open(SPEC).next_block((*prompt, Reseed(6)))
    assert np.array_equal(first.frames, again.frames)
    assert not np.array_equal(first.frames, reseeded.frames)


@pytest.mark.parametrize("block", [1, 4, 6])
def test_a_restored_stream_goes_on_as_if_it_had_never_stopped(model: PatternModel, block: int):
    script = Script(SPEC)
    script.append(0, Prompt("a", "red"))
    script.append(3, Prompt("b", "blue", Transition(TransitionKind.BLEND, 5)))
    stream = model.open(SPEC)
    made = [stream.next_block(script.at(index)) for index in range(8)]
    history = History(9, 3).kept()
    restored = model.restore(Truth(script, block, block * 12, history))
    for index in range(block, 8):
        found = restored.next_block(script.at(index))
        assert found.prompt_id == made[index].prompt_id
        assert np.array_equal(found.frames, made[index].frames)
