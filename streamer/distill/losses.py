"""Training losses as pure functions."""

from __future__ import annotations

from torch import Tensor


def flow_matching_loss(flow: Tensor, clean: Tensor, noise: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean squared error of the predicted flow against noise - clean.

    flow, clean, noise: [B, F, C, H, W].  weight: [B, F]; frames of weight 0 are left out.
    Conditional flow matching for straight paths, Lipman et al. 2023, arXiv:2210.02747, eq. 23;
    Liu et al. 2022, arXiv:2209.03003, eq. 1.
    Raises ValueError when every frame has weight 0.
    """
    total = weight.sum()
    if total <= 0:
        raise ValueError("every frame has weight 0: there is nothing to learn from")
    error = (flow - (noise - clean)).square().mean((2, 3, 4))
    return (error * weight).sum() / total
