"""modulate: layer norm without weights, then a shift and a scale per frame.

Contract and reference.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def modulate(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """layer_norm(x) * (1 + scale) + shift, the vectors shared by all tokens of a frame.

    x, result: [B, N, E].  shift, scale: [B, G, E] with G dividing N: one vector for every N / G
        tokens.
    Adaptive layer norm, Peebles and Xie 2022, arXiv:2212.09748, section 3.2.
    """
    normed = F.layer_norm(x, (x.shape[-1],), eps=eps)
    grouped = torch.unflatten(normed, 1, (shift.shape[1], -1))
    out = torch.addcmul(shift.unsqueeze(2), grouped, (1.0 + scale).unsqueeze(2))
    return out.flatten(1, 2)
