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

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field
from statistics import fmean
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
"""So many blocks in a row must agree, all made under the decision in force."""

_USUAL_BLOCKS = 6  # the usual time is of so many, the longest left out: one stall says nothing

_EASY_BLOCKS_MAX = 192
_RELAPSE_BLOCKS = 24  # a measure needed again so soon is kept twice as long the next time
_SHOWS_AFTER = 3  # blocks until what a measure brings is seen
_RELIEF_MAX = 2.0
_DOUBT = (
    0.9993  # a block; what was seen once may have been chance, so it is tried after some minutes
)
_DEVIATIONS = 1.0


@dataclass(frozen=True)
class Reading:
    """How one block went.

    made_s: time it took to make.  shown_s: how long it lasts on the screen at the stream's own
    rate.
    """

    made_s: float
    shown_s: float


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

    able: which of `decoder` and `steps` the model has; may change, as when it is loaded.
    """

    able: Collection[Measure] = ()
    decision: Decision = Decision("none", "")
    _slow: int = 0
    _easy: int = 0
    _wanted_easy: int = EASY_BLOCKS
    _since_eased: int = 10**6
    _relief: dict[Measure, float] = field(default_factory=dict)
    _sure_of: set[Measure] = field(default_factory=set)
    _is_relapse: bool = False
    _load_before: float = 0.0
    _age: int = _SHOWS_AFTER
    _loads: deque[float] = field(default_factory=lambda: deque(maxlen=_USUAL_BLOCKS))

    def holds(self, measure: Measure) -> bool:
        """Whether a measure is in force, which the model must be able to take."""
        return self.decision.holds(measure) and measure in self._order()

    def note(self, reading: Reading) -> Decision:
        """Learn from a block; returns what holds from the next one on."""
        load = self._load(reading)
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

    def _load(self, reading: Reading) -> float:
        """The usual time to make a block over the time to show it; what varies counts as needed.

        Only blocks made under the decision in force are looked at.  Above 1 the picture cannot keep
        up.
        """
        self._loads.append(reading.made_s / reading.shown_s)
        counted = sorted(self._loads)[: -1 if len(self._loads) > 2 else None]
        usual = fmean(counted)
        return usual + _DEVIATIONS * fmean(abs(each - usual) for each in counted)

    def _tighten(self, load: float) -> None:
        following = [m for m in self._order() if not self.decision.holds(m)]
        if not following:
            return
        self._is_relapse = self._since_eased <= _RELAPSE_BLOCKS
        if self._is_relapse:
            self._wanted_easy = min(_EASY_BLOCKS_MAX, 2 * self._wanted_easy)
        self._slow = self._easy = 0
        self._loads.clear()
        self._load_before, self._age = load, 0
        reason = f"a block takes {load:.0%} of the time it is shown"
        self.decision = Decision(following[0], reason)

    def _ease(self, foreseen: float) -> None:
        before = [m for m in self._order() if self.decision.holds(m)]
        if not before:
            return
        self._easy = self._slow = self._since_eased = 0
        self._loads.clear()
        self._age = _SHOWS_AFTER
        earlier: Measure = before[-2] if len(before) > 1 else "none"
        reason = f"a block is expected to take {foreseen:.0%} of the time it is shown"
        self.decision = Decision(earlier, "" if earlier == "none" else reason)

    def _learn(self, load: float) -> None:
        """How much the newest measure relieves the making: the load before over that after.

        Only what changes the making can: a shorter lead and a lower rate do not.  What was seen
        once is forgotten slowly, since something else may have ended just then; what was seen again
        after the measure had been taken back is known.
        """
        self._age += 1
        measure = self.decision.measure
        if measure in ALWAYS or measure == "none":
            return
        if self._age == _SHOWS_AFTER:
            self._relief[measure] = min(_RELIEF_MAX, max(1.0, self._load_before / load))
            if self._is_relapse:
                self._sure_of.add(measure)
        elif measure in self._relief and measure not in self._sure_of:
            self._relief[measure] = max(1.0, self._relief[measure] * _DOUBT)

    def _order(self) -> list[Measure]:
        return [m for m in MEASURES[1:] if m in ALWAYS or m in self.able]
