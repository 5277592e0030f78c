"""How evenly the picture runs and how far behind: the judgement, and a short measurement."""

from __future__ import annotations

import os
from typing import Any

import pytest

from tests.e2e.playback import ROUND, Made, Shown, judge, watch
from tests.e2e.uneven import Arrival, Way

FPS, BLOCK = 16, 12


def run_of(
    num_blocks: int, waits: dict[int, float] | None = None, slow: dict[int, float] | None = None
) -> tuple[list[Shown], list[Made]]:
    """Pictures at an even rate, each block shown 0.1 s after it was made.

    waits: by picture number, how much longer it was waited for.  slow: by block, how much longer
    it took.
    """
    seen, at_s = [], 1000.0
    for number in range(num_blocks * BLOCK):
        at_s += 1 / FPS + (waits or {}).get(number, 0.0)
        seen.append(Shown((number + ROUND - 100) % ROUND, at_s, at_s - 0.02))
    made = [
        Made(
            index * BLOCK + ROUND - 100,
            BLOCK,
            seen[index * BLOCK].shown_s - 0.1,
            0.5 + (slow or {}).get(index, 0.0),
        )
        for index in range(num_blocks)
    ]
    return seen, made


def test_an_even_run_has_no_freezes_and_its_delay_is_told() -> None:
    judged = judge(*run_of(12))
    assert (judged.freezes, judged.skipped, judged.repeated, judged.backwards) == (0, 0, 0, 0)
    assert judged.fps == pytest.approx(FPS, rel=0.01)
    assert judged.interval_std_ms < 0.1
    assert judged.behind_block_ms is not None
    assert judged.behind_block_ms.median == pytest.approx(100, abs=1)
    assert judged.browser_ms is not None
    assert judged.browser_ms.p95 == pytest.approx(20, abs=1)


def test_a_wait_for_a_late_block_is_told_apart_from_one_for_nothing() -> None:
    # Picture 72 is the first of block 6, which took long; picture 100 was there all the time.
    judged = judge(*run_of(12, waits={72: 0.4, 100: 0.4}, slow={6: 0.4}))
    assert (judged.freezes, judged.freezes_of_late_blocks, judged.late_blocks) == (2, 1, 1)


def test_missing_repeated_and_older_pictures_are_counted() -> None:
    seen, made = run_of(6)
    judged = judge([*seen[:30], *seen[33:50], seen[49], *seen[50:]], made)
    assert (judged.skipped, judged.repeated, judged.backwards) == (3, 1, 0)
    assert judge([*seen[:30], seen[28], *seen[30:]], made).backwards == 1


@pytest.mark.browser
@pytest.mark.slow
def test_uneven_blocks_are_shown_evenly_and_soon(browser: Any) -> None:
    made = watch(browser, Arrival(block_s=0.4, jitter_s=0.03), 8.0, settle_s=4.0)
    judged = made.judged
    assert judged.backwards == 0
    # (A busy machine loses packets of its own, also before the judged time.)
    assert made.nacks_ever > 0 or made.target_ms == 0, "nobody waits for what is not lost"
    assert judged.pictures > 8 * FPS / 4
    assert judged.behind_block_ms is not None
    assert judged.behind_block_ms.median > 0
    # A queue that fills is more than that behind after so long, at 0.75 s of video in 0.4 s.
    assert judged.behind_block_ms.median < 2500
    if os.getloadavg()[0] < 0.8 * (os.cpu_count() or 1):
        assert made.freezes_beyond_jitter <= 1
        assert judged.behind_block_ms.median < 400
        assert judged.skipped <= 3


@pytest.mark.browser
@pytest.mark.slow
def test_pictures_are_held_back_where_packets_get_lost(browser: Any) -> None:
    way = Way(loss=0.08, delay_s=0.1)
    made = watch(browser, Arrival(block_s=0.4, jitter_s=0.03), 8.0, settle_s=6.0, way=way)
    assert made.packets_lost > 0
    # A round trip and two pictures.
    assert 220 <= made.target_ms <= 600
    assert made.judged.backwards == 0
    assert made.judged.pictures > 8 * FPS / 4
