"""Training losses as pure functions."""

from __future__ import annotations

from torch import Tensor


def flow_matching_loss(flow: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean squared error of the predicted flow.

    flow, target: [B, F, C, H, W]; the target of data is noise - clean.  weight: [B, F]; frames of
    weight 0 are left out.
    Conditional flow matching for straight paths, Lipman et al. 2023, arXiv:2210.02747, eq. 23;
    Liu et al. 2022, arXiv:2209.03003, eq. 1.
    Raises ValueError when every frame has weight 0.
    """
    total = weight.sum()
    if total <= 0:
        raise ValueError("every frame has weight 0: there is nothing to learn from")
    return ((flow - target).square().mean((2, 3, 4)) * weight).sum() / total


def guided_flow(told: Tensor, untold: Tensor, guidance: float) -> Tensor:
    """The flow under a text, moved further away from the flow without one.

    told, untold, result: [B, F, C, H, W].  guidance: 1 is the text alone, more exaggerates it.
    Classifier-free guidance, Ho and Salimans 2022, arXiv:2207.12598, eq. 6 (with 1 + w there).
    A student that learns this flow needs no second pass: Meng et al. 2023, arXiv:2210.03142.
    """
    return untold + guidance * (told - untold)
