"""What is given up when pictures are made too slowly: in order, visibly, and back again."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from streamer.governor import EASY_BLOCKS, SLOW_BLOCKS, Governor, Measure, Reading

SHOWN_S = 0.75
ALL: tuple[Measure, ...] = ("decoder", "steps")


def run(governor: Governor, load: Callable[[Governor], float], blocks: int) -> list[str]:
    """The measure after each block; load: of a block under the present decision."""
    return [
        governor.note(Reading(load(governor) * SHOWN_S, SHOWN_S)).measure for _ in range(blocks)
    ]


def changes(measures: list[str]) -> list[str]:
    return [m for i, m in enumerate(measures) if i == 0 or measures[i - 1] != m]


def relieved(heavy: float) -> Callable[[Governor], float]:
    """A model whose small decoder saves a fifth and whose preset half of the time."""

    def load(governor: Governor) -> float:
        now = heavy
        if governor.decision.holds("decoder"):
            now *= 0.8
        if governor.decision.holds("steps"):
            now *= 0.5
        return now

    return load


def test_a_fast_generator_gives_nothing_up() -> None:
    assert changes(run(Governor(ALL), lambda _: 0.7, 200)) == ["none"]


def test_measures_come_in_their_order_until_nothing_is_left() -> None:
    governor = Governor(ALL)
    measures = run(governor, lambda _: 3.0, 40)
    assert changes(measures) == ["none", "lead", "decoder", "steps", "rate"]
    assert measures.index("lead") == SLOW_BLOCKS - 1
    assert "300%" in governor.decision.reason


def test_a_measure_that_the_model_lacks_is_passed_over() -> None:
    assert changes(run(Governor(), lambda _: 3.0, 40)) == ["none", "lead", "rate"]
    assert changes(run(Governor(["steps"]), lambda _: 3.0, 40)) == ["none", "lead", "steps", "rate"]


def test_it_stops_at_the_first_measure_that_is_enough() -> None:
    assert changes(run(Governor(ALL), relieved(1.15), 300))[-1] == "decoder"
    assert changes(run(Governor(ALL), relieved(1.6), 300))[-1] == "steps"


def test_it_does_not_swing_when_the_measure_is_what_makes_the_load_easy() -> None:
    """With fewer steps the load is 0.64, without them it would be 1.28: it must stay."""
    measures = run(Governor(ALL), relieved(1.6), 400)
    assert changes(measures) == ["none", "lead", "decoder", "steps"]


def test_what_brought_relief_once_is_doubted_after_minutes_and_tried_once() -> None:
    measures = run(Governor(ALL), relieved(1.6), 10_000)
    assert changes(measures) == ["none", "lead", "decoder", "steps", "decoder", "steps"]


def test_a_measure_that_seemed_to_help_by_chance_is_not_kept_for_ever() -> None:
    """Something else slowed the making, and ended just when the steps were reduced."""
    governor = Governor(["steps"])
    run(governor, lambda g: 0.6 if g.decision.holds("steps") else 3.0, 100)
    assert governor.decision.measure == "steps"
    assert changes(run(governor, lambda _: 0.6, 1200))[-1] == "none"


def test_everything_is_taken_back_in_the_opposite_order_when_the_load_falls() -> None:
    governor = Governor(ALL)
    run(governor, relieved(3.0), 60)
    assert governor.decision.measure == "rate"
    measures = run(governor, relieved(0.5), 400)
    assert changes(measures) == ["rate", "steps", "decoder", "lead", "none"]
    assert governor.decision.reason == ""


def test_going_back_takes_longer_than_going_down() -> None:
    governor = Governor()
    run(governor, lambda _: 3.0, SLOW_BLOCKS)
    measures = run(governor, lambda _: 0.5, EASY_BLOCKS + 1)
    assert measures.index("none") == EASY_BLOCKS - 1


def test_what_is_needed_again_at_once_is_kept_longer_each_time() -> None:
    """A load that comes back whenever a measure was taken back."""
    governor, taken = Governor(), []
    before = "none"
    for block in range(3000):
        load = 1.2 if governor.decision.measure == "none" else 0.8
        now = governor.note(Reading(load * SHOWN_S, SHOWN_S)).measure
        governor._relief.clear()  # as when the cause lies elsewhere
        if (before, now) == ("none", "lead"):
            taken.append(block)
        before = now
    gaps = [later - earlier for earlier, later in itertools.pairwise(taken)]
    assert gaps == sorted(gaps)
    assert gaps[-1] > 5 * gaps[0]


@pytest.mark.parametrize(("off_s", "measure"), [(0.05, "none"), (0.3, "lead")])
def test_jitter_counts_as_load(off_s: float, measure: str) -> None:
    governor = Governor()
    for block in range(3 * SLOW_BLOCKS):
        governor.note(Reading(0.6 + (off_s if block % 2 else -off_s), SHOWN_S))
    assert governor.decision.measure == measure


def test_one_stalled_block_changes_nothing() -> None:
    governor = Governor(ALL)
    for block in range(100):
        governor.note(Reading(3.0 if block % 20 == 0 else 0.5, SHOWN_S))
    assert governor.decision.measure == "none"


def test_what_was_before_a_measure_does_not_bring_the_next_one() -> None:
    """The decoder is enough; the slow blocks before it must not be held against it."""
    governor = Governor(ALL)
    run(governor, lambda _: 0.5, 50)
    measures = run(governor, lambda g: 0.6 if g.decision.holds("decoder") else 1.5, 200)
    assert changes(measures) == ["none", "lead", "decoder"]


def test_a_measure_that_the_model_lacks_is_never_in_force() -> None:
    governor = Governor(["steps"])
    run(governor, lambda _: 3.0, 40)
    assert governor.decision.measure == "rate"
    assert [m for m in ("lead", "decoder", "steps", "rate") if governor.holds(m)] == [
        "lead",
        "steps",
        "rate",
    ]
