"""The attention kernel for Hopper: tiles come through the copy engine (TMA), warps have roles.

One group of warps orders the copies, two multiply.  What Triton 3.6 to 3.9 does warp-specialise is
narrow: four warps, descriptors made on the device, one loop without another product after it, no
branch anywhere.  So spans are found inside the loop, every tile is masked there, and sinks are a
piece of their own.
`python -m streamer_kernels.check` looks for USETMAXREG in the machine code, which proves that the
warps have their roles: the compiler drops them without a word.
"""

# Kernel arguments are Triton's own values, for which there are no Python types.
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls

from __future__ import annotations

import triton
import triton.language as tl

from streamer_kernels.attend_pointer_triton import LENGTHS, locate_piece


@triton.jit
def _load_span(spans, index: tl.constexpr, KEYS: tl.constexpr):
    """First slot, end, weight and number of tiles of a span."""
    first = tl.load(spans + 3 * index)
    end = tl.load(spans + 3 * index + 1)
    bias = tl.load(spans + 3 * index + 2).to(tl.float32, bitcast=True)
    return first, end, bias, (end - first + KEYS - 1) // KEYS


@triton.jit(do_not_specialize=LENGTHS)
def attend_hopper_kernel(
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
    D: tl.constexpr,
    WIDTH: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    STAGES: tl.constexpr,
    OPERAND: tl.constexpr,
    SPANS: tl.constexpr,
    HAS_LSE: tl.constexpr,
    HAS_ROLES: tl.constexpr,
):
    """One piece of one head; the arguments are those of `attend_pointer_kernel`.

    num_slots: where the last span ends; what lies behind reads as zero.  D = WIDTH.
    HAS_ROLES: whether the warps take roles, which the interpreter knows nothing of.
    """
    tl.static_assert(SPANS == 4, "the spans are written out below")
    piece, group = locate_piece(Pieces, num_pieces, num_first, tl.num_programs(0) // num_pieces)
    batch = (group // num_heads).to(tl.int64)
    head = group % num_heads
    first_query = tl.load(piece)
    end_query = tl.load(piece + 1)
    is_sink = tl.load(piece + 3)
    spans = Spans + (tl.load(piece + 2) * 2 + is_sink) * (3 * SPANS)
    first_0, end_0, bias_0, tiles_0 = _load_span(spans, 0, KEYS)
    first_1, end_1, bias_1, tiles_1 = _load_span(spans, 1, KEYS)
    first_2, end_2, bias_2, tiles_2 = _load_span(spans, 2, KEYS)
    first_3, end_3, bias_3, tiles_3 = _load_span(spans, 3, KEYS)
    until_0 = tiles_0
    until_1 = until_0 + tiles_1
    until_2 = until_1 + tiles_2
    tiles = until_2 + tiles_3
    start = tl.load(piece + 4) * tiles // tl.load(piece + 5)
    stop = (tl.load(piece + 4) + 1) * tiles // tl.load(piece + 5)
    # Choices and masks, not branches: any branch in the kernel makes the compiler drop the roles.
    q_at = Q + batch * q_batch + head * q_head
    sink_at = Q_sink + batch * qs_batch + head * qs_head
    q_at = tl.where(is_sink != 0, sink_at, q_at)
    q_step = tl.where(is_sink != 0, qs_token, q_token)
    q_tiles = tl.make_tensor_descriptor(
        q_at, shape=[end_query, D], strides=[q_step, 1], block_shape=[QUERIES, D]
    )
    k_tiles = tl.make_tensor_descriptor(
        K + batch * k_batch + head * k_head,
        shape=[num_slots, D],
        strides=[k_slot, 1],
        block_shape=[KEYS, D],
    )
    v_tiles = tl.make_tensor_descriptor(
        V + batch * v_batch + head * v_head,
        shape=[num_slots, D],
        strides=[v_slot, 1],
        block_shape=[KEYS, D],
    )
    query = q_tiles.load([first_query, 0]).to(OPERAND)
    key = tl.arange(0, KEYS)
    peak = tl.full([QUERIES], float("-inf"), tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    out = tl.zeros([QUERIES, D], tl.float32)
    for tile in tl.range(start, stop, 1, num_stages=STAGES, warp_specialize=HAS_ROLES):
        slot = tl.where(
            tile < until_1,
            tl.where(tile < until_0, first_0, first_1 - until_0 * KEYS),
            tl.where(tile < until_2, first_2 - until_1 * KEYS, first_3 - until_2 * KEYS),
        )
        slot += tile * KEYS
        end = tl.where(
            tile < until_1,
            tl.where(tile < until_0, end_0, end_1),
            tl.where(tile < until_2, end_2, end_3),
        )
        bias = tl.where(
            tile < until_1,
            tl.where(tile < until_0, bias_0, bias_1),
            tl.where(tile < until_2, bias_2, bias_3),
        )
        k = k_tiles.load([slot, 0])
        scores = tl.dot(query, k.to(OPERAND).T, input_precision="ieee")
        scores = tl.where((slot + key)[None, :] < end, scores, float("-inf"))
        new_peak = tl.maximum(peak, tl.max(scores, 1) * scale + bias)
        weights = tl.exp2(scores * scale - (new_peak - bias)[:, None])
        fade = tl.exp2(peak - new_peak)
        total = total * fade + tl.sum(weights, 1)
        out = out * fade[:, None]
        v = v_tiles.load([slot, 0])
        out = tl.dot(weights.to(OPERAND), v.to(OPERAND), out, input_precision="ieee")
        peak = new_peak
    out = tl.where(total[:, None] > 0.0, out / total[:, None], 0.0)
    log_total = tl.where(total > 0.0, peak + tl.log2(total), float("-inf"))
    partial = tl.load(piece + 6)
    row = tl.arange(0, QUERIES)
    channel = tl.arange(0, D)
    token = first_query + row
    is_kept = token < tl.where(partial >= 0, end_query, 0)
    place = (group.to(tl.int64) * num_partials + partial) * QUERIES + row
    tl.store(Partial + place[:, None] * D + channel[None, :], out, mask=is_kept[:, None])
    tl.store(Partial_lse + place, log_total, mask=is_kept)
    is_final = token < tl.where(partial < 0, end_query, 0)
    Out += batch * out_batch + head * out_head
    out_at = Out + token[:, None] * out_token + channel[None, :]
    tl.store(out_at, out.to(Out.dtype.element_ty), mask=is_final[:, None])
    if HAS_LSE:
        lse_at = Lse + group.to(tl.int64) * num_queries + token
        tl.store(lse_at, log_total * 0.6931471805599453, mask=is_final)
