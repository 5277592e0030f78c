"""What viewers cost: one stream sent to loop-back viewers, with one encoder and with one for each.

Pictures are synthetic: a panning texture with noise, made beforehand.  The viewers live in another
process and decode nothing, so the time counted is the server's own: converting, encoding, packets,
encryption, sockets.
"""

from __future__ import annotations

import asyncio
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer.delivery.encoder import CODECS, Codec, best_h264, check_picture
from streamer.delivery.fanout import Broadcast
from streamer.delivery.webrtc import Viewer
from streamer.errors import ConfigError, EngineError
from streamer.pacing import CLOCK_RATE, TimedFrame

SETTLE_S = 2.0
"""Time for connecting, key frames and caches before the counting begins."""

CONNECT_S = 60.0
_PICTURES = 48
_LINE_LIMIT = 2**28


@dataclass(frozen=True)
class Figures:
    """One way of sending to so many viewers.

    cpu_cores: processor time of the server over wall time.  cpu_ms_per_frame: the same over the
    frames of the stream, which still tells something where the machine could not keep up and
    played_fps is low.  frames_sent, frames_lost: of all
    viewers together.  bitrate_kbps: to one viewer.  lateness: from when a frame was due until a
    viewer had all of it.
    """

    cpu_cores: float
    cpu_ms_per_frame: float
    frames_sent: int
    frames_lost: int
    bitrate_kbps: float
    key_frames: int
    lateness_ms_p50: float
    lateness_ms_p99: float
    played_fps: float


@dataclass(frozen=True)
class Run:
    """So many viewers, fed by one encoder (the figures themselves) and by one each."""

    viewers: int
    cpu_cores: float
    cpu_ms_per_frame: float
    frames_sent: int
    frames_lost: int
    bitrate_kbps: float
    key_frames: int
    lateness_ms_p50: float
    lateness_ms_p99: float
    played_fps: float
    encoder_each: Figures | None


@dataclass(frozen=True)
class DeliveryReport:
    """All runs on this machine."""

    size: str
    fps: int
    codec: str
    encoder: str
    seconds: float
    machine: str
    runs: list[Run]

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


async def bench_delivery(
    viewers: Sequence[int],
    size: tuple[int, int],
    fps: int,
    codec: Codec,
    *,
    seconds: float = 10.0,
    bitrate_kbps: int | None = None,
    compares: bool = True,
) -> DeliveryReport:
    """Measure each number of viewers in turn.  compares: also with one encoder per viewer.

    Raises ConfigError for what cannot be encoded, EngineError when the viewers fail.
    """
    if codec not in CODECS:
        raise ConfigError(f"codec is {codec!r}; known: {', '.join(CODECS)}")
    check_picture(*size, fps, bitrate_kbps or 1)
    if any(count < 1 for count in viewers):
        raise ConfigError(f"--viewers {min(viewers)}: at least 1 is needed")
    pictures = panning_pictures(*size)
    runs = []
    for count in viewers:
        bench = _Bench(pictures, fps, codec, bitrate_kbps, seconds)
        once = await bench.run(count, num_encoders=1)
        each = await bench.run(count, num_encoders=count) if compares else None
        runs.append(Run(viewers=count, **asdict(once), encoder_each=each))
    return DeliveryReport(
        size=f"{size[0]}x{size[1]}",
        fps=fps,
        codec=codec,
        encoder=best_h264() if codec == "H264" else "libvpx",
        seconds=seconds,
        machine=f"{platform.machine()} {platform.system()} Python {platform.python_version()}",
        runs=runs,
    )


