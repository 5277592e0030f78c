"""What a worker knows about its model and its machine, for a benchmark to judge a time by."""

from __future__ import annotations

import resource
import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class ModelFigures:
    """Figures of a loaded model, in the process that holds it.

    operations: operations joined by `+`, and the backend that serves them.
    num_graphs: kinds of pass that the newest stream replays.
    pass_flops: of one pass at full window, products and sums, in all samples; 0 without weights.
    num_passes: of one block, the clean pass included.
    matrix_flops_per_s, copy_bytes_per_s: what this machine reaches alone, measured at the call, in
    the model's number format; a copy counts what it reads and what it writes.
    peak_bytes: the most memory so far: on a GPU the device's, else the process's.
    decodes_beside: whether pictures are decoded while passes run.
    psnr_db: how near eight-bit pictures are to those without; None for others.
    is_fused: whether the clean pass and the next block's first step are one.
    """

    device: str
    dtype: str = ""
    operations: tuple[tuple[str, str], ...] = ()
    num_graphs: int = 0
    pass_flops: float = 0.0
    num_passes: int = 0
    matrix_flops_per_s: float = 0.0
    copy_bytes_per_s: float = 0.0
    peak_bytes: int = 0
    decodes_beside: bool = False
    psnr_db: float | None = None
    is_fused: bool = False


def process_peak_bytes() -> int:
    """The most memory that this process has held so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
