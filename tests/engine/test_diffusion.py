import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from streamer.config import Config
from streamer.driver import StreamDriver
from streamer.engine.diffusion import UNLIMITED_WINDOW_FRAMES, DiffusionModel
from streamer.engine.diffusion_stream import DiffusionStream
from streamer.engine.handle import Engine
from streamer.engine.memory import memory_guard
from streamer.engine.parts import KEPT_TEXTS, TextMemory
from streamer.errors import ConfigError, EngineError, OutOfMemoryError, WeightsError
from streamer.models.tiny_vae import STORYBOOK, TAEW2_1, TinyVAE, TinyVAEConfig
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
    begins_anew,
)
from tests.engine.tiny_model import make_tiny_config

SPEC = StreamSpec("tiny", 5, 64, 64, 16)
FIRST = Prompt("a", "red balloon over the hills", Transition(TransitionKind.SWAP))
SAME = 1e-5
"""Latents have unit size; equal computations in another order differ by float32 rounding."""


def prompt(kind: TransitionKind, text: str = "blue night sea", blocks: int = 1) -> Prompt:
    return Prompt("b", text, Transition(kind, blocks))


class Played:
    """A stream and the truth that a driver would have kept of it."""

    def __init__(self, model: DiffusionModel, events: dict[int, Sequence[Event]]) -> None:
        self.model = model
        self.script = Script(SPEC)
        for index, several in sorted(events.items()):
            for event in several:
                self.script.append(index, event)
        section = model.stream
        self.history = History(section.window, section.sink)
        self.stream = model.open(SPEC)
        self.blocks: list[FrameBlock] = []

    def play(self, until: int) -> "Played":
        """Make the blocks before `until`."""
        for index in range(len(self.blocks), until):
            events = self.script.at(index)
            if any(begins_anew(event) for event in events):
                self.history.restart()
            block = self.stream.next_block(events)
            self.history.add(index, block.latents)
            self.blocks.append(block)
        return self

    def restored(self) -> DiffusionStream:
        """A second stream, from the truth at this place."""
        first_frame = sum(len(block.frames) for block in self.blocks)
        return self.model.restore(
            Truth(self.script, len(self.blocks), first_frame, self.history.kept())
        )


def difference(a: FrameBlock, b: FrameBlock) -> float:
    return float(np.abs(a.latents - b.latents).max())


def test_a_block_has_the_promised_shapes(tiny_model: DiffusionModel):
    blocks = Played(tiny_model, {0: [FIRST]}).play(3).blocks
    for index, block in enumerate(blocks):
        assert (block.index, block.first_frame, block.prompt_id) == (index, index * 12, "a")
        assert (block.frames.shape, block.frames.dtype) == ((12, 64, 64, 3), np.uint8)
        assert (block.latents.shape, block.latents.dtype) == ((3, 4, 4, 4), np.float32)
        assert block.frames.std() > 1.0


def test_the_same_script_makes_the_same_pictures_to_the_bit(tiny_model: DiffusionModel):
    events = {0: [FIRST], 4: [prompt(TransitionKind.RECACHE)], 6: [Reseed(9)]}
    one, two = (Played(tiny_model, events).play(8).blocks for _ in range(2))
    for a, b in zip(one, two, strict=True):
        assert np.array_equal(a.frames, b.frames)
        assert np.array_equal(a.latents, b.latents)


def test_two_streams_in_one_worker_do_not_touch_each_other(tiny_model: DiffusionModel):
    alone = Played(tiny_model, {0: [FIRST]}).play(4).blocks
    one, two = (
        Played(tiny_model, {0: [FIRST]}),
        Played(tiny_model, {0: [prompt(TransitionKind.CUT)]}),
    )
    for until in range(1, 5):
        one.play(until)
        two.play(until)
    assert all(np.array_equal(a.frames, b.frames) for a, b in zip(alone, one.blocks, strict=True))


