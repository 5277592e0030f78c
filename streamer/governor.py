"""What is given up, and in which order, when pictures cannot be made as fast as they are shown.

Pure: readings in, a decision out; no clock, no queue.  Playout slows by itself so that the picture
never stops (see pacing); the governor's measures bring it back to real time, one at a time:

1. `lead`     less video is kept waiting, so that a prompt is not late on top of a slow picture
2. `decoder`  the small decoder, where the model has one
3. `steps`    the preset with fewer denoising steps, where the model has one
4. `rate`     playback stays slower than real time

and back in the opposite order, one at a time, when the measure would not be needed again at once.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal, get_args

Measure = Literal["none", "lead", "decoder", "steps", "rate"]
MEASURES: tuple[Measure, ...] = get_args(Measure)
ALWAYS: frozenset[Measure] = frozenset({"lead", "rate"})
"""Measures that need nothing of the model."""

TOO_SLOW = 1.0
"""Load above which the next measure is taken: time to make a block over time to show it."""

EASY = 0.85
"""Load below which a measure is taken back, as foreseen without it."""

SLOW_BLOCKS = 4
EASY_BLOCKS = 12
"""So many blocks in a row must agree."""

_EASY_BLOCKS_MAX = 192
_RELAPSE_BLOCKS = 24  # a measure needed again so soon is kept twice as long the next time
_SHOWS_AFTER = 3  # blocks until what a measure brings is seen in the usual time
_RELIEF_MAX = 4.0
_DEVIATIONS = 1.0


@dataclass(frozen=True)
class Reading:
    """How one block went.

    made_s: the usual time to make one.  deviation_s: how much that varies.  shown_s: how long a
    block lasts on the screen at the stream's own rate.
    """

    made_s: float
    deviation_s: float
    shown_s: float

    @property
    def load(self) -> float:
        """Above 1 the picture cannot keep up; what varies counts as needed."""
        return (self.made_s + _DEVIATIONS * self.deviation_s) / self.shown_s


@dataclass(frozen=True)
class Decision:
    """The measures in force: this one and all before it that the model allows."""

    measure: Measure
    reason: str

    def holds(self, measure: Measure) -> bool:
        """Whether a measure is among those in force."""
        return MEASURES.index(measure) <= MEASURES.index(self.measure)


@dataclass
class Governor:
    """Decides block by block.  Owner: LiveStream.

    able: which of `decoder` and `steps` the model has.
    """

    able: Collection[Measure] = ()
    decision: Decision = Decision("none", "")
    _slow: int = 0
    _easy: int = 0
    _wanted_easy: int = EASY_BLOCKS
    _since_eased: int = 10**6
    _relief: dict[Measure, float] = field(default_factory=dict)
    _load_before: float = 0.0
    _age: int = _SHOWS_AFTER

    def note(self, reading: Reading) -> Decision:
        """Learn from a block; returns what holds from the next one on."""
        load = reading.load
        self._since_eased += 1
        self._slow = self._slow + 1 if load > TOO_SLOW else 0
        self._learn(load)
        foreseen = load * self._relief.get(self.decision.measure, 1.0)
        self._easy = self._easy + 1 if foreseen < EASY else 0
        if self._slow >= SLOW_BLOCKS:
            self._tighten(load)
        elif self._easy >= self._wanted_easy:
            self._ease(foreseen)
        return self.decision

    def _tighten(self, load: float) -> None:
        following = [m for m in self._order() if not self.decision.holds(m)]
        if not following:
            return
        if self._since_eased <= _RELAPSE_BLOCKS:
            self._wanted_easy = min(_EASY_BLOCKS_MAX, 2 * self._wanted_easy)
        self._slow = self._easy = 0
        self._load_before, self._age = load, 0
        reason = f"a block takes {load:.0%} of the time it is shown"
        self.decision = Decision(following[0], reason)

    def _ease(self, foreseen: float) -> None:
        before = [m for m in self._order() if self.decision.holds(m)]
        if not before:
            return
        self._easy = self._slow = self._since_eased = 0
        self._age = _SHOWS_AFTER
        earlier: Measure = before[-2] if len(before) > 1 else "none"
        reason = f"a block is expected to take {foreseen:.0%} of the time it is shown"
        self.decision = Decision(earlier, "" if earlier == "none" else reason)

    def _learn(self, load: float) -> None:
        """How much the newest measure relieves the making: the load before over that after.

        Only what changes the making can: a shorter lead and a lower rate do not.
        """
        self._age += 1
        measure = self.decision.measure
        if self._age == _SHOWS_AFTER and measure not in ALWAYS:
            relief = min(_RELIEF_MAX, max(1.0, self._load_before / load))
            self._relief[measure] = max(self._relief.get(measure, 1.0), relief)

    def _order(self) -> list[Measure]:
        return [m for m in MEASURES[1:] if m in ALWAYS or m in self.able]
