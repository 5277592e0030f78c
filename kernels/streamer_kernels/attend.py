"""attend: softmax attention over a ring of cached keys.  Contract and reference.

The valid slots of a ring are always the first `num_valid` ones: it fills from slot 0, and once full every slot is
valid.  Softmax does not care about the order of keys, so a wrapped ring needs no gather and no second segment.

Sinks lie in the first `num_sink` slots.  They are scored with a second query, rotated back by the number of evicted
frames, so that they always appear to sit just before the window.  Nothing is copied and no key is rotated again.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    num_valid: int,
    q_sink: Tensor | None = None,
    num_sink: int = 0,
) -> Tensor:
    """Attend from every query to the first num_valid slots; scale 1 / sqrt(D), no mask.

    q: [B, N, A, D].  k, v: [B, S, A, D] with num_valid <= S; slots past num_valid are never read.
    q_sink: [B, N, A, D], used instead of q against slots 0..num_sink-1; None means that q serves all slots.
    result: [B, N, A, D].  Any strides with a contiguous last dimension.  Differentiable in q, k, v and q_sink.
    Raises ValueError when num_valid or num_sink do not fit the ring.
    """
    if not 0 < num_valid <= k.shape[1]:
        raise ValueError(f"num_valid is {num_valid}, but the ring has {k.shape[1]} slots")
    if not 0 <= num_sink <= num_valid:
        raise ValueError(f"num_sink is {num_sink}, but only {num_valid} slots are valid")
    queries = q.transpose(1, 2)
    keys = k[:, :num_valid].transpose(1, 2)
    values = v[:, :num_valid].transpose(1, 2)
    if q_sink is None or num_sink == 0:
        return F.scaled_dot_product_attention(queries, keys, values).transpose(1, 2)
    keys = keys.transpose(2, 3)
    sink_scores = torch.matmul(q_sink.transpose(1, 2), keys[..., :num_sink])
    scores = torch.cat([sink_scores, torch.matmul(queries, keys[..., num_sink:])], dim=-1)
    weights = torch.softmax(scores.mul_(1.0 / math.sqrt(q.shape[-1])), dim=-1)
    return torch.matmul(weights, values).transpose(1, 2)
