"""Blocks through the engine, timed: one setting, two by turns, or many blocks on end.

The clip average holds the first blocks, whose window is still short; the steady state begins when
the window is full.  Both are always given, so that neither is taken for the other.
"""

from __future__ import annotations

import itertools
import math
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from streamer.bench.report import (
    BenchReport,
    Stages,
    median,
    percentile,
    share_of_rate,
    verdict,
)
from streamer.bench.settings import Settings
from streamer.config import Config
from streamer.delivery.encoder import VideoEncoder, best_h264
from streamer.delivery.planes import size_of, video_frame
from streamer.driver import StreamDriver
from streamer.engine.figures import ModelFigures
from streamer.engine.handle import Engine
from streamer.errors import ConfigError
from streamer.pacing import CLOCK_RATE
from streamer.stream import FrameBlock, Prompt, StreamSpec

WARM_UP_BLOCKS = 2
CLIP_LATENTS = 21
"""Latent frames of the clips that others measure: 81 pictures."""
TURN_BLOCKS = 4
"""Blocks of one setting before it is the other's turn.  The first of them does not count: a GPU has
made a pass of it when the one before was handed over, in time that nobody took."""
FLAT_LIMIT = 0.05
"""So much may late blocks differ from early ones before they are said to grow."""


def fill_blocks(config: Config) -> int:
    """How many blocks fill the window."""
    section = config.stream
    return -(-section.window // section.num_frame_per_block) if section.window else 1


def check_blocks(config: Config, num_blocks: int) -> None:
    """Raises ConfigError when there are too few blocks to have a steady state."""
    fill = fill_blocks(config)
    if num_blocks < fill + WARM_UP_BLOCKS:
        raise ConfigError(
            f"--blocks {num_blocks}: at least {fill + WARM_UP_BLOCKS} are needed, since the window "
            f"is full after {fill}"
        )


class Bench:
    """One setting with an engine of its own.  Owner: a benchmark; close it."""

    def __init__(self, config: Config, settings: Settings) -> None:
        self.config = settings.apply(config)
        self.settings = settings
        self.blocks: list[FrameBlock] = []
        self.times_ms: list[float] = []
        self._resumed: set[int] = set()
        self.first_frame_ms = 0.0
        self.load_s = 0.0
        self._engine = Engine(self.config)
        self._driver: StreamDriver | None = None
        self._streams = itertools.count()

    async def start(self) -> None:
        """Load the model, and make blocks that do not count until all kinds of pass have run."""
        begun = time.perf_counter()
        await self._engine.start()
        self.load_s = time.perf_counter() - begun
        await self.begin()
        for _ in range(fill_blocks(self.config) + WARM_UP_BLOCKS):
            await self.advance()
        await self.begin()

    async def begin(self) -> None:
        """A new stream, under a prompt that was never seen, and its first block."""
        if self._driver is not None:
            await self._driver.end()
        section, number = self.config.stream, next(self._streams)
        begun = time.perf_counter()
        spec = StreamSpec(self.config.name, number, section.width, section.height, section.fps)
        self._driver = StreamDriver(self._engine, spec, section)
        text = (self.config.examples or ["a picture"])[0]
        block = await self._driver.advance([Prompt("bench", f"{text} {number}")])
        self.first_frame_ms = (time.perf_counter() - begun) * 1000
        self.blocks, self.times_ms = [block], [self.first_frame_ms]
        self._resumed.clear()

    async def advance(self) -> None:
        """One more block."""
        assert self._driver is not None
        begun = time.perf_counter()
        block = await self._driver.advance()
        self.times_ms.append((time.perf_counter() - begun) * 1000)
        # Pictures of a long run would fill the memory; the newest serve for encoding.
        self.blocks[-1] = _without_pictures(self.blocks[-1])
        self.blocks.append(block)

    async def take_turn(self, num_blocks: int) -> None:
        """Some blocks on end, while others wait; then nothing is left under way on the device."""
        self._resumed.add(len(self.times_ms))
        for _ in range(num_blocks):
            await self.advance()
        await self._engine.settle()

    @property
    def is_steady(self) -> bool:
        """Whether there are blocks enough at full window to speak of a steady state."""
        return len(self._steady()) >= WARM_UP_BLOCKS

    def _steady(self) -> list[int]:
        """Which blocks count as the steady state."""
        counted = range(fill_blocks(self.config), len(self.times_ms))
        return [index for index in counted if index not in self._resumed]

    async def figures(self) -> ModelFigures:
        """Figures of the model and its machine, while nothing else runs."""
        return await self._engine.measure()

    async def close(self) -> None:
        """End the stream and the worker."""
        if self._driver is not None and self._engine.is_ready:
            await self._driver.end()
        await self._engine.close()

    def report(self, figures: ModelFigures) -> BenchReport:
        """What the blocks so far say."""
        section, fill = self.config.stream, fill_blocks(self.config)
        frames = len(self.blocks[-1].frames)
        steady = [self.times_ms[index] for index in self._steady()]
        block_ms = median(steady)
        stages = self._stages(figures.is_fused)
        denoise_ms = sum(stages.steps_ms) + stages.clean_pass_ms
        tflops, share = share_of_rate(figures, denoise_ms)
        clip = min(len(self.blocks), max(1, CLIP_LATENTS // section.num_frame_per_block))
        clip_ms = [self.times_ms[index] for index in range(clip) if index not in self._resumed]
        steady_fps = 1000 * frames / block_ms
        realtime = steady_fps / section.fps
        return BenchReport(
            model=self.config.name,
            setting=self.settings.label(),
            size=f"{section.width}x{section.height}",
            window=section.window,
            machine=f"{platform.machine()} {platform.system()} Python {platform.python_version()}",
            device=figures.device,
            dtype=figures.dtype,
            operations=figures.operations,
            num_graphs=figures.num_graphs,
            blocks=len(self.blocks),
            fill_blocks=fill,
            clip_blocks=clip,
            frames_per_block=frames,
            load_s=round(self.load_s, 2),
            first_frame_ms=round(self.first_frame_ms, 1),
            clip_fps=round(1000 * frames * len(clip_ms) / sum(clip_ms), 2),
            steady_fps=round(steady_fps, 2),
            realtime=round(realtime, 2),
            block_ms_p50=round(block_ms, 1),
            block_ms_p90=round(percentile(steady, 0.9), 1),
            block_ms_p99=round(percentile(steady, 0.99), 1),
            stages=stages,
            peak_memory_mb=round(figures.peak_bytes / 1e6, 1),
            tflops=tflops,
            matrix_tflops=figures.matrix_flops_per_s / 1e12,
            matrix_share=round(share, 4),
            copy_gigabytes_per_s=figures.copy_bytes_per_s / 1e9,
            psnr_db=figures.psnr_db,
            verdict=verdict(realtime, share, stages, block_ms, figures.decodes_beside),
        )

    def _stages(self, is_fused: bool) -> Stages:
        steady = self._steady()
        timings = [self.blocks[index].timings for index in steady]
        passes = [median(list(each)) for each in zip(*(t.passes_ms for t in timings), strict=True)]
        outside = [self.times_ms[index] - self.blocks[index].timings.total_ms for index in steady]
        return Stages(
            text_ms=round(self.blocks[0].timings.text_ms, 2),
            steps_ms=tuple(round(each, 2) for each in passes[:-1]),
            clean_pass_ms=round(passes[-1], 2) if passes else 0.0,
            decode_ms=round(median([t.decode_ms for t in timings]), 2),
            copy_ms=round(median([t.copy_ms for t in timings]), 2),
            hand_over_ms=round(median(outside), 2),
            encode_ms=round(encode_ms(self.blocks[-1].frames, self.config.stream.fps), 2),
            is_fused=is_fused,
        )


async def bench(
    config: Config, settings: Settings, num_blocks: int, within_s: float = math.inf
) -> BenchReport:
    """Make `num_blocks` blocks of one stream and time each; warmed up before.

    within_s: make no more after so long, loading included, once there is a steady state.
    Raises ConfigError when there are too few blocks to have one.
    """
    return (await _by_turns(config, [settings], num_blocks, within_s))[0]


@dataclass(frozen=True)
class Comparison:
    """Two settings by turns, so that a busy machine is busy for both.

    ratio: steady frames a second of the second over those of the first; ratio_p90: of the slower
    blocks, the ninth in ten.
    """

    first: BenchReport
    second: BenchReport
    ratio: float
    ratio_p90: float

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


async def compare(
    config: Config,
    pair: tuple[Settings, Settings],
    num_blocks: int,
    within_s: float = math.inf,
) -> Comparison:
    """Make blocks under two settings by turns, some at a time.  Both models are loaded.

    within_s: see `bench`.
    Raises ConfigError when there are too few blocks to have a steady state.
    """
    first, second = await _by_turns(config, list(pair), num_blocks, within_s)
    return Comparison(
        first,
        second,
        round(second.steady_fps / first.steady_fps, 3),
        round(first.block_ms_p90 / second.block_ms_p90, 3),
    )


async def _by_turns(
    config: Config, settings: Sequence[Settings], num_blocks: int, within_s: float
) -> list[BenchReport]:
    benches: list[Bench] = []
    until = time.perf_counter() + within_s
    for each in settings:
        check_blocks(each.apply(config), num_blocks)
    try:
        for each in settings:
            benches.append(Bench(config, each))
            await benches[-1].start()
        made, turn = 1, TURN_BLOCKS if len(benches) > 1 else 1
        while made < num_blocks:
            if time.perf_counter() > until and all(run.is_steady for run in benches):
                break
            for run in benches:
                if len(benches) > 1:
                    await run.take_turn(min(turn, num_blocks - made))
                else:
                    await run.advance()
            made += min(turn, num_blocks - made)
        return [run.report(await run.figures()) for run in benches]
    finally:
        for run in benches:
            await run.close()


@dataclass(frozen=True)
class Flatness:
    """Early and late blocks of a long stream.

    *_ms: median of a tenth of the blocks, the first after the window was full, and the last.
    *_mb: peak memory after the first tenth, and at the end.
    """

    blocks: int
    early_ms: float
    late_ms: float
    time_growth: float
    early_mb: float
    late_mb: float
    memory_growth: float
    is_flat: bool

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


async def flat(config: Config, settings: Settings, num_blocks: int) -> Flatness:
    """Make a long stream and compare its late blocks with its early ones.

    Raises ConfigError when there are too few blocks to have a steady state.
    """
    run = Bench(config, settings)
    check_blocks(run.config, num_blocks)
    fill = fill_blocks(run.config)
    tenth = max(1, (num_blocks - fill) // 10)
    try:
        await run.start()
        for _ in range(fill + tenth - 1):
            await run.advance()
        before = await run.figures()
        for _ in range(num_blocks - fill - tenth):
            await run.advance()
        after = await run.figures()
    finally:
        await run.close()
    early, late = median(run.times_ms[fill : fill + tenth]), median(run.times_ms[-tenth:])
    time_growth, memory_growth = late / early - 1, after.peak_bytes / before.peak_bytes - 1
    return Flatness(
        blocks=num_blocks,
        early_ms=round(early, 1),
        late_ms=round(late, 1),
        time_growth=round(time_growth, 4),
        early_mb=round(before.peak_bytes / 1e6, 1),
        late_mb=round(after.peak_bytes / 1e6, 1),
        memory_growth=round(memory_growth, 4),
        is_flat=max(time_growth, memory_growth) <= FLAT_LIMIT,
    )


def encode_ms(frames: NDArray[np.uint8], fps: int) -> float:
    """Milliseconds to convert and encode the pictures of a block behind a first one.

    frames: RGB or planes, see `FrameBlock`.
    """
    width, height = size_of(frames[0])
    encoder = VideoEncoder("H264", width, height, fps, h264=best_h264())
    begun = 0.0
    for number, pixels in enumerate([frames[0], *frames]):
        if number == 1:
            begun = time.perf_counter()
        picture = video_frame(pixels)
        picture.pts = number * CLOCK_RATE // fps
        encoder.encode(picture, keyframe=number == 0)
    return (time.perf_counter() - begun) * 1000


def _without_pictures(block: FrameBlock) -> FrameBlock:
    empty = np.zeros((0, 0, 0, 3), np.uint8)
    return FrameBlock(
        block.index, block.first_frame, empty, block.latents[:0], block.prompt_id, block.timings
    )
