"""attend and attend_views, the Triton twin of `attend.py` and `attend_views.py`: the launcher.

A launch is cut into pieces (`attend_plan.py`).  Two kernels take pieces: one for every GPU
(`attend_pointer_triton.py`) and one for Hopper (`attend_hopper_triton.py`); a third merges
(`attend_merge_triton.py`).  There is no backward pass.
"""

# mypy: allow-untyped-calls

from __future__ import annotations

import math
from dataclasses import astuple, dataclass
from functools import cache
from typing import Literal

import torch
import triton
import triton.language as tl
from torch import Tensor

from streamer_kernels.attend_hopper_triton import attend_hopper_kernel
from streamer_kernels.attend_merge_triton import attend_merge_kernel
from streamer_kernels.attend_plan import FULL_WINDOW, Plan, plan_attention
from streamer_kernels.attend_pointer_triton import attend_pointer_kernel
from streamer_kernels.attend_views import MAX_SPANS, Span, View, ViewTable, check_views
from streamer_kernels.launch import (
    IS_INTERPRETED,
    OPERANDS,
    capability,
    check_inputs,
    check_reach,
    check_shape,
    num_processors,
    power_of_two,
)
from streamer_kernels.qk_norm_rope_triton import check_codes
from streamer_kernels.quantise import RingScales

Form = Literal["pointer", "hopper"]


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
# The same for a ring of codes before Hopper: with 128 queries, Triton 3.6 spills on sm_80.
CODED_TILES = TILES | {(2, 128): Tile(queries=64, keys=64, num_warps=8, num_stages=3)}
# Head width -> tile of the Hopper form.  Four warps: more, and the compiler drops their roles.
HOPPER_TILES = {
    64: Tile(queries=128, keys=128, num_warps=4, num_stages=2),
    128: Tile(queries=128, keys=128, num_warps=4, num_stages=2),
}
# Small, so that toy sizes cross tile borders; the interpreter's time goes with the number of tiles.
INTERPRETER_TILE = Tile(queries=32, keys=32, num_warps=1, num_stages=1)
MERGED_ROWS = 16
HOPPER = 90


def pick_tile(element_size: int, head_width: int, capability: int, is_coded: bool = False) -> Tile:
    """The tile for queries of so many bytes an element and a padded head width.

    capability: as in sm_90.  is_coded: whether the ring holds codes.
    Raises ValueError when the width is larger than every row of the table.
    """
    table = CODED_TILES if is_coded and capability < HOPPER else TILES
    for (size, width), tile in table.items():
        if size == element_size and head_width <= width:
            return tile
    raise ValueError(f"heads are {head_width} wide, the largest tile is for {max(TILES)[1]}")


def padded_width(head_width: int) -> int:
    """The next power of two, at least 16: the smallest operand of the tensor cores."""
    return max(16, power_of_two(head_width))


def hopper_fault(q: Tensor, k: Tensor, v: Tensor, q_sink: Tensor | None = None) -> str | None:
    """Why the Hopper form cannot take these tensors; None when it can."""
    if k.dtype != q.dtype:
        return f"it reads rings of the queries' type, this one is {k.dtype}"
    if not IS_INTERPRETED and capability(q.device) // 10 != 9:
        return f"it is made for sm_90, this is sm_{capability(q.device)}"
    if not IS_INTERPRETED and q.element_size() != 2:
        return f"it multiplies sixteen-bit elements, these are {q.dtype}"
    if q.shape[-1] not in HOPPER_TILES and not IS_INTERPRETED:
        return f"its heads are {' or '.join(map(str, HOPPER_TILES))} wide, not {q.shape[-1]}"
    if IS_INTERPRETED and q.shape[-1] != padded_width(q.shape[-1]):
        return f"its heads are a power of two wide, not {q.shape[-1]}"
    for tensor in (q, k, v, q if q_sink is None else q_sink):
        steps = [tensor.data_ptr(), *(s * tensor.element_size() for s in tensor.stride()[:3])]
        if any(step % 16 for step in steps):
            return f"the copy engine wants multiples of 16 bytes, a tensor has {steps}"
    return None


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    num_valid: int,
    q_sink: Tensor | None = None,
    num_sink: int = 0,
    scales: RingScales | None = None,
    *,
    form: Form | None = None,
) -> Tensor:
    """Attend from every query to the first num_valid slots; the contract is `attend.attend`.

    Float32, float16 or bfloat16 on a CUDA device (on any device under TRITON_INTERPRET=1).
    form: which kernel; None takes the Hopper form where it can be had, which is not with scales.
    Raises ValueError for what the kernel cannot read, and RuntimeError when a gradient is wanted or
    the device is wrong.
    """
    _check(q, k, v, q_sink, scales)
    if not 0 < num_valid <= k.shape[1]:
        raise ValueError(f"num_valid is {num_valid}, but the ring has {k.shape[1]} slots")
    if not 0 <= num_sink <= num_valid:
        raise ValueError(f"num_sink is {num_sink}, but only {num_valid} slots are valid")
    num_sink = 0 if q_sink is None else num_sink
    table = _plain_table(q.shape[1], num_valid, num_sink, q.device)
    return _launch(q, k, v, table, q_sink if num_sink else None, None, scales, form)


