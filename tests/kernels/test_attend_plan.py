"""How attention is cut into pieces: every query is served once, and no processor waits long."""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest
from streamer_kernels.attend_plan import (
    DIRECT,
    FULL_WINDOW,
    PART_SLOTS,
    Plan,
    choose_split,
    finish_time,
    plan_attention,
)

# Views, with sinks, heads, processors.
CASES = [
    ((4680,), False, 12, 132),
    ((4680,), True, 12, 132),
    ((4680, 4680), False, 12, 132),
    ((4680, 4680), True, 40, 132),
    ((37, 5, 200), False, 2, 7),
    ((37, 5), True, 1, 1),
    ((1,), False, 1, 108),
]


def served(plan: Plan) -> dict[tuple[int, int, bool], list[tuple[int, int]]]:
    """(query, view, is_sink) -> the parts that take it."""
    parts = defaultdict(list)
    for piece in plan.pieces:
        for query in range(piece.first, piece.end):
            parts[query, piece.view, piece.is_sink].append((piece.part, piece.num_parts))
    return parts


@pytest.mark.parametrize(("views", "has_sinks", "num_heads", "num_processors"), CASES)
def test_every_query_meets_all_its_keys_once(
    views: tuple[int, ...], has_sinks: bool, num_heads: int, num_processors: int
) -> None:
    parts = served(plan_attention(views, has_sinks, 32, num_heads, num_processors))
    query = 0
    for view, count in enumerate(views):
        for _ in range(count):
            for is_sink in (False, True)[: 1 + has_sinks]:
                taken = sorted(parts.pop((query, view, is_sink)))
                assert taken == [(part, len(taken)) for part in range(len(taken))]
            query += 1
    assert not parts


@pytest.mark.parametrize(("views", "has_sinks", "num_heads", "num_processors"), CASES)
def test_partial_results_are_all_merged_and_the_others_are_final(
    views: tuple[int, ...], has_sinks: bool, num_heads: int, num_processors: int
) -> None:
    plan = plan_attention(views, has_sinks, 32, num_heads, num_processors)
    waiting = {
        piece.partial: (piece.first, piece.end) for piece in plan.pieces if piece.partial != DIRECT
    }
    assert sorted(waiting) == list(range(plan.num_partials))
    merged = {
        merge.partial + index: (merge.first, merge.end)
        for merge in plan.merges
        for index in range(merge.count)
    }
    assert merged == waiting
    final = Counter(
        query
        for piece in plan.pieces
        if piece.partial == DIRECT
        for query in range(piece.first, piece.end)
    )
    final += Counter(query for merge in plan.merges for query in range(merge.first, merge.end))
    assert final == Counter(range(sum(views)))


def test_long_pieces_go_first() -> None:
    plan = plan_attention((4680,), False, 128, 12, 132)
    assert {piece.num_parts for piece in plan.pieces[: plan.num_first]} == {1}
    assert all(piece.num_parts > 1 for piece in plan.pieces[plan.num_first :])
    assert 0 < plan.num_first < len(plan.pieces)


# 444 tiles are 3.36 waves of 132, 888 are 6.73, 1480 are 11.2.
@pytest.mark.parametrize(("num_tiles", "num_heads"), [(37, 12), (74, 12), (37, 40)])
def test_splitting_the_last_tiles_leaves_hardly_a_processor_idle(
    num_tiles: int, num_heads: int
) -> None:
    even = num_tiles * num_heads / 132
    whole = finish_time(num_tiles, 0, 1, num_heads, 132)
    assert whole > 1.03 * even
    num_split, num_parts = choose_split(num_tiles, num_heads, 132)
    assert num_split * num_heads < 132 * 1.5
    assert finish_time(num_tiles, num_split, num_parts, num_heads, 132) < 1.02 * even


def test_nothing_is_split_when_the_tiles_fill_the_waves() -> None:
    assert choose_split(11, 12, 132) == (0, 1)
    assert choose_split(5, 3, 1) == (0, 1)


def test_short_runs_are_not_split() -> None:
    """A text has 512 rows: merging would take longer than a part of so few keys."""
    assert choose_split(37, 12, 132, num_keys=512) == (0, 1)
    assert choose_split(37, 12, 132, num_keys=4680) != (0, 1)
    assert plan_attention((4680,), False, 128, 12, 132, 512).merges == ()


def test_parts_are_not_free() -> None:
    cost = PART_SLOTS / FULL_WINDOW
    # One tile on two processors: two halves, and what it costs to start and merge them.
    assert finish_time(1, 1, 2, 1, 2) == pytest.approx(0.5 + cost)
    assert finish_time(3, 0, 1, 1, 2) == 2.0
    assert finish_time(3, 1, 2, 1, 2) == pytest.approx(1.5 + cost)
