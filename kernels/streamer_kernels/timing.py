"""How long a call takes on a CUDA device."""

# mypy: allow-untyped-calls

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch

Timer = Callable[[Callable[[], object]], float]
"""Runs a call several times and gives the milliseconds of one."""


@dataclass(frozen=True)
class DeviceTimer:
    """Milliseconds of a call on a CUDA device: the median of some, after warming up.

    budget_s: about how long one measurement may take.
    """

    device: torch.device
    budget_s: float = 0.1

    def __call__(self, call: Callable[[], object]) -> float:
        """Milliseconds of one call."""
        with torch.cuda.device(self.device):
            for _ in range(2):
                call()
            torch.cuda.synchronize()
            started = time.perf_counter()
            call()
            torch.cuda.synchronize()
            once = max(time.perf_counter() - started, 1e-6)
            count = min(100, max(5, int(self.budget_s / once)))
            marks = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
            marks[0].record()
            for mark in marks[1:]:
                call()
                mark.record()
            torch.cuda.synchronize()
            spans = [float(first.elapsed_time(end)) for first, end in pairwise(marks)]
            return statistics.median(spans)
