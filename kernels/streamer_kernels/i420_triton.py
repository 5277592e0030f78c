"""to_i420, the Triton twin of `i420.py`: one pass over memory, which halves what is copied out."""

# Kernel arguments are Triton's own values, for which there are no Python types.
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from streamer_kernels.i420 import BLUE, LUMA, RED, check_pictures
from streamer_kernels.launch import IS_INTERPRETED

PAIRS = 256
NUM_WARPS = 4


@triton.jit
def _mix(red, green, blue, weights: tl.constexpr):
    return weights[0] * red + weights[1] * green + weights[2] * blue


@triton.jit
def to_i420_kernel(
    Pictures,
    Out,
    height,
    width,
    PAIRS: tl.constexpr,
    LUMA: tl.constexpr,
    BLUE: tl.constexpr,
    RED: tl.constexpr,
):
    """2 rows and 2 * PAIRS columns of a picture.  Grid: (columns / 2 / PAIRS, H / 2, T)."""
    pair = tl.program_id(0) * PAIRS + tl.arange(0, PAIRS)
    half = tl.program_id(1)
    is_mine = pair < width // 2
    # Two rows by PAIRS by two columns.
    row = half * 2 + tl.arange(0, 2)
    column = pair[None, :, None] * 2 + tl.arange(0, 2)[None, None, :]
    mask = is_mine[None, :, None] & (row >= 0)[:, None, None]
    pixel = row[:, None, None] * width + column
    picture = tl.program_id(2).to(tl.int64)
    at = Pictures + picture * height * width * 3 + pixel * 3
    red = tl.load(at, mask=mask, other=0).to(tl.int32)
    green = tl.load(at + 1, mask=mask, other=0).to(tl.int32)
    blue = tl.load(at + 2, mask=mask, other=0).to(tl.int32)
    luma = (_mix(red, green, blue, LUMA) + (16 << 16) + (1 << 15)) >> 16
    plane = Out + picture * (height * width * 3 // 2)
    tl.store(plane + pixel, luma.to(tl.uint8), mask=mask)
    red = tl.sum(tl.sum(red, 2), 0)
    green = tl.sum(tl.sum(green, 2), 0)
    blue = tl.sum(tl.sum(blue, 2), 0)
    chroma_at = plane + height * width + half * (width // 2) + pair
    u = (_mix(red, green, blue, BLUE) + (128 << 18) + (1 << 17)) >> 18
    tl.store(chroma_at, u.to(tl.uint8), mask=is_mine)
    v = (_mix(red, green, blue, RED) + (128 << 18) + (1 << 17)) >> 18
    tl.store(chroma_at + (height // 2) * (width // 2), v.to(tl.uint8), mask=is_mine)


def to_i420(pictures: Tensor) -> Tensor:
    """RGB to the planes Y, U, V; the contract is `i420.to_i420`.

    On a CUDA device; pictures are contiguous.  The bytes are those of the reference.
    Raises ValueError for what the kernel cannot read, and RuntimeError when the device is wrong.
    """
    check_pictures(pictures)
    if pictures.device.type != "cuda" and not IS_INTERPRETED:
        raise RuntimeError(
            f"the triton to_i420 runs on CUDA devices, pictures are on {pictures.device}; use "
            "load_ops('torch')"
        )
    if not pictures.is_contiguous():
        raise ValueError(f"pictures have strides {pictures.stride()}, expected contiguous ones")
    count, height, width, _ = pictures.shape
    out = torch.empty(count, height * 3 // 2, width, dtype=torch.uint8, device=pictures.device)
    pairs = 16 if IS_INTERPRETED else PAIRS
    with torch.cuda.device_of(pictures):
        to_i420_kernel[(triton.cdiv(width // 2, pairs), height // 2, count)](
            pictures,
            out,
            height,
            width,
            PAIRS=pairs,
            LUMA=LUMA,
            BLUE=BLUE,
            RED=RED,
            num_warps=NUM_WARPS,
        )
    return out
