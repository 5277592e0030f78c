"""From a prompt to its picture: a live stream, sent through WebRTC to a viewer on this machine.

Everything of a real stream is there except the network and the browser: the model, the queue, the
encoder, packets, encryption, sockets.  The viewer is a process of its own that decodes nothing; a
picture counts as seen when the last of its packets has come.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any

from streamer.bench.loop_watch import LoopWatch, watch_loop
from streamer.bench.report import median, percentile
from streamer.config import Config
from streamer.delivery.webrtc import Viewer
from streamer.engine.handle import Engine
from streamer.errors import EngineError
from streamer.live import LiveStream
from streamer.server.protocol import Message
from streamer.stream import Prompt

CONNECT_S = 60.0
PROMPT_LIMIT_S = 60.0
"""A prompt that is not on its way after so long never will be."""
ARRIVAL_S = 1.5
"""What was sent has come by then."""
_LINE_LIMIT = 2**28


@dataclass(frozen=True)
class LatencyReport:
    """Seconds from setting a prompt to the last packet of the first picture under it.

    first_picture_s: from beginning the stream, with the model loaded.  played_fps: pictures that
    came, a second.  loop_late_ms, loop_busy_ms: the longest stall of the event loop while the
    stream ran, whatever the reason, and what its own work took of that; see `LoopWatch`.
    """

    model: str
    prompts: int
    first_picture_s: float
    latency_s_p50: float
    latency_s_p90: float
    latency_s_max: float
    played_fps: float
    loop_late_ms: float
    loop_busy_ms: float
    verdict: str

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


class _Watching:
    """The client of the stream: its viewer tells when pictures leave."""

    def __init__(self) -> None:
        self.viewer: Viewer | None = None

    def tell(self, message: Message) -> None:
        """Nothing is shown to anybody."""

    def rtp_timestamp(self, pts: int) -> int | None:
        """See `live.Client`."""
        return None if self.viewer is None else self.viewer.rtp_timestamp(pts)


async def bench_latency(config: Config, num_prompts: int, pause_s: float = 1.0) -> LatencyReport:
    """Set so many prompts, one after the other is seen, with a pause between.

    Raises EngineError when no viewer can connect or a prompt is never seen.
    """
    engine = Engine(config)
    texts = config.examples or ["red", "blue"]
    try:
        await engine.start()
        prompts = [
            Prompt(f"p{number}", texts[number % len(texts)]) for number in range(num_prompts + 1)
        ]
        stream = LiveStream("bench", config, engine, prompts[0], seed=1)
        watching = _Watching()
        stream.attach(watching)
        async with _far_end() as far:
            offer = (await _hear(far))["offers"][0]
            viewer = await Viewer.accept(offer, stream.broadcast, [], on_closed=lambda _: None)
            watching.viewer = viewer
            try:
                await _say(far, answers=[viewer.answer_sdp])
                async with watch_loop() as loop_watch:
                    wanted = await _show(stream, watching, prompts, pause_s)
                await _say(far, stop=True)
                frames = (await _hear(far))["viewers"][0]["frames"]
                seen = _seen(stream, viewer, prompts, frames)
            finally:
                stream.detach(watching)
                await viewer.close()
                await stream.end("the benchmark is over")
    finally:
        await engine.close()
    return _report(config, wanted, seen, [at for _, at in frames], loop_watch)


async def _show(
    stream: LiveStream, watching: _Watching, prompts: list[Prompt], pause_s: float
) -> list[float]:
    """Begin under the first prompt, set the others one by one; when each was set."""
    wanted = [time.monotonic()]
    stream.begin()
    stream.watch(watching)
    await _until_shown(stream, prompts[0])
    for prompt in prompts[1:]:
        await asyncio.sleep(pause_s)
        wanted.append(time.monotonic())
        stream.set_prompt(prompt)
        await _until_shown(stream, prompt)
    await asyncio.sleep(ARRIVAL_S)
    return wanted


def _seen(
    stream: LiveStream, viewer: Viewer, prompts: list[Prompt], frames: list[tuple[int, float]]
) -> list[float]:
    """When the first picture under each prompt had come, or the next after a lost one."""
    shown = {each.prompt.id: each.pts for each in stream.changes.shown}
    times = []
    for prompt in prompts:
        stamp = viewer.rtp_timestamp(shown[prompt.id])
        assert stamp is not None
        # Timestamps wrap at 32 bits: later ones are less than half a round ahead.
        later = [at for found, at in frames if (found - stamp) % 2**32 < 2**31]
        if not later:
            raise EngineError(f"no picture under prompt {prompt.text!r} came to the viewer")
        times.append(min(later))
    return times


def _report(
    config: Config,
    wanted: list[float],
    seen: list[float],
    arrivals: list[float],
    loop_watch: LoopWatch,
) -> LatencyReport:
    spent = [at - asked for asked, at in zip(wanted[1:], seen[1:], strict=True)]
    fps = (len(arrivals) - 1) / (arrivals[-1] - arrivals[0])
    return LatencyReport(
        model=config.name,
        prompts=len(spent),
        first_picture_s=round(seen[0] - wanted[0], 3),
        latency_s_p50=round(median(spent), 3),
        latency_s_p90=round(percentile(spent, 0.9), 3),
        latency_s_max=round(max(spent), 3),
        played_fps=round(fps, 2),
        loop_late_ms=round(loop_watch.late_ms, 1),
        loop_busy_ms=round(loop_watch.busy_ms, 1),
        verdict=f"A prompt is seen after {median(spent):.2f} s; a browser adds its jitter buffer, "
        "about 0.1 s, and the network its way.",
    )


async def _until_shown(stream: LiveStream, prompt: Prompt) -> None:
    limit = time.monotonic() + PROMPT_LIMIT_S
    while not any(each.prompt.id == prompt.id for each in stream.changes.shown):
        if time.monotonic() > limit or stream.state in ("ended", "failed"):
            raise EngineError(
                f"the prompt {prompt.text!r} was not shown within {PROMPT_LIMIT_S:g} s; the stream "
                f"is {stream.state}"
            )
        await asyncio.sleep(0.02)


@asynccontextmanager
async def _far_end() -> AsyncIterator[asyncio.subprocess.Process]:
    far = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "streamer.bench_viewers", "1", "H264"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        limit=_LINE_LIMIT,
    )
    try:
        yield far
    finally:
        if far.returncode is None:
            far.terminate()
        await far.wait()


async def _say(far: asyncio.subprocess.Process, **message: object) -> None:
    assert far.stdin is not None
    far.stdin.write(json.dumps(message).encode() + b"\n")
    await far.stdin.drain()


async def _hear(far: asyncio.subprocess.Process) -> dict[str, Any]:
    assert far.stdout is not None
    line = await asyncio.wait_for(far.stdout.readline(), CONNECT_S)
    if not line:
        raise EngineError("the viewer's process ended; its own message is above")
    heard: dict[str, Any] = json.loads(line)
    return heard
