"""RingLayout: where each latent frame of an endless stream lies in a cache of fixed size.

Plain integers, no torch.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RingLayout:
    """Slots for the first `sink` frames for ever, and a ring for the newest others.

    All numbers are latent frames.

    window: how many frames a query may see: sinks + history + its own block.  None means
        everything, up to `capacity`.
    sink: how many of the first frames are never evicted.
    block: how many frames are usually made together.
    capacity: how many slots there are when the window is None; unused otherwise.

    The rule: a block is appended; when the window would overflow, the surplus directly after the
        sinks is dropped,
    whether or not that is a whole block.  Nothing moves: frame f >= sink lies in slot sink + (f -
    sink) mod ring. Raises ValueError for sizes that cannot hold the sinks and one block.
    """

    window: int | None
    sink: int = 0
    block: int = 3
    capacity: int | None = None

    def __post_init__(self) -> None:
        if self.sink < 0 or self.block < 1:
            raise ValueError(
                f"sink is {self.sink} and block is {self.block}; expected >= 0 and >= 1"
            )
        if self.window is None and self.capacity is None:
            raise ValueError("without a window, capacity must say how many frames the cache holds")
        if self.num_slots < self.sink + self.block:
            raise ValueError(
                f"{self.num_slots} frames cannot hold {self.sink} sink frames and a block of "
                f"{self.block}; widen the window or take fewer sinks"
            )

    @property
    def num_slots(self) -> int:
        """How many frames the cache holds."""
        if self.window is not None:
            return self.window
        return self.capacity or 0

    def slot(self, frame: int) -> int:
        """Where a frame lies while it is held.

        Raises ValueError past the capacity of an unlimited window.
        """
        if frame < self.num_slots:
            return frame
        if self.window is None:
            raise ValueError(
                f"frame {frame} does not fit a cache of {self.num_slots} frames without a window; "
                "give a window to stream without end, or a larger capacity"
            )
        return self.sink + (frame - self.sink) % (self.window - self.sink)

    def slots(self, first: int, count: int) -> list[int]:
        """The slots of `count` new frames from `first` on, in order.

        Raises ValueError when they overlap: past the sinks, one block must fit into the ring.
        """
        self.check_block(first, count)
        return [self.slot(frame) for frame in range(first, first + count)]

    def check_block(self, first: int, count: int) -> None:
        """Raises ValueError when `count` frames from `first` on cannot be made together."""
        room = self.num_slots - min(self.sink, first)
        if not 0 < count <= room:
            raise ValueError(
                f"a block of {count} frames at frame {first} does not fit the {room} slots "
                "beside the sinks"
            )

    def evicted(self, end: int) -> int:
        """How many frames are gone when the newest block ends before frame `end`."""
        return max(0, end - self.window) if self.window is not None else 0

    def visible(self, end: int) -> list[int]:
        """The frames that a block ending before frame `end` sees, its own included, in order."""
        gone = self.evicted(end)
        if gone == 0:
            return list(range(end))
        return [*range(self.sink), *range(self.sink + gone, end)]

    def position(self, frame: int, end: int) -> int:
        """Where a block ending before `end` sees a frame stand: sinks just before the window."""
        return frame + self.evicted(end) if frame < self.sink else frame
