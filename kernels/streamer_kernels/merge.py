"""merge: attention over disjoint runs of slots, put together from each run's.  Contract, reference.

For libraries, which know neither sinks nor views: they are called once a run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

Part = tuple[Tensor, Tensor]
"""Attention over a run: result [B, N, A, D] and log of the sums of exponentials [B, A, N]."""


class Merge(Protocol):
    """See `merge`."""

    def __call__(self, parts: Sequence[Part]) -> Part:
        """Put parts together."""


def merge(parts: Sequence[Part]) -> Part:
    """Attention over the union of disjoint runs, from the results and log-sums of each.

    parts: at least one, ([B, N, A, D], float32 [B, A, N]); results the same, the first of the type
        of the first part.  Summed in float32.
    Flash-Decoding, Dao et al. 2023.
    """
    log_sums = torch.stack([log_sum for _, log_sum in parts])
    total = torch.logsumexp(log_sums, dim=0)
    weights = (log_sums - total).exp().transpose(2, 3).unsqueeze(-1)
    out = sum(part.float() * weight for (part, _), weight in zip(parts, weights, strict=True))
    assert isinstance(out, Tensor)
    return out.to(parts[0][0].dtype), total
