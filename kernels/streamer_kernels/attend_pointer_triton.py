"""The attention kernel for every GPU: an online softmax over tiles, read through pointers.

One program owns a tile of queries of one head and an equal share of the keys that they see.  The
scores never exist in memory.

Online softmax, Milakov and Gimelshein 2018, arXiv:1805.02867, section 3; tiled as in
FlashAttention-2, Dao 2023, arXiv:2307.08691, algorithm 1.
"""

# Kernel arguments are Triton's own values, for which there are no Python types.
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls

from __future__ import annotations

import triton
import triton.language as tl

LENGTHS = ["num_heads", "num_queries", "num_slots", "num_pieces", "num_first", "num_partials"]
"""Arguments that change while a stream grows: specialising on their divisibility would compile the
kernels again in the middle of it."""


@triton.jit
def take_tile(
    query,
    scale,
    bias,
    peak,
    total,
    out,
    K,
    V,
    K_scales,
    V_scales,
    first,
    end,
    k_slot,
    v_slot,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
    KEYS: tl.constexpr,
    OPERAND: tl.constexpr,
    HAS_SCALES: tl.constexpr,
    IS_TAIL: tl.constexpr,
):
    """Take slots first .. first + KEYS - 1 into a running softmax; the tail stops at end.

    Scales of a slot are the same for all channels: they go into scores and weights, not into tiles.
    """
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
    if HAS_SCALES:
        k_scale = tl.load(K_scales + slot, mask=slot < end, other=0.0)
        v_scale = tl.load(V_scales + slot, mask=slot < end, other=0.0)
        scores *= k_scale[None, :]
    if IS_TAIL:
        scores = tl.where((slot < end)[None, :], scores, float("-inf"))
    # The weight of the span goes into the peak, so that it costs nothing per score.
    new_peak = tl.maximum(peak, tl.max(scores, 1) * scale + bias)
    weights = tl.exp2(scores * scale - (new_peak - bias)[:, None])
    fade = tl.exp2(peak - new_peak)
    total = total * fade + tl.sum(weights, 1)
    if HAS_SCALES:
        weights *= v_scale[None, :]
    out = tl.dot(weights.to(OPERAND), v.to(OPERAND), out * fade[:, None], input_precision="ieee")
    return new_peak, total, out


@triton.jit
def locate_piece(Pieces, num_pieces, num_first, num_heads_all):
    """Which piece and which head a program has: all long pieces first, head after head.

    One head after the other, so that its keys stay in the cache.
    """
    program = tl.program_id(0)
    num_long = num_first * num_heads_all
    is_long = program < num_long
    count = tl.where(is_long, num_first, num_pieces - num_first)
    rest = tl.where(is_long, program, program - num_long)
    index = rest % tl.maximum(count, 1) + tl.where(is_long, 0, num_first)
    return Pieces + index * 8, rest // tl.maximum(count, 1)


@triton.jit
def count_tiles(spans, KEYS: tl.constexpr, SPANS: tl.constexpr):
    """How many tiles of keys the spans of a piece have."""
    tiles = 0
    for span in tl.static_range(SPANS):
        tiles += (tl.load(spans + 3 * span + 1) - tl.load(spans + 3 * span) + KEYS - 1) // KEYS
    return tiles


