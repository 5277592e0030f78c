"""How a launch of attention is cut into pieces that leave no processor idle.  Integers only.

12 heads of 4680 queries make 444 tiles of 128.  132 processors take them in three full waves and a
fourth with 48 tiles, while 84 processors wait: a sixth of the time is lost.  So some tiles are
split over the keys, and a second kernel merges their parts by their sums of exponentials, as in
Flash-Decoding, Dao et al. 2023.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from functools import cache

DIRECT = -1
MAX_PARTS = 16
PART_SLOTS = 328
"""Time of starting a part and of writing and merging its result, in slots of keys and values: the
size of what it writes against what a slot holds.  An estimate, not a measurement."""
FULL_WINDOW = 32760
"""Slots of 21 latent frames at 832x480."""


@dataclass(frozen=True)
class Piece:
    """The work of one program for one head: queries first .. end - 1 over a share of their keys.

    is_sink: whether it takes the sinks or the other keys of the view.
    part of num_parts: which equal share of those keys.
    partial: where its result waits to be merged; DIRECT when it is the result.
    """

    first: int
    end: int
    view: int
    is_sink: bool
    part: int
    num_parts: int
    partial: int


@dataclass(frozen=True)
class Merge:
    """Queries first .. end - 1 whose result is the merge of `count` partial ones from `partial`."""

    first: int
    end: int
    partial: int
    count: int


@dataclass(frozen=True)
class Plan:
    """The pieces of one head.  The `num_first` longest go first, so that the short ones fill up."""

    pieces: tuple[Piece, ...]
    num_first: int
    merges: tuple[Merge, ...]

    @property
    def num_partials(self) -> int:
        """How many results wait to be merged."""
        return sum(merge.count for merge in self.merges)


@cache
def plan_attention(
    num_queries: tuple[int, ...],
    has_sinks: bool,
    tile_queries: int,
    num_heads: int,
    num_processors: int,
    num_keys: int = FULL_WINDOW,
) -> Plan:
    """Cut views of so many queries for `num_heads` heads (samples times heads).

    num_keys: that a query sees; short runs, such as a text's, are not worth splitting.

    A tile never belongs to two views.  Where there are sinks, they are pieces of their own, since a
    piece has one query: short pieces, which fill the last wave by themselves.
    """
    tiles = [
        (view, start + first, start + min(first + tile_queries, count))
        for view, (start, count) in enumerate(zip(_starts(num_queries), num_queries, strict=True))
        for first in range(0, count, tile_queries)
    ]
    num_split, num_parts = (
        (0, 1) if has_sinks else choose_split(len(tiles), num_heads, num_processors, num_keys)
    )
    long: list[Piece] = []
    short: list[Piece] = []
    merges: list[Merge] = []
    partial = 0
    for index, (view, first, end) in enumerate(tiles):
        parts = num_parts if index >= len(tiles) - num_split else 1
        count = parts + has_sinks
        where = short if parts > 1 else long
        for part in range(parts):
            place = DIRECT if count == 1 else partial + part
            where.append(Piece(first, end, view, False, part, parts, place))
        if has_sinks:
            short.append(Piece(first, end, view, True, 0, 1, partial + parts))
        if count > 1:
            merges.append(Merge(first, end, partial, count))
            partial += count
    return Plan((*long, *short), len(long), tuple(merges))


def _starts(counts: tuple[int, ...]) -> list[int]:
    return [sum(counts[:index]) for index in range(len(counts))]


@cache
def choose_split(
    num_tiles: int, num_heads: int, num_processors: int, num_keys: int = FULL_WINDOW
) -> tuple[int, int]:
    """How many tiles of each head to split, and into how many parts, for the earliest end.

    (0, 1): none.  Ties go to less splitting.
    """
    best = (finish_time(num_tiles, 0, 1, num_heads, num_processors, num_keys), 0, 1)
    # More than one wave of tiles is never worth splitting, and if there is less, all may be.
    most = min(num_tiles, -(-num_processors // num_heads))
    for num_split in range(1, most + 1):
        for num_parts in range(2, MAX_PARTS + 1):
            split = num_tiles, num_split, num_parts
            time = finish_time(*split, num_heads, num_processors, num_keys)
            best = min(best, (time, num_split, num_parts))
    return best[1], best[2]


def finish_time(
    num_tiles: int,
    num_split: int,
    num_parts: int,
    num_heads: int,
    num_processors: int,
    num_keys: int = FULL_WINDOW,
) -> float:
    """When the last program ends, in tiles, if every free processor takes the next piece."""
    whole, parts = (num_tiles - num_split) * num_heads, num_split * num_heads * num_parts
    waves, rest = divmod(whole, num_processors)
    free = [waves + 1.0] * rest + [float(waves)] * (num_processors - rest)
    heapq.heapify(free)
    share = 1.0 / num_parts + PART_SLOTS / num_keys if num_parts > 1 else 1.0
    for _ in range(parts):
        heapq.heapreplace(free, free[0] + share)
    return max(free)
