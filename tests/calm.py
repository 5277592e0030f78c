"""Whether this machine has time: what is promised in seconds is held to it only then."""

from __future__ import annotations

import os

BUSY_ABOVE = 1.5
"""Processes that want to run, for each core.  The tests themselves make one or two."""


def is_calm() -> bool:
    """Whether nothing else keeps this machine from being as fast as it is."""
    return os.getloadavg()[0] < BUSY_ABOVE * (os.cpu_count() or 1)
