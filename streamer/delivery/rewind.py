"""The last seconds of what was sent, for `save the last 30 seconds`.

It keeps the very packets, from a key frame on; it encodes nothing and keeps no encoder at work.
"""

from __future__ import annotations

from collections import deque

from streamer.delivery.encoder import Codec
from streamer.delivery.subscription import Packet
from streamer.pacing import CLOCK_RATE

KEY_EVERY_S = 10.0
"""A key frame is wanted so often, so that what is kept is seldom much longer than what is asked."""

_STALE_S = 2.0  # a codec silent for so long makes way for another


class Rewind:
    """Packets of one codec over the last seconds.  Owner: Broadcast.  Lives on the event loop.

    keep_s: how far it reaches back; 0 keeps nothing.  Holds at most keep_s + KEY_EVERY_S and what
    a late key frame adds.
    """

    def __init__(self, keep_s: float) -> None:
        self.keep_s = keep_s
        self.codec: Codec | None = None
        self._packets: deque[Packet] = deque()
        self._keys: deque[int] = deque()

    def add(self, codec: Codec, packet: Packet) -> bool:
        """Keep a packet.  Returns whether a key frame is due, so that older ones can go."""
        assert packet.pts is not None
        if self.keep_s <= 0:
            return False
        if codec != self.codec:
            if self._packets and packet.pts - self._newest < _STALE_S * CLOCK_RATE:
                return False
            self._restart(codec)
        if not self._packets and not packet.is_keyframe:
            return False
        if packet.is_keyframe:
            self._keys.append(packet.pts)
        self._packets.append(packet)
        self._forget_before(packet.pts - round(self.keep_s * CLOCK_RATE))
        return packet.pts - self._keys[-1] >= KEY_EVERY_S * CLOCK_RATE

    def last(self, seconds: float) -> list[Packet]:
        """The packets of the last seconds, from the key frame before on; empty when there is none.

        The first packet may be up to KEY_EVERY_S earlier than asked for.
        """
        if not self._packets:
            return []
        wanted = self._newest - round(min(seconds, self.keep_s) * CLOCK_RATE)
        first = max((key for key in self._keys if key <= wanted), default=self._keys[0])
        return [
            packet for packet in self._packets if packet.pts is not None and packet.pts >= first
        ]

    def clear(self) -> None:
        """Forget everything."""
        self._packets.clear()
        self._keys.clear()
        self.codec = None

    @property
    def _newest(self) -> int:
        newest = self._packets[-1].pts
        assert newest is not None
        return newest

    def _restart(self, codec: Codec) -> None:
        self.clear()
        self.codec = codec

    def _forget_before(self, pts: int) -> None:
        """Drop what lies before the last key frame at or before `pts`."""
        while len(self._keys) > 1 and self._keys[1] <= pts:
            self._keys.popleft()
            while self._packets[0].pts != self._keys[0]:
                self._packets.popleft()
