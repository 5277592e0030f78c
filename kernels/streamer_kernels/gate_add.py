"""gate_add: add a branch to the residual stream through a gate per frame, and take the next norm.

Contract and reference.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from streamer_kernels.modulate import modulate


def gate_add(x: Tensor, branch: Tensor, gate: Tensor) -> Tensor:
    """x + branch * gate, the gate shared by all tokens of a frame.

    x, branch, result: [B, N, E].  gate: [B, G, E] with G dividing N: one vector for every N / G
        tokens.
    """
    groups = (gate.shape[1], -1)
    grouped = torch.unflatten(branch, 1, groups)
    out = torch.addcmul(torch.unflatten(x, 1, groups), grouped, gate.unsqueeze(2))
    return out.flatten(1, 2)


def gate_add_modulate(
    x: Tensor, branch: Tensor, gate: Tensor | None, shift: Tensor, scale: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """The residual stream after a branch, and its modulated layer norm for the next one.

    x, branch, results: [B, N, E].  gate: as in `gate_add`; None adds the branch as it is.
    shift, scale, eps: as in `modulate`.
    """
    total = x + branch if gate is None else gate_add(x, branch, gate)
    return total, modulate(total, shift, scale, eps)


def gate_add_layer_norm(
    x: Tensor, branch: Tensor, gate: Tensor | None, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """The residual stream after a branch, and its layer norm with learned weights.

    x, branch, results: [B, N, E].  gate: as in `gate_add`; None adds the branch as it is.
    weight, bias: [E].
    """
    total = x + branch if gate is None else gate_add(x, branch, gate)
    return total, F.layer_norm(total, (total.shape[-1],), weight, bias, eps)
