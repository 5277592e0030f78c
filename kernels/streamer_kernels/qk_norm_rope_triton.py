"""qk_norm_rope and the write into the ring, the Triton twin of `qk_norm_rope.py`.

One program a token: every element of q, k and v is read once and written once.
"""

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
from streamer_kernels.quantise import LARGEST, SMALLEST, RingScales, kind_of
from streamer_kernels.quantise_triton import check_kind, to_codes


@triton.jit
def turn(x, Table, D: tl.constexpr, WIDTH: tl.constexpr):
    """Turn the channel pairs of a row of heads.  Table: [D/2, 2] of this token, for every head."""
    # Neighbours are taken apart in registers; loading them crosswise would not be vectorised.
    even, odd = tl.split(tl.reshape(x, [WIDTH // 2, 2]))
    entry = tl.arange(0, WIDTH) % D
    cosine, sine = tl.split(tl.reshape(tl.load(Table + entry).to(tl.float32), [WIDTH // 2, 2]))
    turned = tl.join(even * cosine - odd * sine, even * sine + odd * cosine)
    return tl.reshape(turned, [WIDTH])


@triton.jit
def load_normed(X, Weight, eps, E: tl.constexpr, WIDTH: tl.constexpr):
    """A row over its root mean square, times the weights, in float32."""
    channel = tl.arange(0, WIDTH)
    mask = channel < E
    x = tl.load(X + channel, mask=mask, other=0.0).to(tl.float32)
    weight = tl.load(Weight + channel, mask=mask, other=0.0).to(tl.float32)
    return x * tl.rsqrt(tl.sum(x * x, 0) / E + eps) * weight


@triton.jit
def store_row(
    Out,
    Scales,
    row,
    head_scales,
    E: tl.constexpr,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
    HAS_SCALES: tl.constexpr,
    LARGEST: tl.constexpr,
    SMALLEST: tl.constexpr,
    IS_INTEGER: tl.constexpr,
):
    """A row of heads into its slot, as it is or as codes with a scale a head."""
    channel = tl.arange(0, WIDTH)
    if HAS_SCALES:
        heads = tl.reshape(row.to(tl.float32), [WIDTH // D, D])
        codes, scales = to_codes(heads, WIDTH // D, D, LARGEST, SMALLEST, IS_INTEGER)
        head = tl.arange(0, WIDTH // D)
        tl.store(Scales + head * head_scales, scales, mask=head < E // D)
        codes = tl.reshape(codes, [WIDTH])
        tl.store(Out + channel, codes.to(Out.dtype.element_ty), mask=channel < E)
    else:
        tl.store(Out + channel, row, mask=channel < E)


@triton.jit
def qk_norm_rope_kernel(
    Q,
    K,
    V,
    Q_weight,
    K_weight,
    Table,
    Sink_table,
    Slots,
    Q_out,
    Q_sink,
    K_out,
    V_out,
    K_scales,
    V_scales,
    eps,
    sink_token,
    q_batch,
    q_token,
    k_batch,
    k_token,
    v_batch,
    v_token,
    qo_batch,
    qo_token,
    ko_batch,
    ko_slot,
    vo_batch,
    vo_slot,
    batch_scales,
    head_scales,
    E: tl.constexpr,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
    HAS_RING: tl.constexpr,
    HAS_SINK: tl.constexpr,
    HAS_SCALES: tl.constexpr,
    LARGEST: tl.constexpr,
    SMALLEST: tl.constexpr,
    IS_INTEGER: tl.constexpr,
):
    """One token.  Grid: (N, B).  Strides in elements, those of Q_sink are Q_out's.

    HAS_RING: keys and values go to Slots; otherwise keys go to their token, values nowhere.
    HAS_SCALES: they go there as codes; their scales, float32 [B, A, S], have steps of their own.
    sink_token: 0 when all tokens share a row of Sink_table, else D.
    """
    batch = tl.program_id(1).to(tl.int64)
    token = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, WIDTH)
    mask = channel < E
    table = Table + token * D
    kind = Q_out.dtype.element_ty
    # Pass 1: the query, rounded before it is turned again for the sinks, as it will be used.
    query = load_normed(Q + batch * q_batch + token * q_token, Q_weight, eps, E, WIDTH)
    query = turn(query, table, D, WIDTH).to(kind)
    q_at = batch * qo_batch + token * qo_token + channel
    tl.store(Q_out + q_at, query, mask=mask)
    if HAS_SINK:
        sink = turn(query.to(tl.float32), Sink_table + token * sink_token, D, WIDTH)
        tl.store(Q_sink + q_at, sink.to(kind), mask=mask)
    # Pass 2: the key, to its slot.
    slot = tl.load(Slots + token) if HAS_RING else token
    key = load_normed(K + batch * k_batch + token * k_token, K_weight, eps, E, WIDTH)
    key = turn(key, table, D, WIDTH).to(kind)
    scales_at = batch * batch_scales + slot
    store_row(
        K_out + batch * ko_batch + slot * ko_slot, K_scales + scales_at, key, head_scales,
        E, D, WIDTH, HAS_SCALES, LARGEST, SMALLEST, IS_INTEGER,
    )  # fmt: skip
    # Pass 3: the value, not turned.
    if HAS_RING:
        value = tl.load(V + batch * v_batch + token * v_token + channel, mask=mask, other=0.0)
        store_row(
            V_out + batch * vo_batch + slot * vo_slot, V_scales + scales_at, value, head_scales,
            E, D, WIDTH, HAS_SCALES, LARGEST, SMALLEST, IS_INTEGER,
        )  # fmt: skip


@triton.jit
def rotate_kernel(
    X,
    Table,
    Out,
    table_token,
    x_batch,
    x_token,
    out_batch,
    out_token,
    E: tl.constexpr,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """One token.  Grid: (N, B).  table_token: 0 when all tokens share a row of the table."""
    batch = tl.program_id(1).to(tl.int64)
    token = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, WIDTH)
    mask = channel < E
    x = tl.load(X + batch * x_batch + token * x_token + channel, mask=mask, other=0.0)
    out = turn(x.to(tl.float32), Table + token * table_token, D, WIDTH)
    out_at = Out + batch * out_batch + token * out_token
    tl.store(out_at + channel, out.to(Out.dtype.element_ty), mask=mask)


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Turn every channel pair by its angle; the contract is `qk_norm_rope.rotate`.

    Float32, float16 or bfloat16 on a CUDA device; the table is float32.
    Raises ValueError for what the kernel cannot read, and RuntimeError when a gradient is wanted or
    the device is wrong.
    """
    check_inputs("rotate", {"x": x}, table)
    if x.dim() != 4:
        raise ValueError(f"x is {tuple(x.shape)}, expected [B, N, A, D]")
    batch, num_tokens, num_heads, head_width = x.shape
    rows = 1 if len(table) == 1 else num_tokens
    _check_table("table", table, rows, head_width)
    _check_heads("x", x)
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    channels = num_heads * head_width
    with torch.cuda.device_of(x):
        rotate_kernel[(num_tokens, batch)](
            x,
            table,
            out,
            0 if rows == 1 else head_width,
            *(stride for each in (x, out) for stride in each.stride()[:2]),
            E=channels,
            D=head_width,
            WIDTH=power_of_two(channels),
            num_warps=row_warps(channels),
            enable_fp_fusion=True,
        )
    return out


def qk_norm_rope(
    q: Tensor,
    k: Tensor,
    q_weight: Tensor,
    k_weight: Tensor,
    table: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """Normalise, split into heads, rotate; the contract is `qk_norm_rope.qk_norm_rope`.

    Element types, devices and errors: see `rotate`.
    """
    named = {"q": q, "k": k, "q_weight": q_weight, "k_weight": k_weight}
    check_inputs("qk_norm_rope", dict(named), table)
    heads = _check_rows(q, k, k, q_weight, k_weight, table)
    keys = torch.empty(heads, dtype=k.dtype, device=k.device)
    queries, _ = _launch(q, k, k, q_weight, k_weight, table, eps, keys, keys, None, None)
    return queries, keys


def qk_norm_rope_write(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_weight: Tensor,
    k_weight: Tensor,
    table: Tensor,
    eps: float,
    ring_k: Tensor,
    ring_v: Tensor,
    slots: Tensor,
    sink_table: Tensor | None = None,
    scales: RingScales | None = None,
) -> tuple[Tensor, Tensor]:
    """The same, into a ring; the contract is `qk_norm_rope.qk_norm_rope_write`.

    Element types, devices and errors: see `rotate`.  Slots are not checked against the ring: they
    are known to the device only.  Codes need heads whose width is a power of two.
    """
    named = {"q": q, "k": k, "v": v, "q_weight": q_weight, "k_weight": k_weight}
    rings = {"ring_k": ring_k, "ring_v": ring_v}
    if scales is None:
        check_inputs("qk_norm_rope_write", {**named, **rings}, table, slots)
    else:
        check_inputs("qk_norm_rope_write", dict(named), table, slots, *rings.values(), *scales)
    batch, num_tokens, num_heads, head_width = _check_rows(q, k, v, q_weight, k_weight, table)
    for name, ring in rings.items():
        check_shape(name, ring, (batch, ring_k.shape[1], num_heads, head_width))
        _check_heads(name, ring)
    check_shape("slots", slots, (num_tokens,))
    if slots.dtype != torch.int64 or not slots.is_contiguous():
        raise ValueError(f"slots are {slots.dtype}, expected contiguous torch.int64")
    if sink_table is not None:
        rows = 1 if len(sink_table) == 1 else num_tokens
        _check_table("sink_table", sink_table, rows, head_width)
    if scales is not None:
        check_codes(ring_k, ring_v, scales)
        if head_width != power_of_two(head_width):
            raise ValueError(f"heads are {head_width} wide; codes need a power of two")
    return _launch(
        q, k, v, q_weight, k_weight, table, eps, ring_k, ring_v, slots, sink_table, scales
    )


def check_codes(k: Tensor, v: Tensor, scales: RingScales) -> None:
    """Raises when k and v [B, S, A, D] are not codes of one kind that the scales belong to.

    ValueError, or RuntimeError for a kind that the device does not have.
    """
    kind = kind_of(k.dtype)
    if kind is None or v.dtype != k.dtype:
        raise ValueError(f"k is {k.dtype} and v {v.dtype}; scales belong to int8 or fp8")
    check_kind(kind, k.device)
    for name, each in zip(("scales.k", "scales.v"), scales, strict=True):
        check_shape(name, each, (k.shape[0], k.shape[2], k.shape[1]))
        check_reach(name, each)
        if each.dtype != torch.float32 or each.stride() != scales.k.stride():
            raise ValueError(
                f"{name} is {each.dtype} with strides {each.stride()}, expected torch.float32 with "
                f"{scales.k.stride()}"
            )


def _launch(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_weight: Tensor,
    k_weight: Tensor,
    table: Tensor,
    eps: float,
    k_out: Tensor,
    v_out: Tensor,
    slots: Tensor | None,
    sink_table: Tensor | None,
    scales: RingScales | None = None,
) -> tuple[Tensor, Tensor]:
    batch, num_tokens, channels = q.shape
    head_width = 2 * table.shape[-2]
    heads = (batch, num_tokens, channels // head_width, head_width)
    q_out = torch.empty(heads, dtype=q.dtype, device=q.device)
    q_sink = q_out if sink_table is None else torch.empty_like(q_out)
    outputs = (q, k, v, q_out, k_out, v_out)
    kind = kind_of(k_out.dtype) or "int8"
    with torch.cuda.device_of(q):
        qk_norm_rope_kernel[(num_tokens, batch)](
            q,
            k,
            v,
            q_weight,
            k_weight,
            table,
            table if sink_table is None else sink_table,
            table if slots is None else slots,
            q_out,
            q_sink,
            k_out,
            v_out,
            *((q, q) if scales is None else scales),
            eps,
            0 if sink_table is None or len(sink_table) == 1 else head_width,
            *(stride for each in outputs for stride in each.stride()[:2]),
            *((0, 0) if scales is None else scales.k.stride()[:2]),
            E=channels,
            D=head_width,
            WIDTH=power_of_two(channels),
            HAS_RING=slots is not None,
            HAS_SINK=sink_table is not None,
            HAS_SCALES=scales is not None,
            LARGEST=LARGEST[kind],
            SMALLEST=SMALLEST,
            IS_INTEGER=kind == "int8",
            num_warps=row_warps(channels),
            enable_fp_fusion=True,
        )
    return q_out, q_sink


def _check_rows(
    q: Tensor, k: Tensor, v: Tensor, q_weight: Tensor, k_weight: Tensor, table: Tensor
) -> tuple[int, int, int, int]:
    if q.dim() != 3:
        raise ValueError(f"q is {tuple(q.shape)}, expected [B, N, E]")
    batch, num_tokens, channels = q.shape
    head_width = 2 * table.shape[-2]
    _check_table("table", table, num_tokens, head_width)
    if channels % head_width:
        raise ValueError(f"q is {channels} wide, the table is for heads of {head_width}")
    for name, tensor in {"q": q, "k": k, "v": v}.items():
        check_shape(name, tensor, tuple(q.shape))
        check_reach(name, tensor)
    for name, weight in {"q_weight": q_weight, "k_weight": k_weight}.items():
        check_shape(name, weight, (channels,))
        check_reach(name, weight)
    return batch, num_tokens, channels // head_width, head_width


def _check_table(name: str, table: Tensor, rows: int, head_width: int) -> None:
    check_shape(name, table, (rows, head_width // 2, 2))
    if table.dtype != torch.float32 or not table.is_contiguous():
        raise ValueError(f"{name} is {table.dtype}, expected contiguous torch.float32")


def _check_heads(name: str, tensor: Tensor) -> None:
    """The heads of a token must follow each other without a gap."""
    check_reach(name, tensor)
    if tensor.stride(2) != tensor.shape[3] and tensor.shape[2] > 1:
        raise ValueError(
            f"{name} has strides {tensor.stride()}; the heads of a token must be contiguous"
        )