@triton.jit(do_not_specialize=LENGTHS)
def attend_pointer_kernel(
    Q,
    Q_sink,
    K,
    V,
    Out,
    Lse,
    Partial,
    Partial_lse,
    Pieces,
    Spans,
    scale,
    num_heads,
    num_queries,
    num_slots,
    num_pieces,
    num_first,
    num_partials,
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
    K_scales,
    V_scales,
    batch_scales,
    head_scales,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    STAGES: tl.constexpr,
    OPERAND: tl.constexpr,
    SPANS: tl.constexpr,
    HAS_LSE: tl.constexpr,
    HAS_SCALES: tl.constexpr,
):
    """One piece of one head.  Grid: (pieces * B * A).

    Pieces: int32 [pieces, 8], the fields of `attend_plan.Piece`.  Spans: see `ViewTable`.
    Partial, Partial_lse: float32 [B * A, partials, QUERIES, WIDTH] and [B * A, partials, QUERIES].
    K_scales, V_scales: float32 [B, A, S], where K and V hold codes (HAS_SCALES).
    scale: log2(e) / sqrt(D).  Strides in elements.  WIDTH: D padded to a power of two.
    """
    piece, group = locate_piece(Pieces, num_pieces, num_first, tl.num_programs(0) // num_pieces)
    # Offsets inside a sample fit 32 bits (the launcher checks that), offsets of samples may not.
    batch = (group // num_heads).to(tl.int64)
    head = group % num_heads
    K += batch * k_batch + head * k_head
    V += batch * v_batch + head * v_head
    K_scales += batch * batch_scales + head * head_scales
    V_scales += batch * batch_scales + head * head_scales
    is_sink = tl.load(piece + 3)
    spans = Spans + (tl.load(piece + 2) * 2 + is_sink) * (3 * SPANS)
    token = tl.load(piece) + tl.arange(0, QUERIES)
    channel = tl.arange(0, WIDTH)
    is_mine = token < tl.load(piece + 1)
    mask = is_mine[:, None] & (channel < D)[None, :]
    if is_sink:
        at = Q_sink + batch * qs_batch + head * qs_head + token[:, None] * qs_token
        query = tl.load(at + channel[None, :], mask=mask, other=0.0).to(OPERAND)
    else:
        at = Q + batch * q_batch + head * q_head + token[:, None] * q_token
        query = tl.load(at + channel[None, :], mask=mask, other=0.0).to(OPERAND)
    # This part's share, in tiles of keys counted through all spans.
    tiles = count_tiles(spans, KEYS, SPANS)
    start = tl.load(piece + 4) * tiles // tl.load(piece + 5)
    stop = (tl.load(piece + 4) + 1) * tiles // tl.load(piece + 5)
    peak = tl.full([QUERIES], float("-inf"), tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    out = tl.zeros([QUERIES, WIDTH], tl.float32)
    passed = 0
    for span in range(SPANS):
        first = tl.load(spans + 3 * span)
        end = tl.load(spans + 3 * span + 1)
        bias = tl.load(spans + 3 * span + 2).to(tl.float32, bitcast=True)
        here = (end - first + KEYS - 1) // KEYS
        low = tl.minimum(tl.maximum(start - passed, 0), here)
        high = tl.minimum(tl.maximum(stop - passed, 0), here)
        passed += here
        last = tl.minimum(first + high * KEYS, end)
        low = first + low * KEYS
        full = low + tl.maximum(last - low, 0) // KEYS * KEYS
        # Full tiles without a mask, then a tail.
        for slot in tl.range(low, full, KEYS, num_stages=STAGES):
            peak, total, out = take_tile(
                query, scale, bias, peak, total, out, K, V, K_scales, V_scales, slot, last,
                k_slot, v_slot, D, WIDTH, KEYS, OPERAND, HAS_SCALES, False,
            )  # fmt: skip
        if full < last:
            peak, total, out = take_tile(
                query, scale, bias, peak, total, out, K, V, K_scales, V_scales, full, last,
                k_slot, v_slot, D, WIDTH, KEYS, OPERAND, HAS_SCALES, True,
            )  # fmt: skip
    # A part may get no tile at all: nothing, with a sum of zero.
    out = tl.where(total[:, None] > 0.0, out / total[:, None], 0.0)
    log_total = tl.where(total > 0.0, peak + tl.log2(total), float("-inf"))
    partial = tl.load(piece + 6)
    row = tl.arange(0, QUERIES)
    if partial >= 0:
        place = (group.to(tl.int64) * num_partials + partial) * QUERIES + row
        tl.store(Partial + place[:, None] * WIDTH + channel[None, :], out, mask=mask)
        tl.store(Partial_lse + place, log_total, mask=is_mine)
    else:
        Out += batch * out_batch + head * out_head
        out_at = Out + token[:, None] * out_token + channel[None, :]
        tl.store(out_at, out.to(Out.dtype.element_ty), mask=mask)
        if HAS_LSE:
            lse_at = Lse + group.to(tl.int64) * num_queries + token
            tl.store(lse_at, log_total * 0.6931471805599453, mask=is_mine)
