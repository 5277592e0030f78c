"""bias_gelu and linear_gelu, the Triton twin of `gelu.py`: one pass over the product."""

# Kernel arguments are Triton's own values, for which there are no Python types.
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from streamer_kernels.launch import IS_INTERPRETED, check_inputs, check_shape

BLOCK = 2048
NUM_WARPS = 4


@triton.jit
def gelu(x):
    """The tanh form: x (1 + tanh(u)) / 2 = x sigmoid(2u), u = sqrt(2 / pi) (x + 0.044715 x^3)."""
    return x * tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))


@triton.jit
def bias_gelu_kernel(X, Bias, Out, num_columns, BLOCK: tl.constexpr):
    """BLOCK columns of one row.  Grid: (rows, columns / BLOCK)."""
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = column < num_columns
    start = tl.program_id(0).to(tl.int64) * num_columns
    x = tl.load(X + start + column, mask=mask, other=0.0).to(tl.float32)
    x += tl.load(Bias + column, mask=mask, other=0.0).to(tl.float32)
    tl.store(Out + start + column, gelu(x).to(Out.dtype.element_ty), mask=mask)


def bias_gelu(x: Tensor, bias: Tensor) -> Tensor:
    """gelu(x + bias), tanh form; the contract is `gelu.bias_gelu`.

    Float32, float16 or bfloat16 on a CUDA device.  x is contiguous.
    Raises ValueError for what the kernel cannot read, and RuntimeError when a gradient is wanted or
    the device is wrong.
    """
    check_inputs("bias_gelu", {"x": x, "bias": bias})
    check_shape("bias", bias, (x.shape[-1],))
    if not (x.is_contiguous() and bias.is_contiguous()):
        raise ValueError(f"x has strides {x.stride()}, expected contiguous x and bias")
    out = torch.empty_like(x)
    columns = x.shape[-1]
    block = 64 if IS_INTERPRETED else BLOCK
    with torch.cuda.device_of(x):
        bias_gelu_kernel[(x.numel() // columns, triton.cdiv(columns, block))](
            x, bias, out, columns, BLOCK=block, num_warps=NUM_WARPS, enable_fp_fusion=True
        )
    return out


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The product by the library, the rest by `bias_gelu`; the contract is `gelu.linear_gelu`.

    Element types, devices and errors: see `bias_gelu`.
    """
    check_inputs("linear_gelu", {"x": x, "weight": weight, "bias": bias})
    return bias_gelu(F.linear(x, weight), bias)
