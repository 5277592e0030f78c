"""Two thousand blocks: as fast, as small and as right at the end as at the beginning."""

import statistics
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from streamer.engine import diffusion_stream
from streamer.engine.diffusion import DiffusionModel
from streamer.engine.diffusion_stream import DiffusionStream
from streamer.models.sampler import block_noise
from streamer.stream import Prompt, Script, StreamSpec, Transition, TransitionKind, Truth
from tests.engine.tiny_model import make_tiny_config

SPEC = StreamSpec("tiny", 5, 64, 64, 16)
NUM_BLOCKS = 2000
RED = Prompt("a", "red balloon", Transition(TransitionKind.SWAP))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> DiffusionModel:
    folder: Path = tmp_path_factory.mktemp("endless")
    config = make_tiny_config(folder, num_layers=1, steps=[1000])
    return DiffusionModel(config, lambda part, stage: None)


def time_in_turns(stream: DiffusionStream, other: DiffusionStream) -> tuple[float, float]:
    """Median block times of two streams, taken in turns, so that both meet the same neighbours.

    In processor seconds of this thread, the only one that computes: waiting does not count.
    """
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(100):
        for kept, each in zip(times, (stream, other), strict=True):
            started = time.thread_time()
            each.next_block(())
            kept.append(time.thread_time() - started)
    return statistics.median(times[0]), statistics.median(times[1])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_stream_of_2000_blocks_stays_fast_small_and_finite(model: DiffusionModel):
    process = psutil.Process()
    stream = model.open(SPEC)
    stream.next_block((RED,))
    resident = 0
    for index in range(1, NUM_BLOCKS):
        block = stream.next_block(())
        if index == 500:
            resident = process.memory_info().rss
        if index % 100 == 0:
            assert np.isfinite(block.latents).all()
            assert 0.2 < block.latents.std() < 5.0
            assert block.frames.std() > 1.0
    assert process.memory_info().rss - resident < 4 * 2**20
    young = model.open(SPEC)
    for index in range(50):
        young.next_block((RED,) if index == 0 else ())
    # A machine full of other work may spoil a measurement, but a stream that has grown slower
    # is slower in every one of them.
    measured = []
    while len(measured) < 4 and not any(late <= 1.05 * early for late, early in measured):
        measured.append(time_in_turns(stream, young))
    assert min(late / early for late, early in measured) <= 1.05, measured


@pytest.mark.parametrize("start", [NUM_BLOCKS, 10_000_000])
def test_a_stream_that_starts_at_a_late_position_shows_the_same(
    model: DiffusionModel, monkeypatch: pytest.MonkeyPatch, start: int
):
    """Under the same noise, only distances count; 10 million blocks are three months."""

    def noise(seed: int, block: int, draw: int, *rest: object) -> torch.Tensor:
        return block_noise(seed, block % start, draw, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(diffusion_stream, "block_noise", noise)
    early = model.open(SPEC)
    late = model.restore(Truth(Script(SPEC), start, 12 * start, ()))
    for index in range(12):
        events = (RED,) if index == 0 else ()
        a, b = early.next_block(events), late.next_block(events)
        assert b.index == a.index + start
        assert np.abs(a.latents - b.latents).max() < 1e-4
