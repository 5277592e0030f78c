"""A line: one encoder, its thread, and the subscriptions it feeds."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import av
import numpy as np
from numpy.typing import NDArray

from streamer.delivery.bitrate import Tier, line_kbps
from streamer.delivery.encoder import Codec, VideoEncoder
from streamer.delivery.planes import video_frame
from streamer.delivery.subscription import Packet, Subscription

KEY_INTERVAL_S = 0.5
"""Least time between two key frames of one encoder, however many viewers ask."""

PRIME_S = 0.3
"""Who joins within this time after a key frame is handed it, and what followed, at once."""

_BITRATE_WINDOW_S = 2.0


class Line:
    """The packets of one codec and rendition.  Owner: Broadcast, on the event loop."""

    def __init__(
        self, encoder: VideoEncoder, tier: Tier, full_kbps: float, clock: Callable[[], float]
    ) -> None:
        self.codec: Codec = encoder.codec
        self.tier: Tier = tier
        self.size = encoder.width, encoder.height
        self.subscriptions: list[Subscription] = []
        self.arriving: list[tuple[Subscription, Line]] = []
        self.wants_key = True
        self.num_keyframes = 0
        self._encoder = encoder
        self._full_kbps = full_kbps
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, f"encode-{encoder.codec}-{tier}")
        self._key_at = float("-inf")
        self._since_key: list[Packet] = []
        self._sizes: deque[tuple[float, int]] = deque()

    @property
    def is_needed(self) -> bool:
        """Whether anybody is fed, or about to be."""
        return bool(self.subscriptions or self.arriving)

    @property
    def target_kbps(self) -> int:
        """What the encoder aims at."""
        return self._encoder.bitrate_kbps

    def join(self, subscription: Subscription) -> None:
        """Feed a subscription from a key frame on: the last one if it is fresh, else the next."""
        self.subscriptions.append(subscription)
        if self._since_key and self._clock() - self._key_at <= PRIME_S:
            for packet in self._since_key:
                subscription.feed(packet)
        else:
            self.wants_key = True
        self.adapt()

    def expect(self, subscription: Subscription, old: Line) -> None:
        """Take over a subscription of another line with the next key frame."""
        self.arriving.append((subscription, old))
        self.wants_key = True

    def leave(self, subscription: Subscription) -> None:
        """Feed a subscription no longer.  Idempotent."""
        if subscription in self.subscriptions:
            self.subscriptions.remove(subscription)
        self.arriving = [each for each in self.arriving if each[0] is not subscription]
        self.adapt()

    def adapt(self) -> None:
        """Set the bitrate by what those that are fed can carry."""
        wishes = [each.rate.kbps for each in self.subscriptions if each.rate is not None]
        self._encoder.set_bitrate(line_kbps(self.tier, self._full_kbps, wishes))

    async def convert(self, pixels: NDArray[np.uint8]) -> av.VideoFrame:
        """A picture in either layout to yuv420p, in this line's thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, video_frame, pixels)

    async def encode(self, picture: av.VideoFrame) -> tuple[list[Packet], int]:
        """Encode a picture and feed everybody.

        picture: yuv420p of the full size.  Returns the packets and how many were dropped.
        """
        now = self._clock()
        keyframe = self.wants_key and now - self._key_at >= KEY_INTERVAL_S
        if keyframe:
            self.wants_key = False
        loop = asyncio.get_running_loop()
        packets = await loop.run_in_executor(self._thread, self._encoded, picture, keyframe)
        dropped = 0
        for packet in packets:
            self._note(packet, now)
            if packet.is_keyframe:
                self._welcome(packet)
            dropped += sum(each.feed(packet) for each in tuple(self.subscriptions))
        return packets, dropped

    def bitrate_kbps(self) -> float:
        """What was made in the last seconds."""
        now = self._clock()
        while self._sizes and self._sizes[0][0] < now - _BITRATE_WINDOW_S:
            self._sizes.popleft()
        return sum(size for _, size in self._sizes) * 8 / 1000 / _BITRATE_WINDOW_S

    def close(self) -> None:
        """Let the thread end after what it is doing."""
        self._thread.shutdown(wait=False)

    def _note(self, packet: Packet, now: float) -> None:
        self._sizes.append((now, packet.size))
        if packet.is_keyframe:
            self._key_at, self._since_key = now, [packet]
            self.num_keyframes += 1
        elif now - self._key_at <= PRIME_S:
            self._since_key.append(packet)
        else:
            self._since_key.clear()

    def _welcome(self, packet: Packet) -> None:
        """Take over those that wait for a key frame, unless they have this picture already."""
        waiting, self.arriving = self.arriving, []
        for subscription, old in waiting:
            last = subscription.last_pts
            if last is not None and packet.pts is not None and last >= packet.pts:
                self.arriving.append((subscription, old))
                self.wants_key = True
                continue
            old.leave(subscription)
            self.subscriptions.append(subscription)
            self.adapt()

    def _encoded(self, picture: av.VideoFrame, keyframe: bool) -> list[Packet]:
        if (picture.width, picture.height) != self.size:
            pts = picture.pts
            picture = picture.reformat(width=self.size[0], height=self.size[1])
            picture.pts = pts
        return self._encoder.encode(picture, keyframe)
