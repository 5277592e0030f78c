"""Where the time of a block goes: marks on the host's clock, or in a GPU's queue."""

# mypy: allow-untyped-calls

from __future__ import annotations

import time

import torch

Mark = float | torch.cuda.Event


class Timeline:
    """Marks between pieces of work.  On a GPU a mark waits in the queue like the work itself."""

    def __init__(self, device: torch.device) -> None:
        self._is_queued = device.type == "cuda"

    def mark(self) -> Mark:
        """Now, or on a GPU when the current queue gets here."""
        if not self._is_queued:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def milliseconds(self, first: Mark, last: Mark) -> float:
        """Between two marks; waits until the last is reached."""
        if isinstance(first, torch.cuda.Event) and isinstance(last, torch.cuda.Event):
            last.synchronize()
            return float(first.elapsed_time(last))
        assert isinstance(first, float)
        assert isinstance(last, float)
        return (last - first) * 1000
