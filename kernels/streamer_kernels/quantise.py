"""quantise_rows: eight-bit numbers with one scale a row, for linear maps and for the cache.

Contract and reference.

A row is what shares a scale: a token in a linear map, one head of one token in the cache.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Kind = Literal["int8", "fp8"]

LARGEST = {"int8": 127.0, "fp8": 448.0}
"""The largest number of each kind; fp8 is e4m3, whose finite numbers end at 448."""
TYPES = {"int8": torch.int8, "fp8": torch.float8_e4m3fn}
SMALLEST = 1e-12
"""Rows are never scaled up by more than this allows, so that a row of zeros stays one."""


def quantise_rows(x: Tensor, kind: Kind) -> tuple[Tensor, Tensor]:
    """Scale every row to the range of the kind and round to nearest, ties to even.

    x: [..., E].  results: codes [..., E] of the kind and scales [...], float32; x is about
        codes * scale.
    A number that is not finite makes its row's scale not finite: it is never hidden.
    Raises ValueError for an unknown kind.
    """
    if kind not in TYPES:
        raise ValueError(f"kind is {kind!r}, expected one of {', '.join(map(repr, TYPES))}")
    rows = x.float()
    scales = rows.abs().amax(-1).clamp_min(SMALLEST) / LARGEST[kind]
    scaled = (rows / scales.unsqueeze(-1)).clamp(-LARGEST[kind], LARGEST[kind])
    if kind == "int8":
        scaled = scaled.nan_to_num(0.0).round()
    return scaled.to(TYPES[kind]), scales


def dequantise_rows(codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """codes * scale, back in a floating type: the inverse of `quantise_rows` but for its rounding.

    codes: [..., E].  scales: [...].  result: [..., E].
    """
    return (codes.float() * scales.unsqueeze(-1)).to(dtype)


def scaled_linear(
    codes: Tensor,
    scales: Tensor,
    weight: Tensor,
    weight_scales: Tensor,
    bias: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    """A linear map of quantised rows: products of eight-bit numbers, scaled by row and by column.

    codes: [N, E], scales: [N], from the inputs.  weight: [O, E], weight_scales: [O], from the
        weights.  bias: [O].  result: [N, O] of dtype.
    Products of int8 are exact.
    """
    product = torch.matmul(codes.float(), weight.float().t())
    out = product * scales.unsqueeze(-1) * weight_scales
    return (out if bias is None else out + bias.float()).to(dtype)


def scaled_linear_library(
    codes: Tensor,
    scales: Tensor,
    weight: Tensor,
    weight_scales: Tensor,
    bias: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    """`scaled_linear` on the tensor cores, through cuBLASLt: CUDA devices.

    fp8 needs sm_89 or newer, E and O multiples of 16, and gives bfloat16.  int8 needs N > 16, E and
    O multiples of 8.
    Raises RuntimeError from the library for what it cannot do.
    """
    if codes.dtype == torch.int8:
        product = torch._int_mm(codes, weight.t()).float()
        out = product * scales.unsqueeze(-1) * weight_scales
        return (out if bias is None else out + bias.float()).to(dtype)
    return torch._scaled_mm(
        codes,
        weight.t(),
        scale_a=scales.unsqueeze(-1),
        scale_b=weight_scales.unsqueeze(0),
        bias=bias,
        out_dtype=dtype,
        use_fast_accum=True,
    )
