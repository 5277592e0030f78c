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
    return _mean_square(flow, target, weight)


def guided_flow(told: Tensor, untold: Tensor, guidance: float | Tensor) -> Tensor:
    """The flow under a text, moved further away from the flow without one.

    told, untold, result: [B, F, C, H, W].  guidance: 1 is the text alone, more exaggerates
    it; a tensor broadcasts.
    Classifier-free guidance, Ho and Salimans 2022, arXiv:2207.12598, eq. 6 (with 1 + w there).
    A student that learns this flow needs no second pass: Meng et al. 2023, arXiv:2210.03142.
    """
    return untold + guidance * (told - untold)


def distribution_direction(made: Tensor, real: Tensor, fake: Tensor, weight: Tensor) -> Tensor:
    """How far a clip is on the side of the made ones; real ones lie against the direction.

    made, real, fake, result: [B, F, C, H, W]; `real` and `fake` are the clean clips that the two
    scores see in a noisy copy of `made`.  weight: [B, F]; frames of weight 0 get no direction and
    do not count in the scale.
    Distribution matching distillation, Yin et al. 2023, arXiv:2311.18828, eq. 7, with the scale of
    eq. 8: fake - real, divided by the mean distance of `made` from `real`, one number a clip.
    """
    kept = weight[:, :, None, None, None].to(made.dtype)
    count = (kept.sum((1, 2, 3, 4), keepdim=True) * made[0, 0].numel()).clamp_min(1.0)
    scale = ((made - real).abs() * kept).sum((1, 2, 3, 4), keepdim=True) / count
    return ((fake - real) / scale.clamp_min(1e-6) * kept).nan_to_num(0.0, 0.0, 0.0).detach()


def direction_loss(made: Tensor, direction: Tensor, weight: Tensor) -> Tensor:
    """A loss whose gradient at `made` is `direction`, divided by the number of weighted values.

    made, direction: [B, F, C, H, W].  weight: [B, F].  The form of Yin et al. 2024,
    arXiv:2405.14867, section 4: half the squared distance to a target that is held still.
    Raises ValueError when every frame has weight 0.
    """
    target = (made - direction).detach()
    return 0.5 * _mean_square(made, target, weight)


def clean_regression_loss(made: Tensor, clean: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean squared error of clean latents: how a student learns its teacher's paths.

    made, clean: [B, F, C, H, W].  weight: [B, F]; frames of weight 0 are left out.
    ODE initialisation, Yin et al. 2024, arXiv:2412.07772, eq. 6.
    Raises ValueError when every frame has weight 0.
    """
    return _mean_square(made, clean, weight)


def _mean_square(found: Tensor, wanted: Tensor, weight: Tensor) -> Tensor:
    total = weight.sum()
    # To ask a GPU would be to wait for it; there the loss is no number, which the trainer notices.
    if weight.device.type == "cpu" and total <= 0:
        raise ValueError("every frame has weight 0: there is nothing to learn from")
    return ((found - wanted).square().mean((2, 3, 4)) * weight).sum() / total
