"""gate_add and the next norm, the Triton twin of `gate_add.py`: one pass over memory."""

# Kernel arguments are Triton's own values, for which there are no Python types.
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from streamer_kernels.launch import (
    check_inputs,
    check_reach,
    check_shape,
    power_of_two,
    row_warps,
)
from streamer_kernels.modulate_triton import check_groups, normalise


@triton.jit(do_not_specialize=["gate_tokens", "norm_tokens"])
def gate_add_kernel(
    X,
    Branch,
    Gate,
    Scale,
    Shift,
    Total,
    Normed,
    eps,
    gate_tokens,
    norm_tokens,
    x_batch,
    x_token,
    branch_batch,
    branch_token,
    gate_batch,
    gate_group,
    scale_batch,
    scale_group,
    shift_batch,
    shift_group,
    total_batch,
    total_token,
    E: tl.constexpr,
    WIDTH: tl.constexpr,
    HAS_GATE: tl.constexpr,
    HAS_NORM: tl.constexpr,
    ADDS_ONE: tl.constexpr,
):
    """One token.  Grid: (N, B).  Strides in elements, those of Normed are Total's.

    gate_tokens, norm_tokens: tokens that share a gate, and a scale and shift.
    ADDS_ONE: whether the norm is multiplied by 1 + scale instead of scale.
    """
    batch = tl.program_id(1).to(tl.int64)
    token = tl.program_id(0)
    channel = tl.arange(0, WIDTH)
    mask = channel < E
    x = tl.load(X + batch * x_batch + token * x_token + channel, mask=mask, other=0.0)
    branch_at = Branch + batch * branch_batch + token * branch_token
    branch = tl.load(branch_at + channel, mask=mask, other=0.0).to(tl.float32)
    if HAS_GATE:
        gate_at = Gate + batch * gate_batch + token // gate_tokens * gate_group
        branch *= tl.load(gate_at + channel, mask=mask, other=0.0).to(tl.float32)
    total = (x.to(tl.float32) + branch).to(Total.dtype.element_ty)
    total_at = batch * total_batch + token * total_token + channel
    tl.store(Total + total_at, total, mask=mask)
    if HAS_NORM:
        # What later layers will read, rounded as they will read it.
        normed = normalise(total.to(tl.float32), mask, eps, E)
        group = token // norm_tokens
        scale_at = Scale + batch * scale_batch + group * scale_group
        scale = tl.load(scale_at + channel, mask=mask, other=0.0).to(tl.float32)
        shift_at = Shift + batch * shift_batch + group * shift_group
        shift = tl.load(shift_at + channel, mask=mask, other=0.0).to(tl.float32)
        normed = normed * (scale + 1.0 if ADDS_ONE else scale) + shift
        tl.store(Normed + total_at, normed.to(Normed.dtype.element_ty), mask=mask)


def gate_add(x: Tensor, branch: Tensor, gate: Tensor) -> Tensor:
    """x + branch * gate; the contract is `gate_add.gate_add`.

    Float32, float16 or bfloat16 on a CUDA device.
    Raises ValueError for what the kernel cannot read, and RuntimeError when a gradient is wanted or
    the device is wrong.
    """
    check_inputs("gate_add", {"x": x, "branch": branch, "gate": gate})
    return _launch(x, branch, gate, None, None, 0.0, adds_one=False)[0]


def gate_add_modulate(
    x: Tensor, branch: Tensor, gate: Tensor | None, shift: Tensor, scale: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """`gate_add`, then `modulate`; the contract is `gate_add.gate_add_modulate`.

    Element types, devices and errors: see `gate_add`.
    """
    named = {"x": x, "branch": branch, "gate": gate, "shift": shift, "scale": scale}
    check_inputs("gate_add_modulate", named)
    check_groups(x, shift=shift, scale=scale)
    return _launch(x, branch, gate, scale, shift, eps, adds_one=True)


def gate_add_layer_norm(
    x: Tensor, branch: Tensor, gate: Tensor | None, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """`gate_add`, then a layer norm; the contract is `gate_add.gate_add_layer_norm`.

    Element types, devices and errors: see `gate_add`.
    """
    named = {"x": x, "branch": branch, "gate": gate, "weight": weight, "bias": bias}
    check_inputs("gate_add_layer_norm", named)
    for name, vector in {"weight": weight, "bias": bias}.items():
        check_shape(name, vector, (x.shape[-1],))
        check_reach(name, vector)
    scale, shift = (vector.expand(len(x), 1, -1) for vector in (weight, bias))
    return _launch(x, branch, gate, scale, shift, eps, adds_one=False)


def _launch(
    x: Tensor,
    branch: Tensor,
    gate: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    eps: float,
    *,
    adds_one: bool,
) -> tuple[Tensor, Tensor]:
    batch, num_tokens, channels = x.shape
    gate_groups = check_groups(x, gate=gate)
    check_shape("branch", branch, tuple(x.shape))
    check_reach("branch", branch)
    total = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    normed = total if scale is None else torch.empty_like(total)
    vectors = [x if vector is None else vector for vector in (gate, scale, shift)]
    with torch.cuda.device_of(x):
        gate_add_kernel[(num_tokens, batch)](
            x,
            branch,
            *vectors,
            total,
            normed,
            eps,
            num_tokens // gate_groups,
            num_tokens // (1 if scale is None else scale.shape[1]),
            *(stride for each in (x, branch, *vectors, total) for stride in each.stride()[:2]),
            E=channels,
            WIDTH=power_of_two(channels),
            HAS_GATE=gate is not None,
            HAS_NORM=scale is not None,
            ADDS_ONE=adds_one,
            num_warps=row_warps(channels),
            enable_fp_fusion=True,
        )
    return total, normed