def panning_pictures(width: int, height: int) -> list[NDArray[np.uint8]]:
    """A texture that pans with a moving disc and some noise, uint8 [H, W, 3] each; it loops."""
    rng = np.random.default_rng(7)
    coarse = rng.integers(40, 216, (height // 16 + 2, width // 16 + 2, 3), dtype=np.uint8)
    texture = np.kron(coarse, np.ones((16, 16, 1), np.uint8))[:height, :width].astype(np.int16)
    y, x = np.mgrid[:height, :width]
    pictures = []
    for number in range(_PICTURES):
        angle = 2 * np.pi * number / _PICTURES
        shown = np.roll(texture, number * (width // _PICTURES), axis=1)
        near = (x - width * (0.5 + 0.3 * np.cos(angle))) ** 2
        near = near + (y - height * (0.5 + 0.3 * np.sin(angle))) ** 2
        shown = np.where((near < (height / 6) ** 2)[..., None], (235, 60, 40), shown)
        noise = rng.integers(-4, 5, shown.shape, dtype=np.int16)
        pictures.append(np.clip(shown + noise, 0, 255).astype(np.uint8))
    return pictures


class _Bench:
    """One setting; each `run` has its own broadcasts, viewers and process of far ends."""

    def __init__(
        self,
        pictures: list[NDArray[np.uint8]],
        fps: int,
        codec: Codec,
        bitrate_kbps: int | None,
        seconds: float,
    ) -> None:
        self._pictures = pictures
        self._fps = fps
        self._codec: Codec = codec
        self._kbps = bitrate_kbps
        self._seconds = seconds

    async def run(self, count: int, num_encoders: int) -> Figures:
        """Send for some seconds to `count` viewers, spread over so many broadcasts."""
        broadcasts = [self._broadcast() for _ in range(num_encoders)]
        far = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "streamer.bench_viewers", str(count), self._codec),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            limit=_LINE_LIMIT,
        )
        viewers: list[Viewer] = []
        try:
            offers = (await _hear(far))["offers"]
            for number, offer in enumerate(offers):
                broadcast = broadcasts[number % num_encoders]
                viewers.append(await Viewer.accept(offer, broadcast, [], on_closed=lambda v: None))
            await _say(far, answers=[viewer.answer_sdp for viewer in viewers])
            return await self._measure(far, broadcasts, viewers)
        finally:
            await asyncio.gather(*(viewer.close() for viewer in viewers))
            await asyncio.gather(*(broadcast.close() for broadcast in broadcasts))
            if far.returncode is None:
                far.terminate()
            await far.wait()

    def _broadcast(self) -> Broadcast:
        height, width = self._pictures[0].shape[:2]
        return Broadcast(width, height, self._fps, self._kbps, h264=best_h264())

    async def _measure(
        self,
        far: asyncio.subprocess.Process,
        broadcasts: list[Broadcast],
        viewers: list[Viewer],
    ) -> Figures:
        sender = _Sender(self._pictures, self._fps, broadcasts)
        connected_by = time.monotonic() + CONNECT_S
        while not all(viewer.rtp_timestamp(0) is not None for viewer in viewers):
            if time.monotonic() > connected_by:
                raise EngineError(f"the viewers did not connect within {CONNECT_S:g} s")
            await sender.send_for(0.2)
        await sender.send_for(SETTLE_S)
        first = sender.number
        keys = sum(broadcast.num_keyframes for broadcast in broadcasts)
        began, cpu = time.monotonic(), _cpu_s()
        await sender.send_for(self._seconds)
        wall_s, cpu_s = time.monotonic() - began, _cpu_s() - cpu
        keys = sum(broadcast.num_keyframes for broadcast in broadcasts) - keys
        last = sender.number
        await sender.send_for(0.5)  # what is on its way arrives
        await _say(far, stop=True)
        told = (await _hear(far))["viewers"]
        due = {sender.pts_of(number): sender.due_s(number) for number in range(first, last)}
        lateness: list[float] = []
        for viewer, seen in zip(viewers, told, strict=True):
            origin = viewer.rtp_timestamp(0)
            assert origin is not None
            for stamp, at in seen["frames"]:
                due_s = due.get((stamp - origin) % 2**32)
                if due_s is not None:
                    lateness.append((at - due_s) * 1000)
        sent = (last - first) * len(viewers)
        if not lateness:
            raise EngineError("no frame arrived; is UDP on 127.0.0.1 blocked?")
        cuts = statistics.quantiles(lateness, n=100) if len(lateness) > 1 else lateness * 99
        kbps = statistics.fmean(seen["bytes"] for seen in told) * 8 / 1000 / sender.seconds
        return Figures(
            cpu_cores=round(cpu_s / wall_s, 3),
            cpu_ms_per_frame=round(1000 * cpu_s / (last - first), 2),
            frames_sent=sent,
            frames_lost=sent - len(lateness),
            bitrate_kbps=round(kbps, 1),
            key_frames=keys,
            lateness_ms_p50=round(cuts[49], 1),
            lateness_ms_p99=round(cuts[98], 1),
            played_fps=round((last - first) / wall_s, 2),
        )


class _Sender:
    """Frames at an even rate, each pushed into all broadcasts; late ones are not left out."""

    def __init__(
        self, pictures: list[NDArray[np.uint8]], fps: int, broadcasts: list[Broadcast]
    ) -> None:
        self.number = 0
        self._pictures = pictures
        self._fps = fps
        self._broadcasts = broadcasts
        self._start_s = time.monotonic()

    @property
    def seconds(self) -> float:
        """How long it has been sending."""
        return time.monotonic() - self._start_s

    def due_s(self, number: int) -> float:
        """When a frame is due, on the monotonic clock."""
        return self._start_s + number / self._fps

    def pts_of(self, number: int) -> int:
        """The same on the stream's clock."""
        return round(number * CLOCK_RATE / self._fps)

    async def send_for(self, seconds: float) -> None:
        """Push the frames that fall due in the next seconds, at most as many as that."""
        for _ in range(max(1, round(seconds * self._fps))):
            wait_s = self.due_s(self.number) - time.monotonic()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            pixels = self._pictures[self.number % len(self._pictures)]
            frame = TimedFrame(pixels, self.number, 0, "bench", self.pts_of(self.number))
            await asyncio.gather(*(broadcast.push(frame) for broadcast in self._broadcasts))
            self.number += 1


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def _say(far: asyncio.subprocess.Process, **message: object) -> None:
    assert far.stdin is not None
    far.stdin.write(json.dumps(message).encode() + b"\n")
    await far.stdin.drain()


async def _hear(far: asyncio.subprocess.Process) -> dict[str, Any]:
    assert far.stdout is not None
    line = await asyncio.wait_for(far.stdout.readline(), CONNECT_S)
    if not line:
        raise EngineError("the process of the viewers ended; its own message is above")
    heard: dict[str, Any] = json.loads(line)
    return heard
