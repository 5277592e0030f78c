"""When each frame is due and when there is room for the next block.

`PlayoutClock` holds the decisions, as plain numbers without a clock of its own; `Playout` is the
asyncio shell around it: the queue, the waiting, the timestamps.  Neither knows how frames are made
nor who watches.

The rules:
- The frames of a block leave at an even rate.  A generator slower than playback lowers the rate
  smoothly; the picture pauses only when nothing is left, and then the schedule begins anew.
- The rate is at most MAX_RATIO and, while frames are left, at least MIN_RATIO of the nominal one.
- The next block is started when what is queued lasts no longer than `lead_s`: the usual time to
  make a block and a cushion that covers all but the latest of the newest blocks.  That moment is
  seldom the one in which a frame leaves, so it is waited for by itself: looked at with every frame
  only, a block would lie ready for half a frame longer, and the next one for another.
- So the queue never holds more than what `lead_s` admits and one block, and the same knob bounds
  prompt-to-pixel time.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from statistics import median

import numpy as np
from numpy.typing import NDArray

from streamer.stream import FrameBlock

CLOCK_RATE = 90_000
"""Ticks of a presentation timestamp per second."""

MAX_RATIO = 1.05
MIN_RATIO = 0.25
_FIRST_RATIO = 0.8  # how far one measurement alone may lower the rate
_SLOWER_STEP = 0.10  # largest change of the rate from one frame to the next, as parts of fps
_FASTER_STEP = 0.05
_GAIN = 0.3  # rate correction per block of surplus; 1.0 oscillates
_LATENESSES = 64  # newest blocks by which the cushion is sized ...
_LEARNT = 8  # ... once there are so many; before, their deviation stands in.  As many blocks that
# come first, while everything warms up and viewers join, are left out.
_FIRST_DEVIATIONS = 2.5
_SLOWED_FRAMES = 2.0  # a picture that is slowed already has less room to wait for a late block
_SPARE_MARGIN = 1.2  # the next late block may be later than those seen
_LEAST_CUSHION_S = 0.02  # a loop that wakes late, and a block that is handed over meanwhile
_ROOM_TOLERANCE_S = 0.001  # a timer may fire early
_LATE_TOLERANCE = 0.5  # of a frame: a loop that wakes later than this has lost the schedule


@dataclass(frozen=True)
class TimedFrame:
    """A frame that is due now.

    pixels: RGB or planes, see `FrameBlock`.  number: its place in the stream.  pts: its due time in
    1/90000 s since the first frame of the stream, strictly increasing.
    """

    pixels: NDArray[np.uint8]
    number: int
    block: int
    prompt_id: str
    pts: int


@dataclass
class PlayoutClock:
    """The decisions of playout, in seconds of any clock.  Pure: it never reads a clock or waits.

    made_s: the usual time to make a block (None before the first).  deviation_s: how much that
    varies.  rate: frames per second now.  is_lead_short: keep as little queued as possible.
    """

    fps: float
    block_frames: int = 0
    made_s: float | None = None
    deviation_s: float = 0.0
    rate: float = 0.0
    num_rebased: int = 0
    is_lead_short: bool = False
    _goal: float = 0.0
    _due: float | None = None
    _recent: deque[float] = field(default_factory=lambda: deque(maxlen=3))
    _late: deque[float] = field(default_factory=lambda: deque(maxlen=_LATENESSES))
    _num_first: int = 0

    def __post_init__(self) -> None:
        self.rate = self._goal = float(self.fps)

    @property
    def due(self) -> float:
        """When the frame that `next_due` was last asked for is due; 0 before the first."""
        return 0.0 if self._due is None else self._due

    @property
    def cushion_s(self) -> float:
        """How long what is queued should still last when a block lands: what covers late blocks,
        and more where the picture is slowed already.

        The second largest lateness of the newest blocks covers them: one hiccup alone makes nobody
        wait longer.  At most a block; with a short lead next to nothing.
        """
        slowed_s = max(0.0, 1.0 / self.rate - 1.0 / self.fps)
        wanted = _LEAST_CUSHION_S + _SLOWED_FRAMES * slowed_s
        wanted += 0.0 if self.is_lead_short else self._spare_s
        return min(wanted, self.block_frames / self.rate)

    @property
    def lead_s(self) -> float:
        """How much video may still be queued when a block is started."""
        return 0.0 if self.made_s is None else self.made_s + self.cushion_s

    def lasts_s(self, now: float, queued_frames: int) -> float:
        """How long it takes until the frame after the queued ones is due; 0 when it is overdue.

        queued_frames: without a frame that `next_due` was asked for.  They need their time also
        when the one before them leaves late.
        """
        queued_s = queued_frames / self.rate
        if self._due is None:
            return queued_s
        return max(queued_s, self._due + 1.0 / self.rate + queued_s - now)

    def note_block(self, made_s: float, num_frames: int, left_s: float) -> None:
        """Learn from a block that lands now.

        made_s: time from its start to now.  left_s: how long what was queued before it lasts.
        The median of three keeps one stalled block from slowing those that follow.
        """
        self.block_frames = num_frames
        self._recent.append(made_s)
        if self.made_s is None:
            # The first block warms everything up, so it may lower the rate a little only.
            self.made_s = min(made_s, num_frames / (_FIRST_RATIO * self.fps))
            self.deviation_s = 0.15 * self.made_s
        else:
            # No cushion covers more than a block, so nothing is kept ready for it.
            late_s = max(0.0, made_s - self.made_s)
            if self._num_first < _LEARNT:
                self._num_first += 1
            else:
                self._late.append(late_s if late_s <= num_frames / self.fps else 0.0)
            off = min(abs(made_s - self.made_s), self.made_s)
            share = 0.3 if off > self.deviation_s else 0.05
            self.deviation_s += share * (off - self.deviation_s)
            sample = median(self._recent) if len(self._recent) > 2 else min(self._recent)
            self.made_s += (sample - self.made_s) / len(self._recent)
        sustained = min(self.fps, num_frames / max(self.made_s, 1e-6))
        surplus = (left_s - self.cushion_s) * self.rate / num_frames
        self._goal = self._bounded(sustained * (1 + _GAIN * min(0.6, max(-0.6, surplus))))

    def next_due(
        self, now: float, queued_frames: int, making_s: float | None, *, waited: bool = False
    ) -> float:
        """The due time of the next frame; the clock moves on by one frame.

        queued_frames: with that frame.  making_s: for how long a block has been in the making, None
        when none is.  A block that is overdue is expected to take as long again as it is late, and
        what is queued is spread over that time.
        waited: there was nothing to show (or the stream was paused).  Then a frame that is late
        already starts the schedule anew at `now`, so that nothing is made up for; a loop that
        merely woke late keeps it, up to half a frame.
        """
        goal = self._goal
        if making_s is not None and self.made_s is not None:
            awaited_s = abs(self.made_s - making_s)
            since_s = 0.0 if self._due is None else min(now - self._due, 1.0 / self.rate)
            if awaited_s + since_s > 0:  # until then, what is queued and the step to the new block
                goal = min(goal, (queued_frames + 1) / (awaited_s + since_s))
        step = min(_FASTER_STEP * self.fps, max(-_SLOWER_STEP * self.fps, goal - self.rate))
        self.rate = self._bounded(self.rate + step)
        due = now if self._due is None else self._due + 1.0 / self.rate
        if now > due + (0.0 if waited else _LATE_TOLERANCE / self.rate):
            due = now
            self.num_rebased += 1
        self._due = due
        return due

    def applies_in_s(self, left_s: float, making_s: float | None) -> float:
        """Estimated time until the first frame of a block not yet started is due.

        left_s: how long what is queued lasts.  The larger of two: playing all frames ahead of it,
        and making it.  0 before the first block.
        """
        if self.made_s is None:
            return 0.0
        if making_s is not None:
            played_s = left_s + self.block_frames / self.rate
            return max(played_s, max(self.made_s - making_s, 0.0) + self.made_s)
        return max(left_s, max(left_s - self.lead_s, 0.0) + self.made_s)

    @property
    def _spare_s(self) -> float:
        covered_s = sorted(self._late)[-2] if len(self._late) > 1 else 0.0
        if len(self._late) < _LEARNT:
            return max(covered_s, _FIRST_DEVIATIONS * self.deviation_s)
        return _SPARE_MARGIN * covered_s

    def _bounded(self, rate: float) -> float:
        return min(MAX_RATIO * self.fps, max(MIN_RATIO * self.fps, rate))


class Playout:
    """The queue of one stream between the making of blocks and their delivery.

    Owner: LiveStream, on the event loop, for the life of the stream.  One task makes blocks
    (`wait_for_room`, `put`), one takes frames (`frames`).  It never polls: waiting ends when a
    frame leaves, a block arrives, somebody pauses, resumes, clears or closes, or when the time has
    come.
    """

    def __init__(
        self,
        fps: int,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.fps = fps
        self.dropped = 0
        self._clock = clock
        self._sleep = sleep
        self._timing = PlayoutClock(fps)
        self._queue: deque[tuple[FrameBlock, int]] = deque()
        self._making_since: float | None = None
        self._epoch: float | None = None
        self._last_pts = -1
        self._paused = False
        self._closed = False
        self._is_next_timed = False  # whether the clock has moved on for the frame that is next
        self._changed = asyncio.Event()

    async def wait_for_room(self) -> None:
        """Return when the next block should be started.

        While paused there is no room.  After `close` it returns, up to a frame later when it waits
        for a time, and `put` drops the block.
        """
        while not self._closed:
            wait_s = self._left_s() - self.lead_s
            if not self._paused and wait_s <= _ROOM_TOLERANCE_S:
                break
            if not self._paused and wait_s < self._steady_for_s():
                await self._sleep(wait_s)
            else:
                await self._change()
        self._making_since = self._clock()

    def put(self, block: FrameBlock, made_in_s: float) -> None:
        """Queue the frames of a block that took `made_in_s` seconds from room to here."""
        self._making_since = None
        if self._closed:
            self.dropped += len(block.frames)
            return
        self._timing.note_block(made_in_s, len(block.frames), self._left_s())
        self._queue.extend((block, index) for index in range(len(block.frames)))
        self._wake()

    async def frames(self) -> AsyncIterator[TimedFrame]:
        """Each frame when it is due, until `close`.  For one reader."""
        waited = False
        while not self._closed:
            if self._paused or not self._queue:
                await self._change()
                waited = True
                continue
            now, making_s = self._clock(), self._making_for_s()
            due = self._timing.next_due(now, len(self._queue), making_s, waited=waited)
            waited, self._is_next_timed = False, True
            self._wake()
            if (wait_s := due - self._clock()) > 0:
                await self._sleep(wait_s)
            self._is_next_timed = False
            if self._closed or self._paused or not self._queue:
                continue
            block, index = self._queue.popleft()
            self._wake()
            yield TimedFrame(
                block.frames[index],
                block.first_frame + index,
                block.index,
                block.prompt_id,
                self._pts(due),
            )

    def pause(self) -> None:
        """Hold the picture: no frame leaves and there is no room until `resume`."""
        self._paused = True
        self._wake()

    def resume(self) -> None:
        """Go on after `pause`, from the next queued frame."""
        self._paused = False
        self._wake()

    def clear(self) -> None:
        """Drop what is queued."""
        self.dropped += len(self._queue)
        self._queue.clear()
        self._wake()

    def close(self) -> None:
        """End `frames` and `wait_for_room`.  Idempotent."""
        self._closed = True
        self.clear()

    def shorten_lead(self, is_short: bool) -> None:
        """Keep as little video queued as possible, or the usual cushion again."""
        self._timing.is_lead_short = is_short
        self._wake()

    @property
    def made_s(self) -> float | None:
        """The usual time to make a block; None before the first."""
        return self._timing.made_s

    @property
    def deviation_s(self) -> float:
        """How much the time to make a block varies."""
        return self._timing.deviation_s

    @property
    def queued_frames(self) -> int:
        """Frames waiting for their due time."""
        return len(self._queue)

    @property
    def queued_s(self) -> float:
        """How long the queued frames will last at the present rate."""
        return len(self._queue) / self._timing.rate

    @property
    def lead_s(self) -> float:
        """How much video may still be queued when a block is started."""
        return self._timing.lead_s

    @property
    def rate(self) -> float:
        """Frames per second now; 0 while paused."""
        return 0.0 if self._paused else self._timing.rate

    @property
    def playback_rate(self) -> float:
        """`rate` over the stream's own: 1.0 is real time."""
        return self.rate / self.fps

    @property
    def applies_in_s(self) -> float:
        """Estimate: from now until the first frame of a prompt set now is due."""
        return self._timing.applies_in_s(self._left_s(), self._making_for_s())

    def _left_s(self) -> float:
        """How long what is queued lasts."""
        queued_frames = max(0, len(self._queue) - int(self._is_next_timed))
        return self._timing.lasts_s(self._clock(), queued_frames)

    def _steady_for_s(self) -> float:
        """For how long nothing but time changes `_left_s`, unless somebody pauses or clears."""
        if not self._queue:
            return math.inf
        # Once a frame has left, and until the next has its due time, the rate is not known.
        return self._timing.due - self._clock() if self._is_next_timed else 0.0

    def _making_for_s(self) -> float | None:
        return None if self._making_since is None else self._clock() - self._making_since

    def _pts(self, due: float) -> int:
        if self._epoch is None:
            self._epoch = due
        self._last_pts = max(self._last_pts + 1, round((due - self._epoch) * CLOCK_RATE))
        return self._last_pts

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _change(self) -> None:
        await self._changed.wait()
