"""Muon: orthogonalised momentum for matrices, AdamW for everything else, in one optimiser.

Keller Jordan 2024, https://kellerjordan.github.io/posts/muon/; AdamW: Loshchilov and Hutter 2019,
arXiv:1711.05101.
Works on split parameters, too (ranks.py): state is kept for this rank's part, and only a matrix
that is orthogonalised is made whole.
A parameter without a gradient in a step is left alone, so stages may train one network of several
in a step.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypedDict

import torch
from torch import Tensor, nn

from streamer.distill.ranks import local, part, whole

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
MUON_MOMENTUM = 0.95
ADAM_BETAS = (0.9, 0.95)
_ADAM_EPSILON = 1e-8


class _Group(TypedDict):
    params: list[nn.Parameter]
    is_muon: bool
    lr: float
    base_lr: float
    weight_decay: float
    momentum: float
    betas: tuple[float, float]


def orthogonalise(matrices: Tensor, num_steps: int = 5) -> Tensor:
    """Push all singular values of each matrix towards 1 (they end in about 0.7..1.2).

    matrices, result: [K,M,N].  Newton-Schulz iteration of degree five with Keller Jordan's
    coefficients; bfloat16 on a GPU, float32 elsewhere.
    """
    a, b, c = _COEFFICIENTS
    x = matrices.to(torch.bfloat16 if matrices.is_cuda else torch.float32)
    is_tall = x.shape[-2] > x.shape[-1]
    if is_tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(num_steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    result: Tensor = (x.mT if is_tall else x).to(matrices.dtype)
    return result


class Muon(torch.optim.Optimizer):
    """Muon on the groups with `is_muon`, AdamW on the others.  `lr` may be changed between
    steps."""

    def __init__(self, groups: Iterable[_Group]) -> None:
        super().__init__([dict(group) for group in groups], defaults={})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Apply the gradients.  A closure is not supported: raises ValueError when one is given."""
        if closure is not None:
            raise ValueError("Muon.step takes no closure; compute the loss before calling it")
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if group["is_muon"]:
                self._step_muon(parameters, group)
            else:
                self._step_adam(parameters, group)
        return None

    def _step_muon(self, parameters: list[nn.Parameter], group: Mapping[str, Any]) -> None:
        lr, weight_decay, share = group["lr"], group["weight_decay"], group["momentum"]
        by_shape: dict[tuple[int, int], list[tuple[nn.Parameter, Tensor]]] = defaultdict(list)
        for parameter in parameters:
            state = self._state_of(parameter, ("momentum",))
            gradient = _gradient(parameter)
            momentum = state["momentum"].lerp_(gradient, 1 - share)
            update = whole(gradient.lerp(momentum, share), parameter).flatten(1)
            by_shape[(update.shape[0], update.shape[1])].append((parameter, update))
        for (rows, columns), entries in by_shape.items():
            scale = max(1.0, rows / columns) ** 0.5
            updates = orthogonalise(torch.stack([update for _, update in entries]))
            for (parameter, _), update in zip(entries, updates, strict=True):
                weights = local(parameter)
                weights.mul_(1 - lr * weight_decay)
                weights.add_(part(update.reshape(parameter.shape), parameter), alpha=-lr * scale)

    def _step_adam(self, parameters: list[nn.Parameter], group: Mapping[str, Any]) -> None:
        lr, weight_decay = group["lr"], group["weight_decay"]
        first_beta, second_beta = group["betas"]
        if not parameters:
            return
        # Without a memory of directions there is nothing to keep of them.
        buffers = ("first", "second") if first_beta > 0 else ("second",)
        states = [self._state_of(parameter, buffers) for parameter in parameters]
        for state in states:
            state["count"] += 1
        counts = [state["count"] for state in states]
        gradients, weights = [_gradient(p) for p in parameters], [local(p) for p in parameters]
        # All parameters in one go: on a GPU a hundred small ones would cost launches, not work.
        firsts = gradients
        if first_beta > 0:
            firsts = [state["first"] for state in states]
            torch._foreach_lerp_(firsts, gradients, 1 - first_beta)
        seconds = [state["second"] for state in states]
        torch._foreach_lerp_(seconds, torch._foreach_mul(gradients, gradients), 1 - second_beta)
        spreads = torch._foreach_div(seconds, [1 - second_beta**count for count in counts])
        torch._foreach_sqrt_(spreads)
        torch._foreach_add_(spreads, _ADAM_EPSILON)
        torch._foreach_mul_(weights, 1 - lr * weight_decay)
        rates = [-lr / (1 - first_beta**count) for count in counts]
        torch._foreach_addcdiv_(weights, firsts, spreads, rates)

    def _state_of(self, parameter: nn.Parameter, buffers: tuple[str, ...]) -> dict[str, Any]:
        state: dict[str, Any] = self.state[parameter]
        if not state:
            state["count"] = 0
            for name in buffers:
                state[name] = torch.zeros_like(local(parameter))
        return state


def _gradient(parameter: nn.Parameter) -> Tensor:
    """This rank's part of a gradient, in the weights' own type."""
    assert parameter.grad is not None
    return local(parameter.grad)


def is_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether Muon suits it: at least two axes, at least 16 rows and columns, and not an embedding
    table or a head.

    Names that contain "embed" or "head" keep AdamW: their rows are looked up or read apart, not
    multiplied as a map.
    """
    if parameter.dim() < 2 or "embed" in name or "head" in name:
        return False
    rows = parameter.shape[0]
    return min(rows, parameter.numel() // rows) >= 16


def build_optimizer(
    modules: Iterable[nn.Module],
    *,
    muon_lr: float = 0.02,
    adam_lr: float = 1e-3,
    weight_decay: float = 0.0,
    suits_muon: Callable[[str, nn.Parameter], bool] = is_matrix,
    momentum: float = MUON_MOMENTUM,
    betas: tuple[float, float] = ADAM_BETAS,
) -> Muon:
    """Muon for the matrices and convolutions of `modules`, AdamW for the rest; frozen parameters
    are left out.

    muon_lr: 0 gives everything to AdamW.  weight_decay: per step and unit of learning rate, on the
    Muon group only.  momentum: of Muon.  betas: of AdamW.
    """
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for module in modules:
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                is_muon = muon_lr > 0 and suits_muon(name, parameter)
                (matrices if is_muon else others).append(parameter)
    groups: list[_Group] = []
    if matrices:
        groups.append(_group(matrices, True, muon_lr, weight_decay, momentum, betas))
    if others:
        groups.append(_group(others, False, adam_lr, 0.0, momentum, betas))
    if not groups:
        raise ValueError("build_optimizer: no parameter requires a gradient; is everything frozen?")
    return Muon(groups)


def _group(
    params: list[nn.Parameter],
    is_muon: bool,
    lr: float,
    weight_decay: float,
    momentum: float,
    betas: tuple[float, float],
) -> _Group:
    return {
        "params": params,
        "is_muon": is_muon,
        "lr": lr,
        "base_lr": lr,
        "weight_decay": weight_decay,
        "momentum": momentum,
        "betas": betas,
    }


def join_optimizers(optimizers: Iterable[Muon]) -> Muon:
    """One optimiser of all groups of some, for a stage that trains networks at different rates."""
    return Muon([group for optimizer in optimizers for group in optimizer.param_groups])  # type: ignore[misc]
