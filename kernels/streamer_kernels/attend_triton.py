"""attend, the Triton twin of `attend.py`: an online softmax over tiles of the ring.

One program owns a tile of queries of one head.  It first takes in the sinks with the re-rotated
query, then the rest of the ring with the true one; the running softmax does not notice the change.
The scores never exist in memory.  There is no backward pass.

Online softmax, Milakov and Gimelshein 2018, arXiv:1805.02867, section 3; tiled as in
FlashAttention-2, Dao 2023, arXiv:2307.08691, algorithm 1.
"""

# Kernel arguments are Triton's own values, for which there are no Python types.
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor


@dataclass(frozen=True)
class Tile:
    """How a launch is cut up: queries and keys of a tile, warps of a program, loads in flight."""

    queries: int
    keys: int
    num_warps: int
    num_stages: int


# (bytes of an element, largest padded head width) -> tile.  Chosen by compiling for sm_80 and sm_90
# (`python -m streamer_kernels.check --all`): nothing spills, everything fits the shared memory.
# Untuned: never timed on a device.  Float32 keeps off the tensor cores and is there for checking.
TILES = {
    (2, 64): Tile(queries=128, keys=64, num_warps=8, num_stages=3),
    (2, 128): Tile(queries=128, keys=64, num_warps=8, num_stages=3),
    (4, 64): Tile(queries=32, keys=32, num_warps=8, num_stages=2),
    (4, 128): Tile(queries=16, keys=16, num_warps=8, num_stages=2),
}
# Small, so that toy sizes cross tile borders; the interpreter's time goes with the number of tiles.
INTERPRETER_TILE = Tile(queries=32, keys=32, num_warps=1, num_stages=1)

OPERANDS = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}


@triton.jit
def _take_tile(
    query,
    scale,
    peak,
    total,
    out,
    K,
    V,
    first,
    end,
    k_slot,
    v_slot,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
    KEYS: tl.constexpr,
    OPERAND: tl.constexpr,
    IS_TAIL: tl.constexpr,
):
    """Take slots first .. first + KEYS - 1 into a running softmax; the tail stops at end."""
    slot = first + tl.arange(0, KEYS)
    channel = tl.arange(0, WIDTH)
    k_at = K + slot[None, :] * k_slot + channel[:, None]
    v_at = V + slot[:, None] * v_slot + channel[None, :]
    if IS_TAIL or WIDTH != D:
        k = tl.load(k_at, mask=(slot < end)[None, :] & (channel < D)[:, None], other=0.0)
        v = tl.load(v_at, mask=(slot < end)[:, None] & (channel < D)[None, :], other=0.0)
    else:
        k = tl.load(k_at)
        v = tl.load(v_at)
    # "ieee" keeps float32 out of the ten-bit mantissa of TF32; sixteen-bit operands do not see it.
    scores = tl.dot(query, k.to(OPERAND), input_precision="ieee")
    if IS_TAIL:
        scores = tl.where((slot < end)[None, :], scores, float("-inf"))
    new_peak = tl.maximum(peak, tl.max(scores, 1) * scale)
    weights = tl.exp2(scores * scale - new_peak[:, None])
    fade = tl.exp2(peak - new_peak)
    total = total * fade + tl.sum(weights, 1)
    out = tl.dot(weights.to(OPERAND), v.to(OPERAND), out * fade[:, None], input_precision="ieee")
    return new_peak, total, out


