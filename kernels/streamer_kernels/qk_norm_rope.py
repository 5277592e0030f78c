"""qk_norm_rope: RMS norm of queries and keys over the full width, then rotary positions.

Contract and reference.

A rotary table is [N, D/2, 2]: for every token and channel pair the cosine and the sine of its
    angle.  Pair i is made
of channels 2i and 2i+1 (interleaved, as Wan2.1 does).  A table with N = 1 turns all tokens alike.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


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
