"""Encode once, hand the same packets to everybody who watches.

A `Broadcast` has one `_Line` per codec in use: an encoder with a thread of its own and the tracks
it feeds.  A line starts when its first track joins and ends when its last one leaves.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import av
import numpy as np
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from numpy.typing import NDArray

from streamer.delivery.encoder import Codec, VideoEncoder, check_picture
from streamer.pacing import CLOCK_RATE, TimedFrame

log = logging.getLogger(__name__)

QUEUE_LIMIT = 32
"""Packets one viewer may lag behind; beyond that it is set to the next key frame."""

KEY_INTERVAL_S = 0.5
"""Least time between two key frames of one encoder, however many viewers ask."""

IDLE_S = 0.5
"""After so long without a frame the last picture is sent again."""

_KEY_WAIT_S = 0.15  # a wanted key frame waits so long for a frame before the last is repeated
_BITRATE_WINDOW_S = 2.0


class PacketTrack(MediaStreamTrack):
    """The packets of one codec for one viewer, as aiortc reads them.

    Owner: a Viewer.  It joins the broadcast with the first `recv`, that is, when the connection
    stands: a viewer that never connects costs nothing.  Its packets start with a key frame.
    """

    kind = "video"

    def __init__(self, broadcast: Broadcast, codec: Codec = "VP8") -> None:
        super().__init__()
        self.codec: Codec = codec
        self.sent_pts: int | None = None
        self._broadcast = broadcast
        self._queue: deque[av.Packet[av.VideoStream]] = deque()
        self._has_joined = False
        self._needs_key = True
        self._changed = asyncio.Event()

    async def recv(self) -> av.Packet[av.VideoStream]:
        """The next packet.  Raises MediaStreamError when the track was stopped."""
        if not self._has_joined and self.readyState == "live":
            self._has_joined = True
            self._broadcast.join(self)
        while not self._queue and self.readyState == "live":
            self._changed.clear()
            await self._changed.wait()
        if self.readyState != "live":
            raise MediaStreamError
        packet = self._queue.popleft()
        self.sent_pts = packet.pts
        return packet

    def feed(self, packet: av.Packet[av.VideoStream]) -> int:
        """Queue a packet for the viewer; returns how many were dropped on the way."""
        dropped = 0
        if len(self._queue) >= QUEUE_LIMIT:
            dropped = len(self._queue)
            self._queue.clear()
            self._needs_key = True
        if self._needs_key and not packet.is_keyframe:
            if dropped:
                self.request_keyframe()
                dropped += 1
            return dropped
        self._needs_key = False
        self._queue.append(packet)
        self._changed.set()
        return dropped

    def request_keyframe(self) -> None:
        """Ask the encoder behind this track for a key frame."""
        self._broadcast.request_keyframe(self.codec)

    def stop(self) -> None:
        """Leave the broadcast and end `recv`.  Idempotent."""
        super().stop()
        self._queue.clear()
        self._changed.set()
        self._broadcast.leave(self)


class _Line:
    """One encoder, its thread and the tracks it feeds.  Lives on the event loop."""

    def __init__(self, encoder: VideoEncoder, clock: Callable[[], float]) -> None:
        self.tracks: list[PacketTrack] = []
        self.wants_key = True
        self._encoder = encoder
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, f"encode-{encoder.codec}")
        self._key_at = float("-inf")
        self._sizes: deque[tuple[float, int]] = deque()

    async def convert(self, pixels: NDArray[np.uint8]) -> av.VideoFrame:
        """RGB [H, W, 3] to a yuv420p picture, in this line's thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, _to_picture, pixels)

    async def encode(self, picture: av.VideoFrame) -> int:
        """Encode a picture and feed the tracks; returns how many packets were dropped."""
        now = self._clock()
        keyframe = self.wants_key and now - self._key_at >= KEY_INTERVAL_S
        if keyframe:
            self.wants_key, self._key_at = False, now
        loop = asyncio.get_running_loop()
        packets = await loop.run_in_executor(self._thread, self._encoder.encode, picture, keyframe)
        self._sizes.extend((now, packet.size) for packet in packets)
        return sum(track.feed(packet) for packet in packets for track in tuple(self.tracks))

    def bitrate_kbps(self) -> float:
        """What was made in the last seconds."""
        now = self._clock()
        while self._sizes and self._sizes[0][0] < now - _BITRATE_WINDOW_S:
            self._sizes.popleft()
        return sum(size for _, size in self._sizes) * 8 / 1000 / _BITRATE_WINDOW_S

    def close(self) -> None:
        """Let the thread end after what it is doing."""
        self._thread.shutdown(wait=False)