@triton.jit
def _take_slots(
    query,
    scale,
    peak,
    total,
    out,
    K,
    V,
    start,
    end,
    k_slot,
    v_slot,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
    KEYS: tl.constexpr,
    STAGES: tl.constexpr,
    OPERAND: tl.constexpr,
):
    """Take slots start .. end - 1 into a running softmax: full tiles without a mask, then a tail.

    No slot at all is taken when start = end.
    """
    full = start + (end - start) // KEYS * KEYS
    for first in tl.range(start, full, KEYS, num_stages=STAGES):
        peak, total, out = _take_tile(
            query, scale, peak, total, out, K, V, first, end, k_slot, v_slot,
            D, WIDTH, KEYS, OPERAND, False,
        )  # fmt: skip
    if full < end:
        peak, total, out = _take_tile(
            query, scale, peak, total, out, K, V, full, end, k_slot, v_slot,
            D, WIDTH, KEYS, OPERAND, True,
        )  # fmt: skip
    return peak, total, out


# The lengths change from block to block: specialising on their divisibility would compile the
# kernel again in the middle of a stream.  For the same reason one kernel serves with and without
# sinks: without, the first loop is empty.
@triton.jit(do_not_specialize=["num_queries", "num_valid", "num_sink"])
def attend_kernel(
    Q,
    Q_sink,
    K,
    V,
    Out,
    scale,
    num_heads,
    num_queries,
    num_valid,
    num_sink,
    q_batch,
    q_token,
    q_head,
    qs_batch,
    qs_token,
    qs_head,
    k_batch,
    k_slot,
    k_head,
    v_batch,
    v_slot,
    v_head,
    out_batch,
    out_token,
    out_head,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    STAGES: tl.constexpr,
    OPERAND: tl.constexpr,
):
    """One tile of queries of one head.  Grid: (tiles of queries, B * A).

    scale: log2(e) / sqrt(D).  Strides in elements.  WIDTH: D padded to a power of two.
    """
    # Offsets inside a sample fit 32 bits (the launcher checks that), offsets of samples may not.
    batch = (tl.program_id(1) // num_heads).to(tl.int64)
    head = tl.program_id(1) % num_heads
    K += batch * k_batch + head * k_head
    V += batch * v_batch + head * v_head
    token = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES)
    channel = tl.arange(0, WIDTH)
    mask = (token < num_queries)[:, None] & (channel < D)[None, :]
    peak = tl.full([QUERIES], float("-inf"), tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    out = tl.zeros([QUERIES, WIDTH], tl.float32)
    # Pass 1: the sinks.
    Q_sink += batch * qs_batch + head * qs_head
    query = tl.load(Q_sink + token[:, None] * qs_token + channel[None, :], mask=mask, other=0.0)
    peak, total, out = _take_slots(
        query.to(OPERAND), scale, peak, total, out, K, V, 0, num_sink, k_slot, v_slot,
        D, WIDTH, KEYS, STAGES, OPERAND,
    )  # fmt: skip
    # Pass 2: the rest of the ring.
    Q += batch * q_batch + head * q_head
    query = tl.load(Q + token[:, None] * q_token + channel[None, :], mask=mask, other=0.0)
    peak, total, out = _take_slots(
        query.to(OPERAND), scale, peak, total, out, K, V, num_sink, num_valid, k_slot, v_slot,
        D, WIDTH, KEYS, STAGES, OPERAND,
    )  # fmt: skip
    Out += batch * out_batch + head * out_head
    out_at = Out + token[:, None] * out_token + channel[None, :]
    tl.store(out_at, (out / total[:, None]).to(Out.dtype.element_ty), mask=mask)


# Whether TRITON_INTERPRET=1 was set when this module was imported: kernels then run on CPU tensors.
IS_INTERPRETED = not isinstance(attend_kernel, triton.JITFunction)


def pick_tile(element_size: int, head_width: int) -> Tile:
    """The tile for elements of so many bytes and a padded head width.

    Raises ValueError when the width is larger than every row of the table.
    """
    for (size, width), tile in TILES.items():
        if size == element_size and head_width <= width:
            return tile
    raise ValueError(f"heads are {head_width} wide, the largest tile is for {max(TILES)[1]}")


def padded_width(head_width: int) -> int:
    """The next power of two, at least 16: the smallest operand of the tensor cores."""
    return max(16, 1 << (head_width - 1).bit_length())


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    num_valid: int,
    q_sink: Tensor | None = None,
    num_sink: int = 0,
) -> Tensor:
    """Attend from every query to the first num_valid slots; the contract is `attend.attend`.

    Float32, float16 or bfloat16 on a CUDA device (on any device under TRITON_INTERPRET=1).
    Raises ValueError for what the kernel cannot read, and RuntimeError when a gradient is wanted or
    the device is wrong.
    """
    q_sink = q if q_sink is None else q_sink
    _check_inputs(q, q_sink, k, v)
    if not 0 < num_valid <= k.shape[1]:
        raise ValueError(f"num_valid is {num_valid}, but the ring has {k.shape[1]} slots")
    if not 0 <= num_sink <= num_valid:
        raise ValueError(f"num_sink is {num_sink}, but only {num_valid} slots are valid")
    batch, num_queries, num_heads, head_width = q.shape
    width = padded_width(head_width)
    tile = INTERPRETER_TILE if IS_INTERPRETED else pick_tile(q.element_size(), width)
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    with torch.cuda.device_of(q):
        attend_kernel[(triton.cdiv(num_queries, tile.queries), batch * num_heads)](
            q,
            q_sink,
            k,
            v,
            out,
            1.0 / (math.sqrt(head_width) * math.log(2.0)),
            num_heads,
            num_queries,
            num_valid,
            num_sink,
            *(stride for tensor in (q, q_sink, k, v, out) for stride in tensor.stride()[:3]),
            D=head_width,
            WIDTH=width,
            QUERIES=tile.queries,
            KEYS=tile.keys,
            STAGES=tile.num_stages,
            # The interpreter computes sixteen-bit floats on their raw bits: upcast them first.
            OPERAND=tl.float32 if IS_INTERPRETED else OPERANDS[q.dtype],
            num_warps=tile.num_warps,
            num_stages=tile.num_stages,
            enable_fp_fusion=True,
        )
    return out


