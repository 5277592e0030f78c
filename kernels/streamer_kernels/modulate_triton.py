"""modulate, the Triton twin of `modulate.py`: one program a token, one pass over memory."""

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


@triton.jit
def normalise(x, mask, eps, E: tl.constexpr):
    """Mean 0 and variance 1 over the E channels of a row, in float32."""
    mean = tl.sum(tl.where(mask, x, 0.0), 0) / E
    centred = tl.where(mask, x - mean, 0.0)
    return centred * tl.rsqrt(tl.sum(centred * centred, 0) / E + eps)


@triton.jit(do_not_specialize=["num_per_group"])
def modulate_kernel(
    X,
    Shift,
    Scale,
    Out,
    eps,
    num_per_group,
    x_batch,
    x_token,
    shift_batch,
    shift_group,
    scale_batch,
    scale_group,
    out_batch,
    out_token,
    E: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """One token.  Grid: (N, B).  Strides in elements.  WIDTH: E padded to a power of two."""
    batch = tl.program_id(1).to(tl.int64)
    token = tl.program_id(0)
    group = token // num_per_group
    channel = tl.arange(0, WIDTH)
    mask = channel < E
    x = tl.load(X + batch * x_batch + token * x_token + channel, mask=mask, other=0.0)
    shift_at = Shift + batch * shift_batch + group * shift_group
    shift = tl.load(shift_at + channel, mask=mask, other=0.0).to(tl.float32)
    scale_at = Scale + batch * scale_batch + group * scale_group
    scale = tl.load(scale_at + channel, mask=mask, other=0.0).to(tl.float32)
    out = normalise(x.to(tl.float32), mask, eps, E) * (1.0 + scale) + shift
    out_at = Out + batch * out_batch + token * out_token
    tl.store(out_at + channel, out.to(Out.dtype.element_ty), mask=mask)


def modulate(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """layer_norm(x) * (1 + scale) + shift per frame; the contract is `modulate.modulate`.

    Float32, float16 or bfloat16 on a CUDA device.  Computed in float32 and rounded once.
    Raises ValueError for what the kernel cannot read, and RuntimeError when a gradient is wanted or
    the device is wrong.
    """
    check_inputs("modulate", {"x": x, "shift": shift, "scale": scale})
    groups = check_groups(x, shift=shift, scale=scale)
    batch, num_tokens, channels = x.shape
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    with torch.cuda.device_of(x):
        modulate_kernel[(num_tokens, batch)](
            x,
            shift,
            scale,
            out,
            eps,
            num_tokens // groups,
            *(stride for each in (x, shift, scale, out) for stride in each.stride()[:2]),
            E=channels,
            WIDTH=power_of_two(channels),
            num_warps=row_warps(channels),
            enable_fp_fusion=True,
        )
    return out


def check_groups(x: Tensor, **vectors: Tensor | None) -> int:
    """How many groups of tokens share a vector; x is [B, N, E], the vectors [B, G, E].

    Raises ValueError when the sizes do not fit each other.
    """
    if x.dim() != 3:
        raise ValueError(f"x is {tuple(x.shape)}, expected [B, N, E]")
    check_reach("x", x)
    given = {name: vector for name, vector in vectors.items() if vector is not None}
    groups = next((vector.shape[1] for vector in given.values() if vector.dim() == 3), 1)
    if groups == 0 or x.shape[1] % groups:
        raise ValueError(f"{x.shape[1]} tokens do not split into {groups} groups")
    for name, vector in given.items():
        check_shape(name, vector, (x.shape[0], groups, x.shape[2]))
        check_reach(name, vector)
    return groups