class Broadcast:
    """The pictures of one stream on their way to its viewers.

    Owner: LiveStream, on the event loop.  Nothing is encoded while nobody watches.  While no frame
    comes, the last picture is repeated twice a second: whoever joins a paused stream sees it.
    width, height: even, in pixels.  Raises ConfigError when they cannot be encoded.
    """

    def __init__(
        self,
        width: int,
        height: int,
        fps: int,
        bitrate_kbps: int = 1200,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        check_picture(width, height, fps, bitrate_kbps)
        self.dropped = 0
        self._size = width, height
        self._fps = fps
        self._target_kbps = bitrate_kbps
        self._clock = clock
        self._lines: dict[Codec, _Line] = {}
        self._last: tuple[NDArray[np.uint8], int, float] | None = None
        self._last_pts = -1
        self._lock = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None
        self._repeating: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def num_viewers(self) -> int:
        """Viewers that are connected and being sent to."""
        return sum(len(line.tracks) for line in self._lines.values())

    @property
    def codecs(self) -> tuple[Codec, ...]:
        """Codecs with an encoder at work."""
        return tuple(self._lines)

    @property
    def bitrate_kbps(self) -> float:
        """Video bitrate to one viewer, measured over the last seconds; the larger of two codecs."""
        return max((line.bitrate_kbps() for line in self._lines.values()), default=0.0)

    def join(self, track: PacketTrack) -> None:
        """Feed a track, from the next key frame on, which is made at once."""
        if self._closed:
            track.stop()
            return
        line = self._lines.get(track.codec)
        if line is None:
            encoder = VideoEncoder(track.codec, *self._size, self._fps, self._target_kbps)
            line = self._lines[track.codec] = _Line(encoder, self._clock)
            log.info("encoder started codec=%s", track.codec)
        line.tracks.append(track)
        self.request_keyframe(track.codec)

    def leave(self, track: PacketTrack) -> None:
        """Stop feeding a track; its encoder ends with its last track.  Idempotent."""
        line = self._lines.get(track.codec)
        if line is None or track not in line.tracks:
            return
        line.tracks.remove(track)
        if not line.tracks:
            del self._lines[track.codec]
            line.close()
            log.info("encoder ended codec=%s", track.codec)
        if not self._lines:
            self._disarm()

    def request_keyframe(self, codec: Codec) -> None:
        """Make the next picture of this codec a key frame, KEY_INTERVAL_S after the last at least.

        When no picture is on its way (the stream is idle), the last one is sent again for it.
        """
        line = self._lines.get(codec)
        if line is not None:
            line.wants_key = True
            self._arm(_KEY_WAIT_S)

    async def push(self, frame: TimedFrame) -> None:
        """Send a frame to everybody who watches; returns when its packets are with the tracks."""
        self._last = frame.pixels, frame.pts, self._clock()
        if self._lines and not self._closed:
            async with self._lock:
                await self._send(frame.pixels, frame.pts)

    async def close(self) -> None:
        """Stop all tracks, encoders and timers.  Idempotent."""
        self._closed = True
        for line in tuple(self._lines.values()):
            for track in tuple(line.tracks):
                track.stop()
        self._disarm()
        self._last = None
        if self._repeating is not None:
            await asyncio.gather(self._repeating, return_exceptions=True)

    async def _send(self, pixels: NDArray[np.uint8], pts: int) -> None:
        lines = tuple(self._lines.values())
        if not lines:
            return
        picture = await lines[0].convert(pixels)
        picture.pts = self._last_pts = max(self._last_pts + 1, pts)
        # One after the other: an encoder writes the wanted picture type into the picture.
        for line in lines:
            if line.tracks:  # else its last viewer has left meanwhile
                self.dropped += await line.encode(picture)
        self._disarm()
        if self._lines:
            self._arm(IDLE_S)

    def _arm(self, delay_s: float) -> None:
        """Repeat the last picture after `delay_s`, or earlier when that was arranged already."""
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            if self._timer.when() <= loop.time() + delay_s:
                return
            self._timer.cancel()
        self._timer = loop.call_later(delay_s, self._start_repeat)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _start_repeat(self) -> None:
        self._timer = None
        if not self._closed and (self._repeating is None or self._repeating.done()):
            self._repeating = asyncio.get_running_loop().create_task(self._repeat())

    async def _repeat(self) -> None:
        if self._last is None:
            return
        async with self._lock:
            pixels, pts, pushed_at = self._last
            await self._send(pixels, pts + round((self._clock() - pushed_at) * CLOCK_RATE))


def _to_picture(pixels: NDArray[np.uint8]) -> av.VideoFrame:
    return av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p")
