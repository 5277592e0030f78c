"""How many bits a stream gets, and which rendition a viewer.  Pure decisions on numbers.

A viewer's reports say what its way can carry.  Small wishes lower the bitrate of its rendition a
little; a viewer that needs much less is given the small rendition instead, so that the slowest
does not take the picture from the others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

Tier = Literal["full", "small"]
TIERS: tuple[Tier, ...] = get_args(Tier)

MIN_SHARE = 0.6
"""The full rendition is never lowered to less than this part of its bitrate."""

SMALL_SCALE = 2
"""The small rendition has one over this of width and height."""

SMALL_SHARE = 0.35
"""Bitrate of the small rendition over that of the full one."""

FLOOR_KBPS = 60
MIN_SMALL_PX = 128
"""A picture of less than this width or height has no small rendition."""

_REFERENCE_KBPS = 2000.0
_REFERENCE_PX_PER_S = 832 * 480 * 24
_SIZE_EXPONENT = 0.6  # twice the pixels need about half as much again
_HEAVY_LOSS = 0.10
_LIGHT_LOSS = 0.02
_GROWTH = 1.08
_SUSTAINED_S = 2.0
_PROBE_AFTER_S = 10.0
_PROBE_AFTER_MAX_S = 160.0
_CEILING = 1.5


def usual_kbps(width: int, height: int, fps: int) -> int:
    """A bitrate that suits pictures of this size (pixels) and rate."""
    part: float = width * height * fps / _REFERENCE_PX_PER_S
    return max(FLOOR_KBPS, round(_REFERENCE_KBPS * math.pow(part, _SIZE_EXPONENT)))


def small_size(width: int, height: int) -> tuple[int, int] | None:
    """Even width and height of the small rendition; None where the picture is small already."""
    if min(width, height) < MIN_SMALL_PX:
        return None
    return width // SMALL_SCALE // 2 * 2, height // SMALL_SCALE // 2 * 2


@dataclass
class ViewerRate:
    """What one viewer's way can carry, learnt from its reports.

    full_kbps: bitrate of the full rendition.  has_small: whether there is a small one.
    kbps: the present estimate; it begins above the full bitrate, so nothing is lowered unasked.

    Loss moves the estimate as in Google's congestion control (draft-ietf-rmcat-gcc-02, section 6).
    A receiver's own estimate (REMB) counts only when it stays below what the viewer is sent: an
    unhurried stream keeps it low without meaning anything.
    """

    full_kbps: float
    has_small: bool = True
    tier: Tier = "full"
    kbps: float = 0.0
    _low_since_s: float | None = None
    _calm_since_s: float | None = None
    _remb_low_since_s: float | None = None
    _raised_at_s: float | None = None
    _probe_after_s: float = _PROBE_AFTER_S

    def __post_init__(self) -> None:
        self.kbps = _CEILING * self.full_kbps

    @property
    def tier_kbps(self) -> float:
        """The bitrate the viewer's rendition was made for."""
        return self.full_kbps * (SMALL_SHARE if self.tier == "small" else 1.0)

    def note_loss(self, now_s: float, fraction_lost: float) -> Tier:
        """Learn from a receiver report.  fraction_lost: 0..1.  Returns the rendition to send."""
        if fraction_lost > _HEAVY_LOSS:
            sent_kbps = min(self.kbps, self.tier_kbps)
            self.kbps = max(FLOOR_KBPS, sent_kbps * (1 - 0.5 * fraction_lost))
            self._calm_since_s = None
        elif fraction_lost < _LIGHT_LOSS and self._remb_low_since_s is None:
            self.kbps = min(_CEILING * self.full_kbps, self.kbps * _GROWTH)
        if self._calm_since_s is None and fraction_lost <= _HEAVY_LOSS:
            self._calm_since_s = now_s
        return self._decide(now_s)

    def note_remb(self, now_s: float, kbps: float, sent_kbps: float = math.inf) -> Tier:
        """Learn from a receiver's estimate of its own way.  Returns the rendition to send.

        sent_kbps: what was sent of late; a still picture needs far less than its rendition may,
            and a receiver that once saw a jam on a busy machine estimates 0.85 of what it receives.
        """
        if kbps >= min(0.95 * self.tier_kbps, 0.75 * sent_kbps):
            self._remb_low_since_s = None
        elif self._remb_low_since_s is None:
            self._remb_low_since_s = now_s
        elif now_s - self._remb_low_since_s >= _SUSTAINED_S:
            self.kbps = min(self.kbps, max(FLOOR_KBPS, kbps))
            self._calm_since_s = None
        return self._decide(now_s)

    def note_overflow(self, now_s: float) -> Tier:
        """Learn that the viewer's queue ran over.  Returns the rendition to send."""
        return self.note_loss(now_s, 0.5)

    def _decide(self, now_s: float) -> Tier:
        if self.tier == "full":
            self._decide_down(now_s)
        else:
            self._decide_up(now_s)
        return self.tier

    def _decide_down(self, now_s: float) -> None:
        if not self.has_small or self.kbps >= MIN_SHARE * self.full_kbps:
            self._low_since_s = None
            return
        if self._low_since_s is None:
            self._low_since_s = now_s
        if now_s - self._low_since_s < _SUSTAINED_S:
            return
        if self._raised_at_s is not None and now_s - self._raised_at_s < 2 * _PROBE_AFTER_S:
            self._probe_after_s = min(_PROBE_AFTER_MAX_S, 2 * self._probe_after_s)
        self.tier = "small"
        self._low_since_s = self._remb_low_since_s = None
        self._calm_since_s = now_s

    def _decide_up(self, now_s: float) -> None:
        if self._calm_since_s is None or now_s - self._calm_since_s < self._probe_after_s:
            return
        self.tier = "full"
        self.kbps = _CEILING * self.full_kbps
        self._raised_at_s = now_s
        self._remb_low_since_s = None


def line_kbps(tier: Tier, full_kbps: float, wishes: list[float]) -> float:
    """The bitrate of a rendition whose viewers can carry `wishes`, in kbps.

    The lowest wish counts, down to MIN_SHARE of the full rendition or FLOOR_KBPS of the small one.
    """
    most = full_kbps * (SMALL_SHARE if tier == "small" else 1.0)
    least = min(most, FLOOR_KBPS) if tier == "small" else MIN_SHARE * full_kbps
    return max(least, min([most, *wishes]))
