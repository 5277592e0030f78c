"""qk_norm_rope: RMS norm of queries and keys over the full width, then rotary positions, and the
way into the ring.  Contract and reference.

A rotary table is [N, D/2, 2]: for every token and channel pair the cosine and the sine of its
angle.  Pair i is made of channels 2i and 2i+1 (interleaved, as Wan2.1 does).  A table with N = 1
turns all tokens alike.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from streamer_kernels.quantise import RingScales, write_codes


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Turn every channel pair by its angle.  RoPE, Su et al. 2021, arXiv:2104.09864, eq. 34.

    x, result: [B, N, A, D].  table: [N or 1, D/2, 2], float32 or float64.
    Sixteen-bit inputs are turned in the precision of the table and cast back.
    """
    pairs = torch.unflatten(x.to(table.dtype), -1, (-1, 2))
    turned = torch.view_as_complex(pairs) * torch.view_as_complex(table).unsqueeze(-2)
    return torch.view_as_real(turned).flatten(-2).to(x.dtype)


def qk_norm_rope(
    q: Tensor,
    k: Tensor,
    q_weight: Tensor,
    k_weight: Tensor,
    table: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """Normalise over all heads together, scale by the learned weights, split into heads, rotate.

    q, k: [B, N, E].  q_weight, k_weight: [E].  table: [N, D/2, 2].  results: [B, N, A, D] with A *
        D = E.
    """
    width, heads = q.shape[-1], (-1, 2 * table.shape[-2])
    q = torch.unflatten(F.rms_norm(q, (width,), q_weight, eps), -1, heads)
    k = torch.unflatten(F.rms_norm(k, (width,), k_weight, eps), -1, heads)
    return rotate(q, table), rotate(k, table)


def qk_norm_rope_write(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_weight: Tensor,
    k_weight: Tensor,
    table: Tensor,
    eps: float,
    ring_k: Tensor,
    ring_v: Tensor,
    slots: Tensor,
    sink_table: Tensor | None = None,
    scales: RingScales | None = None,
) -> tuple[Tensor, Tensor]:
    """`qk_norm_rope`, with keys and values written into their slots of a ring.

    q, k, v: [B, N, E].  q_weight, k_weight, table, eps: as in `qk_norm_rope`.
    ring_k, ring_v: [B, S, A, D], written in place.  slots: int64 [N], distinct, on the device.
    sink_table: [N or 1, D/2, 2], turns the queries a second time, for the sinks.
    scales: the ring holds int8 or fp8 codes, and these are written with them; None: numbers.
    results: the queries and the queries for sinks, [B, N, A, D]; both are one tensor without a
        sink_table.
    """
    queries, keys = qk_norm_rope(q, k, q_weight, k_weight, table, eps)
    if scales is None:
        ring_k.index_copy_(1, slots, keys)
        ring_v.index_copy_(1, slots, v.view_as(keys))
    else:
        write_codes(ring_k, scales.k, slots, keys)
        write_codes(ring_v, scales.v, slots, v.reshape(keys.shape))
    return queries, queries if sink_table is None else rotate(queries, sink_table)
