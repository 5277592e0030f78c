"""merge, the Triton twin of `merge.py`: two parts in one pass over memory.

PyTorch's operators take eight passes over tensors in float32, which for sinks in every layer of
every pass is, by the bytes, about a twentieth of a block.
"""

# Kernel arguments are Triton's own values, for which there are no Python types.
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from streamer_kernels.launch import (
    IS_INTERPRETED,
    check_inputs,
    check_reach,
    check_shape,
    power_of_two,
)
from streamer_kernels.merge import Part

NUM_WARPS = 4


@triton.jit(do_not_specialize=["a_sum_head", "b_sum_head", "num_tokens"])
def merge_kernel(
    A,
    B,
    A_sum,
    B_sum,
    Out,
    Out_sum,
    num_heads,
    num_tokens,
    a_batch,
    a_token,
    a_head,
    b_batch,
    b_token,
    b_head,
    out_batch,
    out_token,
    out_head,
    a_sum_batch,
    a_sum_head,
    a_sum_token,
    b_sum_batch,
    b_sum_head,
    b_sum_token,
    HEADS: tl.constexpr,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """One token.  Grid: (N, B).  Strides in elements; Out_sum is contiguous [B, A, N].

    HEADS, WIDTH: heads and their width D, padded to powers of two.
    """
    batch = tl.program_id(1).to(tl.int64)
    token = tl.program_id(0).to(tl.int64)
    head = tl.arange(0, HEADS)
    channel = tl.arange(0, WIDTH)
    is_head = head < num_heads
    mask = is_head[:, None] & (channel < D)[None, :]
    a_sum_at = A_sum + batch * a_sum_batch + token * a_sum_token + head * a_sum_head
    b_sum_at = B_sum + batch * b_sum_batch + token * b_sum_token + head * b_sum_head
    a_sum = tl.load(a_sum_at, mask=is_head, other=0.0)
    b_sum = tl.load(b_sum_at, mask=is_head, other=0.0)
    peak = tl.maximum(a_sum, b_sum)
    a_weight = tl.exp(a_sum - peak)
    b_weight = tl.exp(b_sum - peak)
    total = a_weight + b_weight
    # One pass over both.
    a_at = A + batch * a_batch + token * a_token + head[:, None] * a_head + channel[None, :]
    b_at = B + batch * b_batch + token * b_token + head[:, None] * b_head + channel[None, :]
    a = tl.load(a_at, mask=mask, other=0.0).to(tl.float32)
    b = tl.load(b_at, mask=mask, other=0.0).to(tl.float32)
    out = a * (a_weight / total)[:, None] + b * (b_weight / total)[:, None]
    out_at = Out + batch * out_batch + token * out_token + head[:, None] * out_head
    tl.store(out_at + channel[None, :], out.to(Out.dtype.element_ty), mask=mask)
    sum_at = Out_sum + (batch * num_heads + head) * num_tokens + token
    tl.store(sum_at, peak + tl.log(total), mask=is_head)


def merge(parts: Sequence[Part]) -> Part:
    """Put parts together; the contract is `merge.merge`.

    Float32, float16 or bfloat16 on a CUDA device, the sums in float32.  Of more than two parts,
    results in between are float32.
    Raises ValueError for what the kernel cannot read, and RuntimeError when a gradient is wanted or
    the device is wrong.
    """
    first = parts[0][0]
    merged = parts[0]
    for index, part in enumerate(parts[1:], start=1):
        is_last = index == len(parts) - 1
        merged = _merge_two(merged, part, first.dtype if is_last else torch.float32)
    return merged


def _merge_two(a: Part, b: Part, dtype: torch.dtype) -> Part:
    for part, log_sum in (a, b):
        check_inputs("merge", {"part": part}, log_sum)
        check_reach("part", part)
        check_shape("part", part, tuple(a[0].shape))
        batch, num_tokens, num_heads, width = part.shape
        check_shape("log_sum", log_sum, (batch, num_heads, num_tokens))
        if log_sum.dtype != torch.float32:
            raise ValueError(f"log_sum is {log_sum.dtype}, expected torch.float32")
    out = torch.empty(a[0].shape, dtype=dtype, device=a[0].device)
    out_sum = torch.empty(batch, num_heads, num_tokens, dtype=torch.float32, device=out.device)
    with torch.cuda.device_of(out):
        merge_kernel[(num_tokens, batch)](
            a[0],
            b[0],
            a[1],
            b[1],
            out,
            out_sum,
            num_heads,
            num_tokens,
            *(stride for each in (a[0], b[0], out) for stride in each.stride()[:3]),
            *a[1].stride(),
            *b[1].stride(),
            HEADS=power_of_two(num_heads),
            D=width,
            WIDTH=power_of_two(width),
            num_warps=1 if IS_INTERPRETED else NUM_WARPS,
            enable_fp_fusion=True,
        )
    return out, out_sum