@pytest.mark.parametrize("block", [1, 2, 4])
def test_while_nothing_is_dropped_restore_goes_on_exactly(tiny_model: DiffusionModel, block: int):
    played = Played(tiny_model, {0: [FIRST]}).play(block)
    restored = played.restored()
    for grown in played.play(block + 4).blocks[block:]:
        found = restored.next_block(())
        assert (found.index, found.first_frame) == (grown.index, grown.first_frame)
        assert found.prompt_id == "a"
        assert difference(found, grown) < SAME
        assert np.abs(found.frames.astype(int) - grown.frames.astype(int)).max() <= 1


@pytest.mark.parametrize("num_layers", [2, 6])
def test_a_late_restore_goes_on_closely(tmp_path: Path, num_layers: int):
    """A key of layer l has seen l blocks further back than the layer below it.

    The kept window is deep enough for two layers, which must agree to rounding: this is what shows
    that closing the gap behind the sinks leaves every distance as it was.  More layers have seen
    dropped blocks, and differ by little.
    """
    config = make_tiny_config(tmp_path, num_layers=num_layers)
    played = Played(DiffusionModel(config, lambda part, stage: None), {0: [FIRST]}).play(40)
    found = played.restored().next_block(())
    grown = played.play(41).blocks[40]
    assert difference(found, grown) < (SAME if num_layers == 2 else 0.01)


@pytest.mark.parametrize("block", [3, 5, 6])
def test_restore_knows_a_blend_a_seed_and_a_cut(tiny_model: DiffusionModel, block: int):
    events = {
        0: [FIRST],
        1: [prompt(TransitionKind.CUT, "snow")],
        3: [Reseed(9)],
        4: [prompt(TransitionKind.BLEND, blocks=4)],
    }
    played = Played(tiny_model, events).play(block)
    restored = played.restored()
    rebuilt = restored.next_block(played.script.at(block))
    block_made = played.play(block + 1).blocks[block]
    # In a blend the rebuilt keys are under the latest mixture, the grown ones under earlier ones.
    assert difference(rebuilt, block_made) < (SAME if block == 3 else 5e-3)


def test_a_restored_stream_can_be_restored_at_the_same_place_again(tiny_model: DiffusionModel):
    played = Played(tiny_model, {0: [FIRST]}).play(20)
    one, two = played.restored(), played.restored()
    for _ in range(3):
        assert np.array_equal(one.next_block(()).frames, two.next_block(()).frames)


def test_swap_changes_the_text_and_keeps_every_key(tiny_model: DiffusionModel):
    played = Played(tiny_model, {0: [FIRST], 4: [prompt(TransitionKind.SWAP)]}).play(4)
    before = [kv.clone() for kv in played.stream._context.in_order(0)]
    with torch.inference_mode():
        played.stream._apply(played.script.at(4))
    after = played.stream._context.in_order(0)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    plain = Played(tiny_model, {0: [FIRST]}).play(5).blocks[4]
    swapped = Played(tiny_model, {0: [FIRST], 4: [prompt(TransitionKind.SWAP)]}).play(5).blocks[4]
    assert difference(plain, swapped) > 1e-3
    assert swapped.prompt_id == "b"


def test_recache_equals_a_stream_whose_window_was_always_under_the_new_text(
    tiny_model: DiffusionModel,
):
    new = prompt(TransitionKind.RECACHE)
    recached = Played(tiny_model, {0: [FIRST], 3: [new]}).play(4)
    old = Played(tiny_model, {0: [FIRST]}).play(3)
    script = Script(SPEC, [(0, new)])
    imagined = tiny_model.restore(Truth(script, 3, 36, old.history.kept())).next_block(())
    assert difference(recached.blocks[3], imagined) < SAME
    swapped = Played(tiny_model, {0: [FIRST], 3: [prompt(TransitionKind.SWAP)]}).play(4)
    assert difference(recached.blocks[3], swapped.blocks[3]) > 1e-4


