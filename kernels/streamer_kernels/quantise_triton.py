"""quantise_rows and gelu_quantise_rows, the Triton twin of `quantise.py`: one pass over memory."""

# Kernel arguments are Triton's own values, for which there are no Python types.
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from streamer_kernels.gelu_triton import gelu
from streamer_kernels.launch import (
    IS_INTERPRETED,
    capability,
    check_inputs,
    power_of_two,
    row_warps,
)
from streamer_kernels.quantise import LARGEST, SMALLEST, TYPES, Kind

# Elements that a program holds: short rows, as those of the cache, go several to a program.
BLOCK = 2048


@triton.jit
def to_codes(
    x,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    LARGEST: tl.constexpr,
    SMALLEST: tl.constexpr,
    IS_INTEGER: tl.constexpr,
):
    """Codes of rows x [ROWS, WIDTH], still as float32, and the scales [ROWS] of the rows."""
    # Maxima drop what is not a number, so the sum of x * 0 brings it back into the scale.
    scales = tl.maximum(tl.max(tl.abs(x), 1), SMALLEST) / LARGEST + tl.sum(x * 0.0, 1)
    codes = tl.div_rn(x, tl.broadcast_to(scales[:, None], [ROWS, WIDTH]))
    codes = tl.minimum(tl.maximum(codes, -LARGEST), LARGEST)
    if IS_INTEGER:
        # Adding and taking away 3 * 2^22 rounds to the nearest integer, ties to even.
        codes = (codes + 12582912.0) - 12582912.0
    return codes, scales


@triton.jit(do_not_specialize=["num_rows"])
def quantise_rows_kernel(
    X,
    Codes,
    Scales,
    num_rows,
    E: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    LARGEST: tl.constexpr,
    SMALLEST: tl.constexpr,
    IS_INTEGER: tl.constexpr,
    HAS_GELU: tl.constexpr,
):
    """ROWS contiguous rows.  Grid: (rows / ROWS,).  WIDTH: E padded to a power of two."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    channel = tl.arange(0, WIDTH)
    at = row[:, None] * E + channel[None, :]
    mask = (row < num_rows)[:, None] & (channel < E)[None, :]
    x = tl.load(X + at, mask=mask, other=0.0).to(tl.float32)
    if HAS_GELU:
        x = gelu(x)
    codes, scales = to_codes(x, ROWS, WIDTH, LARGEST, SMALLEST, IS_INTEGER)
    tl.store(Scales + row, scales, mask=row < num_rows)
    tl.store(Codes + at, codes.to(Codes.dtype.element_ty), mask=mask)


def check_kind(kind: Kind, device: torch.device) -> None:
    """Raises RuntimeError when a device has no such numbers."""
    if kind == "fp8" and not IS_INTERPRETED and capability(device) < 89:
        raise RuntimeError(
            f"fp8 needs sm_89 or newer, this is sm_{capability(device)}; use kind='int8'"
        )


def quantise_rows(x: Tensor, kind: Kind) -> tuple[Tensor, Tensor]:
    """Codes and scales of every row; the contract is `quantise.quantise_rows`.

    Float32, float16 or bfloat16 on a CUDA device; fp8 needs sm_89 or newer.  x is contiguous.
    Raises ValueError for what the kernel cannot read, and RuntimeError when a gradient is wanted or
    the device is wrong.
    """
    return _launch("quantise_rows", x, kind, has_gelu=False)


def gelu_quantise_rows(x: Tensor, kind: Kind) -> tuple[Tensor, Tensor]:
    """Of the GELU of every row; the contract is `quantise.gelu_quantise_rows`.

    Element types, devices and errors: see `quantise_rows`.
    """
    return _launch("gelu_quantise_rows", x, kind, has_gelu=True)


def _launch(op: str, x: Tensor, kind: Kind, *, has_gelu: bool) -> tuple[Tensor, Tensor]:
    check_inputs(op, {"x": x})
    if kind not in TYPES:
        raise ValueError(f"kind is {kind!r}, expected one of {', '.join(map(repr, TYPES))}")
    if not x.is_contiguous():
        raise ValueError(f"x has strides {x.stride()}, expected a contiguous tensor")
    check_kind(kind, x.device)
    codes = torch.empty(x.shape, dtype=TYPES[kind], device=x.device)
    scales = torch.empty(x.shape[:-1], dtype=torch.float32, device=x.device)
    width = power_of_two(x.shape[-1])
    rows = max(1, (64 if IS_INTERPRETED else BLOCK) // width)
    with torch.cuda.device_of(x):
        quantise_rows_kernel[(triton.cdiv(scales.numel(), rows),)](
            x,
            codes,
            scales,
            scales.numel(),
            E=x.shape[-1],
            WIDTH=width,
            ROWS=rows,
            LARGEST=LARGEST[kind],
            SMALLEST=SMALLEST,
            IS_INTEGER=kind == "int8",
            HAS_GELU=has_gelu,
            num_warps=row_warps(rows * width),
            enable_fp_fusion=True,
        )
    return codes, scales
