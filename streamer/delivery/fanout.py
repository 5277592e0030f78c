"""Encode once, hand the same packets to everybody who watches.

A `Broadcast` has one `Line` per codec and rendition in use.  A line starts when its first
subscription joins and ends when its last one leaves.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from numpy.typing import NDArray

from streamer.delivery.bitrate import SMALL_SHARE, Tier, ViewerRate, small_size, usual_kbps
from streamer.delivery.encoder import Codec, H264Encoder, VideoEncoder, check_picture
from streamer.delivery.line import Line
from streamer.delivery.rewind import Rewind
from streamer.delivery.subscription import Packet, Subscription, SubscriptionClosedError
from streamer.pacing import CLOCK_RATE, TimedFrame

log = logging.getLogger(__name__)

IDLE_S = 0.5
"""After so long without a frame the last picture is sent again."""

_KEY_WAIT_S = 0.15  # a wanted key frame waits so long for a frame before the last is repeated


class PacketTrack(MediaStreamTrack):
    """The packets of one codec for one viewer, as aiortc reads them.

    Owner: a Viewer or a Publisher.  It joins the broadcast with the first `recv`, that is, when the
    connection stands: a viewer that never connects costs nothing.
    on_dropped: called once when the viewer is given up for being too slow.
    """

    kind = "video"

    def __init__(
        self,
        broadcast: Broadcast,
        codec: Codec = "VP8",
        *,
        on_dropped: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__()
        self.sent_pts: int | None = None
        self.subscription = Subscription(
            broadcast, codec, on_dropped=on_dropped, clock=broadcast.clock
        )
        self._has_joined = False

    @property
    def codec(self) -> Codec:
        """The codec of the packets; may be chosen until the first `recv`."""
        return self.subscription.codec

    @codec.setter
    def codec(self, codec: Codec) -> None:
        self.subscription.codec = codec

    async def recv(self) -> Packet:
        """The next packet.  Raises MediaStreamError when the track was stopped."""
        if not self._has_joined and self.readyState == "live":
            self._has_joined = True
            self.subscription.join()
        try:
            packet = await self.subscription.next()
        except SubscriptionClosedError as error:
            raise MediaStreamError from error
        self.sent_pts = packet.pts
        return packet

    def request_keyframe(self) -> None:
        """Ask the encoder behind this track for a key frame."""
        self.subscription.request_keyframe()

    def stop(self) -> None:
        """Leave the broadcast and end `recv`.  Idempotent."""
        super().stop()
        self.subscription.close()


@dataclass(frozen=True)
class Rendition:
    """One line at work, for the statistics."""

    codec: Codec
    tier: Tier
    width: int
    height: int
    kbps: float
    target_kbps: int
    viewers: int


class Broadcast:
    """The pictures of one stream on their way to its viewers.

    Owner: LiveStream, on the event loop.  Nothing is encoded while nobody watches.  While no frame
    comes, the last picture is repeated twice a second: whoever joins a paused stream sees it.
    width, height: even, in pixels.  bitrate_kbps: of the full rendition; None suits size and rate.
    rewind_s: how much of what was sent is kept.  Raises ConfigError when they cannot be encoded.
    """

    def __init__(
        self,
        width: int,
        height: int,
        fps: int,
        bitrate_kbps: int | None = None,
        *,
        h264: H264Encoder = "libx264",
        rewind_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.full_kbps = bitrate_kbps or usual_kbps(width, height, fps)
        check_picture(width, height, fps, self.full_kbps)
        self.clock = clock
        self.dropped = 0
        self.num_pushed = 0
        self.num_keyframes = 0
        self.encode_s = 0.0
        self.rewind = Rewind(rewind_s)
        self._size = width, height
        self._small_size = small_size(width, height)
        self._fps = fps
        self._h264: H264Encoder = h264
        self._lines: dict[tuple[Codec, Tier], Line] = {}
        self._last: tuple[TimedFrame, float] | None = None
        self._last_pts = -1
        self._lock = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None
        self._repeating: asyncio.Task[None] | None = None
        self._failure: Exception | None = None
        self._closed = False

    @property
    def num_viewers(self) -> int:
        """Subscriptions that are being fed."""
        return sum(len(line.subscriptions) for line in self._lines.values())

    @property
    def codecs(self) -> tuple[Codec, ...]:
        """Codecs with an encoder at work."""
        return tuple(dict.fromkeys(codec for codec, _ in self._lines))

    @property
    def renditions(self) -> list[Rendition]:
        """The lines at work."""
        return [
            Rendition(
                line.codec,
                line.tier,
                *line.size,
                round(line.bitrate_kbps(), 1),
                line.target_kbps,
                len(line.subscriptions),
            )
            for line in self._lines.values()
        ]

    @property
    def bitrate_kbps(self) -> float:
        """Video bitrate to one viewer, measured over the last seconds; the largest of all lines."""
        return max((line.bitrate_kbps() for line in self._lines.values()), default=0.0)

    @property
    def last_frame(self) -> TimedFrame | None:
        """The newest picture handed over."""
        return self._last[0] if self._last is not None else None

    def new_rate(self) -> ViewerRate:
        """What is known of a new viewer's way: nothing yet."""
        return ViewerRate(self.full_kbps, has_small=self._small_size is not None)

    def join(self, subscription: Subscription) -> None:
        """Feed a subscription: from the last key frame if it is fresh, else one is made at once."""
        if self._closed:
            subscription.close()
            return
        if self._line_of(subscription) is None:
            line = self._line(subscription.codec, subscription.tier)
            line.join(subscription)
            self._hurry(line)

    def leave(self, subscription: Subscription) -> None:
        """Stop feeding a subscription; its encoder ends with the last one.  Idempotent."""
        for key, line in tuple(self._lines.items()):
            line.leave(subscription)
            if not line.is_needed:
                self._end(key)
        if not self._lines:
            self._disarm()

    def adapt(self, subscription: Subscription) -> None:
        """Act on what a subscription learnt about its way: its rendition, its line's bitrate."""
        line = self._line_of(subscription)
        if line is None:
            return
        if subscription.tier != line.tier:
            wanted = self._line(subscription.codec, subscription.tier)
            if all(each is not subscription for each, _ in wanted.arriving):
                wanted.expect(subscription, line)
                self._hurry(wanted)
                log.info("viewer changes rendition tier=%s", subscription.tier)
        else:
            self._call_off(subscription, line)
        line.adapt()

    def request_keyframe(self, subscription: Subscription) -> None:
        """Make the next picture for this one a key frame, KEY_INTERVAL_S after the last at least.

        When no picture is on its way (the stream is idle), the last one is sent again for it.
        """
        line = self._line_of(subscription)
        if line is not None:
            line.wants_key = True
            self._hurry(line)

    async def push(self, frame: TimedFrame) -> None:
        """Send a frame to everybody who watches; returns when its packets are queued for them.

        Raises what the encoder raises, also what it raised since the last frame.
        """
        if self._failure is not None:
            raise self._failure
        self._last = frame, self.clock()
        self.num_pushed += 1
        if self._lines and not self._closed:
            async with self._lock:
                began_s = self.clock()
                await self._send(frame.pixels, frame.pts)
                self.encode_s = self.clock() - began_s

    async def close(self) -> None:
        """End all subscriptions, encoders and timers.  Idempotent."""
        self._closed = True
        for line in tuple(self._lines.values()):
            for subscription in (*line.subscriptions, *(each for each, _ in line.arriving)):
                subscription.close()
        self._disarm()
        self._last = None
        self.rewind.clear()
        if self._repeating is not None:
            await asyncio.gather(self._repeating, return_exceptions=True)

    def _line(self, codec: Codec, tier: Tier) -> Line:
        """The line of that codec and rendition, started if there is none."""
        line = self._lines.get((codec, tier))
        if line is None:
            is_small = tier == "small" and self._small_size is not None
            size = self._small_size if is_small and self._small_size else self._size
            kbps = round(self.full_kbps * (SMALL_SHARE if is_small else 1.0))
            encoder = VideoEncoder(codec, *size, self._fps, kbps, h264=self._h264)
            line = self._lines[codec, tier] = Line(encoder, tier, self.full_kbps, self.clock)
            log.info("encoder started codec=%s tier=%s kbps=%d", codec, tier, kbps)
        return line

    def _line_of(self, subscription: Subscription) -> Line | None:
        """The line that feeds this subscription now."""
        for line in self._lines.values():
            if subscription in line.subscriptions:
                return line
        return None

    def _call_off(self, subscription: Subscription, line: Line) -> None:
        """A change of rendition that is no longer wanted."""
        for key, other in tuple(self._lines.items()):
            if other is not line:
                other.arriving = [e for e in other.arriving if e[0] is not subscription]
                if not other.is_needed:
                    self._end(key)

    def _end(self, key: tuple[Codec, Tier]) -> None:
        line = self._lines.pop(key)
        line.close()
        log.info("encoder ended codec=%s tier=%s", line.codec, line.tier)

    async def _send(self, pixels: NDArray[np.uint8], pts: int) -> None:
        # Who changes lines is taken over before the old line feeds it the same picture.
        lines = sorted(self._lines.values(), key=lambda line: not line.arriving)
        if not lines:
            return
        picture = await lines[0].convert(pixels)
        picture.pts = self._last_pts = max(self._last_pts + 1, pts)
        # One after the other: an encoder writes the wanted picture type into the picture.
        for line in lines:
            if line.is_needed:  # else its last viewer has left meanwhile
                packets, dropped = await line.encode(picture)
                self.dropped += dropped
                self.num_keyframes += sum(packet.is_keyframe for packet in packets)
                if line.tier == "full":
                    for packet in packets:
                        line.wants_key |= self.rewind.add(line.codec, packet)
        for key, line in tuple(self._lines.items()):
            if not line.is_needed:  # all its viewers went over to another rendition
                self._end(key)
        self._disarm()
        if self._lines:
            self._arm(IDLE_S)

    def _hurry(self, line: Line) -> None:
        if line.wants_key:
            self._arm(_KEY_WAIT_S)

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
            frame, pushed_at = self._last
            late = round((self.clock() - pushed_at) * CLOCK_RATE)
            try:
                await self._send(frame.pixels, frame.pts + late)
            except Exception as error:  # nobody waits for this: the next frame tells it
                log.error("repeating a picture failed reason=%r", error)
                self._failure = error