def attend_views(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    table: ViewTable,
    q_sink: Tensor | None = None,
    lse: Tensor | None = None,
    scales: RingScales | None = None,
    *,
    form: Form | None = None,
    processors: int | None = None,
) -> Tensor:
    """Attend from every query to the spans of its view; the contract is `attend_views`.

    The pointer form never reads slots outside the spans.  The Hopper form reads up to a tile past
    the end of a span and forgets it, which works for finite numbers only.
    processors: how many the launch is cut up for, as if the window were full; None asks the device,
        and takes the keys that there are.
    Element types, devices, form and errors: see `attend`.
    """
    _check(q, k, v, q_sink, scales)
    check_views(q, k, table, lse)
    if table.spans.device != q.device:
        raise ValueError(f"the views lie on {table.spans.device}, q on {q.device}")
    return _launch(q, k, v, table, q_sink, lse, scales, form, processors)


# Never emptied: a captured graph holds the addresses.  A stream has a few dozen lengths, of a few
# hundred bytes each.
@cache
def _plain_table(
    num_queries: int, num_valid: int, num_sink: int, device: torch.device
) -> ViewTable:
    spans = (Span(0, num_sink, is_sink=True), Span(num_sink, num_valid))
    view = View(num_queries, tuple(span for span in spans if span.first < span.end))
    return ViewTable([view], device)


@cache
def _device_plan(
    num_queries: tuple[int, ...],
    has_sinks: bool,
    tile_queries: int,
    num_heads: int,
    processors: int,
    num_keys: int,
    device: torch.device,
) -> tuple[Plan, Tensor, Tensor]:
    plan = plan_attention(num_queries, has_sinks, tile_queries, num_heads, processors, num_keys)
    pieces = torch.tensor([(*astuple(piece), 0) for piece in plan.pieces], dtype=torch.int32)
    merges = torch.tensor([astuple(merge) for merge in plan.merges], dtype=torch.int32)
    return plan, pieces.to(device), merges.to(device)


