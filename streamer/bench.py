"""How fast a stream is made on this machine: blocks through the engine, decode included.

The clip average holds the first blocks, whose window is still short; the steady state begins when
the window is full.  Both are always given, so that neither is taken for the other.
"""

from __future__ import annotations

import platform
import statistics
import time
from dataclasses import asdict, dataclass

from streamer.config import Config
from streamer.driver import StreamDriver
from streamer.engine.handle import Engine
from streamer.errors import ConfigError
from streamer.stream import FrameBlock, Prompt, StreamSpec

WARM_UP_BLOCKS = 2


@dataclass(frozen=True)
class BenchReport:
    """Times in milliseconds a block, fps in pictures a second.

    *_fps: with decode and the way out of the worker.  realtime: steady fps over the stream's own.
    """

    model: str
    size: str
    machine: str
    blocks: int
    frames_per_block: int
    load_s: float
    first_block_ms: float
    average_fps: float
    steady_fps: float
    realtime: float
    block_ms_p50: float
    block_ms_p90: float
    block_ms_max: float
    text_ms: float
    denoise_ms: float
    decode_ms: float

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


async def bench(config: Config, num_blocks: int) -> BenchReport:
    """Make `num_blocks` blocks of one stream and time each.

    Raises ConfigError when there are too few to have a steady state.
    """
    section = config.stream
    fill = -(-section.window // section.num_frame_per_block) if section.window else 1
    if num_blocks < fill + WARM_UP_BLOCKS:
        raise ConfigError(
            f"--blocks {num_blocks}: at least {fill + WARM_UP_BLOCKS} are needed, since the window "
            f"is full after {fill}"
        )
    engine = Engine(config)
    start = time.perf_counter()
    try:
        await engine.start()
        load_s = time.perf_counter() - start
        spec = StreamSpec(config.name, 0, section.width, section.height, section.fps)
        driver = StreamDriver(engine, spec, section)
        prompt = Prompt("bench", (config.examples or ["a picture"])[0])
        blocks: list[FrameBlock] = []
        times: list[float] = []
        for index in range(num_blocks):
            begun = time.perf_counter()
            blocks.append(await driver.advance([prompt] if index == 0 else []))
            times.append((time.perf_counter() - begun) * 1000)
        await driver.end()
    finally:
        await engine.close()
    return _report(config, blocks, times, fill, load_s)


def _report(
    config: Config, blocks: list[FrameBlock], times: list[float], fill: int, load_s: float
) -> BenchReport:
    section = config.stream
    frames = len(blocks[-1].frames)
    steady = sorted(times[fill:])
    timings = [block.timings for block in blocks[fill:]]
    steady_fps = 1000 * frames / statistics.median(steady)

    def mean(name: str) -> float:
        return round(statistics.fmean(getattr(timing, name) for timing in timings), 2)

    return BenchReport(
        model=config.name,
        size=f"{section.width}x{section.height}",
        machine=f"{platform.machine()} {platform.system()} Python {platform.python_version()}",
        blocks=len(blocks),
        frames_per_block=frames,
        load_s=round(load_s, 2),
        first_block_ms=round(times[0], 1),
        average_fps=round(1000 * sum(len(block.frames) for block in blocks) / sum(times), 2),
        steady_fps=round(steady_fps, 2),
        realtime=round(steady_fps / section.fps, 2),
        block_ms_p50=round(statistics.median(steady), 1),
        block_ms_p90=round(steady[int(0.9 * (len(steady) - 1))], 1),
        block_ms_max=round(steady[-1], 1),
        text_ms=round(max(block.timings.text_ms for block in blocks), 2),
        denoise_ms=mean("denoise_ms"),
        decode_ms=mean("decode_ms"),
    )