def test_recache_late_in_a_stream_fills_the_ring_it_had(tiny_model: DiffusionModel):
    played = Played(tiny_model, {0: [FIRST], 30: [prompt(TransitionKind.RECACHE)]}).play(30)
    before = played.stream._context.in_order(1)
    with torch.inference_mode():
        played.stream._apply(played.script.at(30))
    after = played.stream._context.in_order(1)
    assert before[0].shape == after[0].shape
    assert not torch.allclose(before[1], after[1], atol=1e-4)


def test_cut_begins_a_fresh_picture(tiny_model: DiffusionModel):
    cut = prompt(TransitionKind.CUT)
    played = Played(tiny_model, {0: [FIRST], 7: [cut]}).play(10)
    fresh = tiny_model.restore(Truth(Script(SPEC), 7, 84, ()))
    for index in range(7, 10):
        block = fresh.next_block((cut,) if index == 7 else ())
        assert difference(block, played.blocks[index]) < SAME
        assert np.array_equal(block.frames, played.blocks[index].frames)


def test_scene_begins_anew_but_the_decoder_remembers(tiny_model: DiffusionModel):
    cut = Played(tiny_model, {0: [FIRST], 7: [prompt(TransitionKind.CUT)]}).play(8).blocks[7]
    scene = Played(tiny_model, {0: [FIRST], 7: [prompt(TransitionKind.SCENE)]}).play(8).blocks[7]
    assert np.array_equal(cut.latents, scene.latents)
    assert not np.array_equal(cut.frames[0], scene.frames[0])
    assert np.array_equal(cut.frames[-1], scene.frames[-1])


def test_a_blend_moves_at_once_and_ends_at_the_new_text(tiny_model: DiffusionModel):
    blend = prompt(TransitionKind.BLEND, blocks=3)
    played = Played(tiny_model, {0: [FIRST], 4: [blend]}).play(5)
    plain = Played(tiny_model, {0: [FIRST]}).play(5)
    swapped = Played(tiny_model, {0: [FIRST], 4: [prompt(TransitionKind.SWAP)]}).play(5)
    assert difference(played.blocks[4], plain.blocks[4]) > 1e-4
    assert not torch.allclose(played.stream._prompt.v, swapped.stream._prompt.v, atol=1e-4)
    played.play(7)
    assert torch.equal(played.stream._prompt.v, swapped.stream._prompt.v)


def test_the_text_of_a_blend_is_interpolated(tiny_model: DiffusionModel):
    mixed = tiny_model.texts.embed((("red", 0.75), ("blue night", 0.25)))
    red, blue = tiny_model.text.encode(["red"]), tiny_model.text.encode(["blue night"])
    torch.testing.assert_close(mixed, 0.75 * red + 0.25 * blue)


def test_a_new_seed_is_a_cut_with_other_noise(tiny_model: DiffusionModel):
    played = Played(tiny_model, {0: [FIRST], 3: [Reseed(77)]}).play(5)
    other = Script(StreamSpec("tiny", 77, 64, 64, 16), [(0, FIRST)])
    fresh = tiny_model.restore(Truth(other, 3, 36, ()))
    for block in played.blocks[3:]:
        found = fresh.next_block(())
        assert np.array_equal(found.frames, block.frames)
    assert difference(played.blocks[3], Played(tiny_model, {0: [FIRST]}).play(4).blocks[3]) > 0.1


