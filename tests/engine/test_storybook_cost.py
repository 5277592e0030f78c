"""What the embedded model costs, in processor time: how busy the machine is does not count."""

from __future__ import annotations

import time

import pytest

from streamer.bench.run import encode_ms
from streamer.config import load_config
from streamer.engine.diffusion import DiffusionModel
from streamer.stream import Prompt, StreamSpec

CORES, WANTED_FPS = 2, 24
NUM_BLOCKS = 4


@pytest.mark.slow
def test_two_cores_have_time_for_24_pictures_a_second_and_a_viewer() -> None:
    config = load_config("storybook")
    section = config.stream
    assert section.width * section.height >= 256 * 144
    model = DiffusionModel(config, lambda part, stage: None)
    stream = model.open(StreamSpec(config.name, 3, section.width, section.height, section.fps))
    block = stream.next_block([Prompt("a", "a red fox in the forest", None)])
    for _ in range(2):  # until the window is full
        stream.next_block([])
    begun = time.process_time()
    for _ in range(NUM_BLOCKS):
        block = stream.next_block([])
        encode_ms(block.frames, section.fps)  # one viewer watches
    spent_s = (time.process_time() - begun) / NUM_BLOCKS
    stream.close()
    assert len(block.frames) == 12
    assert spent_s < CORES * len(block.frames) / WANTED_FPS
