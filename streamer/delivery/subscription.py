"""A bounded queue of packets between a Line and one of those it serves.

Who reads too slowly loses packets up to the next key frame; who does so again and again is dropped.
Nobody else waits for it.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import av

from streamer.delivery.bitrate import Tier, ViewerRate
from streamer.delivery.encoder import Codec
from streamer.errors import StreamerError
from streamer.pacing import CLOCK_RATE

if TYPE_CHECKING:
    from streamer.delivery.fanout import Broadcast

Packet: TypeAlias = "av.Packet[av.VideoStream]"

LAG_LIMIT_S = 1.0
"""How much video may wait for one viewer, unless its subscription says otherwise."""

OVERFLOW_LIMIT = 5
OVERFLOW_WINDOW_S = 20.0
"""A viewer whose queue runs over so often within this time loses its place."""

KEY_BURST = 3
KEY_REQUESTS_PER_S = 0.5
"""How often one viewer may ask for a key frame: each is a larger frame for everybody."""


_SENT_PACKETS = 48
"""Over how many packets it is measured what is sent."""


class SubscriptionClosedError(StreamerError):
    """No more packets come: the subscription or its broadcast was closed."""


class Subscription:
    """The packets of one codec for one consumer.

    Owner: whoever reads it (a viewer, a recorder, a publisher), on the event loop.  Its packets
    start with a key frame.  lag_limit_s: how much video may wait.  is_adaptive: whether what it
    reports changes its rendition.  keeps_rest: what waits when it is closed can still be read.
    on_dropped: called once when it is given up for being too slow.
    """

    def __init__(
        self,
        broadcast: Broadcast,
        codec: Codec,
        *,
        lag_limit_s: float = LAG_LIMIT_S,
        is_adaptive: bool = True,
        keeps_rest: bool = False,
        on_dropped: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.codec: Codec = codec
        self.num_fed = 0
        self.num_dropped = 0
        self.last_pts: int | None = None
        self.is_closed = False
        self.rate: ViewerRate | None = broadcast.new_rate() if is_adaptive else None
        self._broadcast = broadcast
        self._lag_limit = round(lag_limit_s * CLOCK_RATE)
        self._keeps_rest = keeps_rest
        self._on_dropped = on_dropped
        self._clock = clock
        self._queue: deque[Packet] = deque()
        self._sent: deque[tuple[int, int]] = deque(maxlen=_SENT_PACKETS)
        self._needs_key = True
        self._changed = asyncio.Event()
        self._overflows: deque[float] = deque(maxlen=OVERFLOW_LIMIT)
        self._key_requests = float(KEY_BURST)
        self._key_asked_at = clock()

    @property
    def tier(self) -> Tier:
        """The rendition this consumer should be sent."""
        return self.rate.tier if self.rate is not None else "full"

    @property
    def lag_s(self) -> float:
        """How much video waits."""
        if not self._queue:
            return 0.0
        return (_pts(self._queue[-1]) - _pts(self._queue[0])) / CLOCK_RATE

    def join(self) -> None:
        """Start to be fed.  Idempotent."""
        self._broadcast.join(self)

    async def next(self) -> Packet:
        """The next packet.  Raises SubscriptionClosedError after `close`."""
        while not self._queue and not self.is_closed:
            self._changed.clear()
            await self._changed.wait()
        if not self._queue:
            raise SubscriptionClosedError("no more packets come")
        return self._queue.popleft()

    def feed(self, packet: Packet) -> int:
        """Queue a packet; returns how many were dropped on the way.  Never waits."""
        if self.is_closed:
            return 0
        dropped = 0
        self.last_pts = _pts(packet)
        if self._queue and _pts(packet) - _pts(self._queue[0]) > self._lag_limit:
            dropped = self._overflow()
            if self.is_closed:
                return dropped
        if self._needs_key and not packet.is_keyframe:
            self.num_dropped += 1
            return dropped + 1 if self.num_fed else dropped
        self._needs_key = False
        self.num_fed += 1
        self._queue.append(packet)
        self._sent.append((self.last_pts, packet.size))
        self._changed.set()
        return dropped

    def request_keyframe(self) -> None:
        """Ask for a key frame; too many requests of one consumer are not heard."""
        now_s = self._clock()
        earned = (now_s - self._key_asked_at) * KEY_REQUESTS_PER_S
        self._key_requests = min(KEY_BURST, self._key_requests + earned)
        self._key_asked_at = now_s
        if self._key_requests >= 1:
            self._key_requests -= 1
            self._broadcast.request_keyframe(self)

    def note_loss(self, fraction_lost: float) -> None:
        """A receiver report came.  fraction_lost: 0..1."""
        if self.rate is not None:
            self.rate.note_loss(self._clock(), fraction_lost)
            self._broadcast.adapt(self)

    def note_remb(self, kbps: float) -> None:
        """The receiver told what it thinks its way can carry."""
        if self.rate is not None:
            self.rate.note_remb(self._clock(), kbps, self._sent_kbps())
            self._broadcast.adapt(self)

    def close(self) -> None:
        """Leave the broadcast and end `next`.  Idempotent."""
        self.is_closed = True
        if not self._keeps_rest:
            self._queue.clear()
        self._changed.set()
        self._broadcast.leave(self)

    def _sent_kbps(self) -> float:
        """What the newest packets come to a second; without end while there are too few."""
        if len(self._sent) < _SENT_PACKETS:
            return math.inf
        seconds = max(1, self._sent[-1][0] - self._sent[0][0]) / CLOCK_RATE
        return sum(size for _, size in self._sent) * 8 / 1000 / seconds

    def _overflow(self) -> int:
        """Drop what waits; the consumer goes on with a key frame, or not at all."""
        now_s = self._clock()
        dropped = len(self._queue)
        self.num_dropped += dropped
        self._queue.clear()
        self._needs_key = True
        self._overflows.append(now_s)
        is_hopeless = (
            len(self._overflows) == OVERFLOW_LIMIT
            and now_s - self._overflows[0] <= OVERFLOW_WINDOW_S
        )
        if is_hopeless:
            self.close()
            self._on_dropped()
            return dropped
        if self.rate is not None:
            self.rate.note_overflow(now_s)
            self._broadcast.adapt(self)
        self._broadcast.request_keyframe(self)
        return dropped


def _pts(packet: Packet) -> int:
    assert packet.pts is not None
    return packet.pts
