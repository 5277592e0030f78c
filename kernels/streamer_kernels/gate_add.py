"""gate_add: add a branch to the residual stream through a gate per frame.

Contract and reference.
"""

from __future__ import annotations

import torch
from torch import Tensor


def gate_add(x: Tensor, branch: Tensor, gate: Tensor) -> Tensor:
    """x + branch * gate, the gate shared by all tokens of a frame.

    x, branch, result: [B, N, E].  gate: [B, G, E] with G dividing N: one vector for every N / G
        tokens.
    """
    groups = (gate.shape[1], -1)
    grouped = torch.unflatten(branch, 1, groups)
    out = torch.addcmul(torch.unflatten(x, 1, groups), grouped, gate.unsqueeze(2))
    return out.flatten(1, 2)