def test_a_stream_without_a_window_ends_with_a_sentence(tmp_path: Path):
    config = make_tiny_config(tmp_path, stream={"window": 0, "sink": 0})
    stream = DiffusionModel(config, lambda part, stage: None).open(SPEC)
    for _ in range(UNLIMITED_WINDOW_FRAMES // 3):
        stream.next_block(())
    with pytest.raises(EngineError, match=r"set stream\.window"):
        stream.next_block(())
    assert stream.next_block((prompt(TransitionKind.CUT),)).index == 80


def test_running_out_of_memory_has_one_name():
    with pytest.raises(OutOfMemoryError, match="device"), memory_guard():
        raise torch.OutOfMemoryError("tried to allocate 80 GiB")
    with pytest.raises(OutOfMemoryError, match="machine"), memory_guard():
        torch.empty(1 << 60, dtype=torch.uint8)
    with pytest.raises(RuntimeError, match="shapes"), memory_guard():
        raise RuntimeError("shapes differ")


def test_texts_are_encoded_once_and_few_are_kept():
    asked: list[str] = []

    class Counting:
        text_length, text_width = 1, 1

        def encode(self, texts: Sequence[str]) -> torch.Tensor:
            asked.extend(texts)
            return torch.ones(1, 1, 1)

    memory = TextMemory(Counting(), torch.device("cpu"))
    memory.embed((("red", 0.5), ("blue", 0.5)))
    memory.embed((("red", 1.0),))
    assert asked == ["red", "blue"]
    for number in range(KEPT_TEXTS):
        memory.embed(((str(number), 1.0),))
    memory.embed((("red", 1.0),))
    assert asked.count("red") == 2


@pytest.mark.parametrize("config", [STORYBOOK, TAEW2_1])
def test_the_decoder_remembers_no_further_back_than_it_is_given(config: TinyVAEConfig):
    slim = TinyVAEConfig(
        patch_size=1,
        latent_channels=2,
        encoder_channels=(2, 2, 2, 2),
        decoder_channels=(8, 8, 8, 8),
        blocks_per_stage=config.blocks_per_stage,
        convs_per_block=1,
        growth=config.growth,
        encoder_strides=config.encoder_strides,
        decoder_strides=config.decoder_strides,
        frames_to_trim=0,
    )
    torch.manual_seed(0)
    vae = TinyVAE(slim).double().eval()
    latents = torch.randn(1, 16, 2, 2, 2, dtype=torch.float64)
    count = slim.remembered_frames
    with torch.inference_mode():
        whole, _ = vae.decode_raw(latents)
        _, state = vae.decode_raw(latents[:, 15 - count : 15])
        tail, _ = vae.decode_raw(latents[:, 15:], state)
        _, short = vae.decode_raw(latents[:, 16 - count : 15])
        differs, _ = vae.decode_raw(latents[:, 15:], short)
    last = slim.temporal_reduction
    torch.testing.assert_close(tail, whole[:, -last:], atol=1e-12, rtol=0)
    assert not torch.equal(differs, whole[:, -last:])


def test_sizes_that_do_not_fit_are_named(tmp_path: Path):
    config = make_tiny_config(tmp_path, stream={"width": 72})
    with pytest.raises(ConfigError, match="multiples of 32"):
        DiffusionModel(config, lambda part, stage: None)


def test_steps_between_whole_numbers_are_refused_not_rounded(tmp_path: Path):
    config = make_tiny_config(tmp_path, steps=[1000, 312.5])
    with pytest.raises(ConfigError, match=r"312\.5.*whole numbers"):
        DiffusionModel(config, lambda part, stage: None)


@pytest.mark.parametrize(
    "name",
    ["transformer.safetensors", "decoder/vae.json", "decoder/vae.safetensors", "text.safetensors"],
)
def test_a_missing_or_damaged_file_is_named(tmp_path: Path, name: str):
    config = make_tiny_config(tmp_path)
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(WeightsError, match=re.escape(name)):
        DiffusionModel(config, lambda part, stage: None)
    path.unlink()
    with pytest.raises(WeightsError, match=re.escape(name)):
        DiffusionModel(config, lambda part, stage: None)


async def test_through_the_worker_a_killed_stream_is_restored(tiny_config: Config):
    engine = Engine(tiny_config)
    driver = StreamDriver(engine, SPEC, tiny_config.stream)
    try:
        made = [await driver.advance([FIRST])] + [await driver.advance() for _ in range(2)]
        assert engine.worker_pid is not None
        psutil.Process(engine.worker_pid).kill()
        made += [await driver.advance() for _ in range(2)]
    finally:
        await engine.close()
    assert [block.first_frame for block in made] == [0, 12, 24, 36, 48]
    model = DiffusionModel(tiny_config, lambda part, stage: None)
    for found, expected in zip(made, Played(model, {0: [FIRST]}).play(5).blocks, strict=True):
        assert difference(found, expected) < SAME