def _check_inputs(q: Tensor, q_sink: Tensor, k: Tensor, v: Tensor) -> None:
    named = {"q": q, "q_sink": q_sink, "k": k, "v": v}
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in named.values()):
        raise RuntimeError(
            "the triton attend has no backward pass; run it under torch.no_grad() or differentiate "
            "load_ops('torch')"
        )
    if q.device.type != "cuda" and not IS_INTERPRETED:
        raise RuntimeError(
            f"the triton attend runs on CUDA devices, q is on {q.device}; use load_ops('torch'), "
            "or set TRITON_INTERPRET=1 before Python starts to interpret the kernel"
        )
    if q.dtype not in OPERANDS:
        raise ValueError(f"q is {q.dtype}, expected one of {', '.join(map(str, OPERANDS))}")
    if q.dim() != 4 or k.dim() != 4:
        raise ValueError(
            f"q is {tuple(q.shape)} and k {tuple(k.shape)}, expected [B, N or S, A, D]"
        )
    ring = (q.shape[0], k.shape[1], *q.shape[2:])
    for name, tensor in named.items():
        shape = tuple(q.shape) if name.startswith("q") else ring
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{name} is {tuple(tensor.shape)}, expected {shape}")
        if tensor.dtype != q.dtype or tensor.device != q.device:
            raise ValueError(
                f"{name} is {tensor.dtype} on {tensor.device}, q is {q.dtype} on {q.device}"
            )
        _check_strides(name, tensor)


def _check_strides(name: str, tensor: Tensor) -> None:
    if tensor.stride(3) != 1:
        raise ValueError(
            f"{name} has strides {tensor.stride()}, the last one must be 1; call .contiguous()"
        )
    sizes, strides = tensor.shape[1:], tensor.stride()[1:]
    longest = sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
    if longest >= 2**31:
        raise ValueError(
            f"{name} spans {longest} elements in a sample, more than a 32-bit offset reaches"
        )
