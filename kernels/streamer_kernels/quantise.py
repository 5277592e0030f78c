"""quantise_rows: eight-bit numbers with one scale a row, for linear maps and for the cache.

Contract and reference.

A row is what shares a scale: a token in a linear map, one head of one token in the cache.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Kind = Literal["int8", "fp8"]

LARGEST = {"int8": 127.0, "fp8": 448.0}
"""The largest number of each kind; fp8 is e4m3, whose finite numbers end at 448."""
TYPES = {"int8": torch.int8, "fp8": torch.float8_e4m3fn}
SMALLEST = 1e-12
"""Rows are never scaled up by more than this allows, so that a row of zeros stays one."""


class RingScales(NamedTuple):
    """What the codes of an eight-bit ring are to be multiplied with: one number a head and slot.

    k, v: float32 [B, A, S].  Slots come last, since attention reads them by the run.
    """

    k: Tensor
    v: Tensor


def kind_of(dtype: torch.dtype) -> Kind | None:
    """Which kind of codes an element type is; None for other types."""
    for kind in ("int8", "fp8"):
        if TYPES[kind] == dtype:
            return kind
    return None


def dequantise_ring(
    k: Tensor, v: Tensor, scales: RingScales, num_slots: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """The first num_slots keys and values of an eight-bit ring: [B, num_slots, A, D] of dtype."""
    first = slice(num_slots)
    return (
        dequantise_rows(k[:, first], scales.k[:, :, first].transpose(1, 2), dtype),
        dequantise_rows(v[:, first], scales.v[:, :, first].transpose(1, 2), dtype),
    )


def write_codes(ring: Tensor, scales: Tensor, slots: Tensor, x: Tensor) -> None:
    """Quantise heads x [B, N, A, D] into the slots int64 [N] of an eight-bit ring.

    ring: codes [B, S, A, D].  scales: float32 [B, A, S].  Both are written in place.
    Raises ValueError when the ring holds no codes.
    """
    kind = kind_of(ring.dtype)
    if kind is None:
        raise ValueError(f"the ring is {ring.dtype}; scales belong to a ring of int8 or fp8")
    codes, rows = quantise_rows(x, kind)
    # Eight-bit floats are copied as the bytes that they are.
    ring.view(torch.int8).index_copy_(1, slots, codes.view(torch.int8))
    scales.index_copy_(2, slots, rows.transpose(1, 2))


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


def gelu_quantise_rows(x: Tensor, kind: Kind) -> tuple[Tensor, Tensor]:
    """`quantise_rows` of the tanh form of GELU of x, for the second map of a feed-forward.

    Arguments, results and errors: see `quantise_rows`.
    """
    return quantise_rows(F.gelu(x.float(), approximate="tanh"), kind)


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
