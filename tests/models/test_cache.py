"""RingLayout: slots are reused, sinks stay, the surplus after the sinks goes."""

from __future__ import annotations

import pytest

from streamer.models.cache import RingLayout


def stream_list(window: int, sink: int, sizes: list[int]) -> list[list[int]]:
    """The rule as a list that is cut after the sinks before every block is appended."""
    held: list[int] = []
    seen, first = [], 0
    for size in sizes:
        surplus = max(0, len(held) + size - window)
        del held[sink : sink + surplus]
        held += range(first, first + size)
        first += size
        seen.append(list(held))
    return seen


@pytest.mark.parametrize(
    ("window", "sink", "sizes"),
    [
        (6, 0, [3] * 7),
        (6, 1, [3] * 7),
        (7, 2, [3] * 7),
        (9, 4, [3] * 9),
        (5, 1, [1, 3, 3, 2, 4, 1]),
        (4, 0, [4] * 3),
        (21, 3, [3] * 20),
    ],
)
def test_visible_frames_follow_the_rule_and_lie_in_distinct_slots(
    window: int, sink: int, sizes: list[int]
) -> None:
    layout = RingLayout(window, sink, block=1)
    memory: dict[int, int] = {}
    first = 0
    for size, expected in zip(sizes, stream_list(window, sink, sizes), strict=True):
        for frame, slot in enumerate(layout.slots(first, size), start=first):
            memory[slot] = frame
        first += size
        assert layout.visible(first) == expected
        assert sorted(memory.values()) == expected
        assert sorted(memory) == list(range(len(expected)))
        assert layout.evicted(first) == first - len(expected)


def test_sinks_always_appear_just_before_the_window() -> None:
    layout = RingLayout(6, 2, block=3)
    for end in range(3, 60, 3):
        positions = [layout.position(frame, end) for frame in layout.visible(end)]
        assert positions == list(range(positions[0], end))


def test_without_a_window_everything_is_seen_up_to_the_capacity() -> None:
    layout = RingLayout(None, block=3, capacity=6)
    assert layout.visible(6) == list(range(6))
    assert layout.slots(3, 3) == [3, 4, 5]
    with pytest.raises(ValueError, match="frame 6 does not fit a cache of 6 frames"):
        layout.slots(6, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((5, 3, 3), "cannot hold 3 sink frames and a block of 3"),
        ((6, -1, 3), "sink is -1"),
        ((6, 0, 0), "block is 0"),
        ((None, 0, 3), "capacity"),
    ],
)
def test_impossible_sizes_are_refused(arguments: tuple[int | None, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RingLayout(*arguments)


def test_a_block_that_does_not_fit_beside_the_sinks_is_refused() -> None:
    with pytest.raises(ValueError, match="a block of 5 frames at frame 6 does not fit the 4 slots"):
        RingLayout(6, 2, block=3).slots(6, 5)