def _launch(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    table: ViewTable,
    q_sink: Tensor | None,
    lse: Tensor | None,
    scales: RingScales | None,
    form: Form | None,
    processors: int | None = None,
) -> Tensor:
    batch, num_queries, num_heads, head_width = q.shape
    fault = hopper_fault(q, k, v, q_sink)
    if form == "hopper" and fault is not None:
        raise ValueError(f"the hopper form cannot be used: {fault}; use form='pointer'")
    is_hopper = form == "hopper" or (form is None and fault is None and not IS_INTERPRETED)
    width = padded_width(head_width)
    if IS_INTERPRETED:
        tile = INTERPRETER_TILE
    elif is_hopper:
        tile = HOPPER_TILES[width]
    else:
        is_coded = scales is not None
        tile = pick_tile(q.element_size(), width, capability(q.device), is_coded)
    plan, pieces, merges = _device_plan(
        tuple(view.num_queries for view in table.views),
        table.has_sinks,
        tile.queries,
        batch * num_heads,
        processors or num_processors(q.device),
        FULL_WINDOW if processors else table.most_keys,
        q.device,
    )
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    waiting = (batch * num_heads, max(1, plan.num_partials), tile.queries)
    partial = torch.empty(*waiting, width, dtype=torch.float32, device=q.device)
    partial_lse = torch.empty(waiting, dtype=torch.float32, device=q.device)
    q_sink = q if q_sink is None else q_sink
    options = {"num_warps": tile.num_warps, "num_stages": tile.num_stages, "enable_fp_fusion": True}
    kernel = attend_hopper_kernel if is_hopper else attend_pointer_kernel
    own = {"HAS_ROLES": not IS_INTERPRETED} if is_hopper else _scale_arguments(scales, partial_lse)
    with torch.cuda.device_of(q):
        if is_hopper:
            # Descriptors are made on the device, in memory that Triton asks for by launch.
            triton.set_allocator(_Scratch(q.device))
        kernel[(len(plan.pieces) * batch * num_heads,)](
            q,
            q_sink,
            k,
            v,
            out,
            out if lse is None else lse,
            partial,
            partial_lse,
            pieces,
            table.spans,
            1.0 / (math.sqrt(head_width) * math.log(2.0)),
            num_heads,
            num_queries,
            table.num_slots,
            len(plan.pieces),
            plan.num_first,
            waiting[1],
            *(stride for tensor in (q, q_sink, k, v, out) for stride in tensor.stride()[:3]),
            D=head_width,
            WIDTH=width,
            QUERIES=tile.queries,
            KEYS=tile.keys,
            STAGES=tile.num_stages,
            # The interpreter computes sixteen-bit floats on their raw bits: upcast them first.
            OPERAND=tl.float32 if IS_INTERPRETED else OPERANDS[q.dtype],
            SPANS=MAX_SPANS,
            HAS_LSE=lse is not None,
            **own,
            **options,
        )
        if plan.merges:
            rows = min(MERGED_ROWS, tile.queries)
            attend_merge_kernel[(len(plan.merges), tile.queries // rows, batch * num_heads)](
                out,
                out if lse is None else lse,
                partial,
                partial_lse,
                merges,
                num_heads,
                num_queries,
                waiting[1],
                *out.stride()[:3],
                D=head_width,
                WIDTH=width,
                QUERIES=tile.queries,
                ROWS=rows,
                HAS_LSE=lse is not None,
                num_warps=4,
                enable_fp_fusion=True,
            )
    return out


def _scale_arguments(scales: RingScales | None, unused: Tensor) -> dict[str, object]:
    """What the pointer form is told of the codes of the ring."""
    k_scales, v_scales = (unused, unused) if scales is None else scales
    batch_scales, head_scales = (0, 0) if scales is None else scales.k.stride()[:2]
    return {
        "K_scales": k_scales,
        "V_scales": v_scales,
        "batch_scales": batch_scales,
        "head_scales": head_scales,
        "HAS_SCALES": scales is not None,
    }


@dataclass(frozen=True)
class _Scratch:
    """Where Triton gets scratch memory for a launch: from torch, on the device of the tensors."""

    device: torch.device

    def __call__(self, size: int, alignment: int, stream: int | None) -> Tensor:
        return torch.empty(size, dtype=torch.int8, device=self.device)


def _check(
    q: Tensor, k: Tensor, v: Tensor, q_sink: Tensor | None, scales: RingScales | None
) -> None:
    queries, ring = {"q": q, "q_sink": q if q_sink is None else q_sink}, {"k": k, "v": v}
    named = {**queries, **ring}
    if scales is None:
        check_inputs("attend", dict(named))
    else:
        check_inputs("attend", dict(queries), k, v, *scales)
    if q.dim() != 4 or k.dim() != 4:
        raise ValueError(
            f"q is {tuple(q.shape)} and k {tuple(k.shape)}, expected [B, N or S, A, D]"
        )
    slots = (q.shape[0], k.shape[1], *q.shape[2:])
    for name, tensor in named.items():
        check_shape(name, tensor, tuple(q.shape) if name.startswith("q") else slots)
        check_reach(name, tensor)
    if scales is not None:
        check_codes(k, v, scales)
