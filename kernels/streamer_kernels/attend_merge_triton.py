"""The second kernel of attention: merge the results of the pieces of a tile.

Every result is weighted by the exponential of its log-sum.  Flash-Decoding, Dao et al. 2023.
"""

# Kernel arguments are Triton's own values, for which there are no Python types.
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["num_heads", "num_queries", "num_partials"])
def attend_merge_kernel(
    Out,
    Lse,
    Partial,
    Partial_lse,
    Merges,
    num_heads,
    num_queries,
    num_partials,
    out_batch,
    out_token,
    out_head,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
    QUERIES: tl.constexpr,
    ROWS: tl.constexpr,
    HAS_LSE: tl.constexpr,
):
    """ROWS queries of one tile and head.  Grid: (merges, QUERIES / ROWS, B * A).

    Merges: int32 [merges, 4], the fields of `attend_plan.Merge`.  Partial, Partial_lse: see
    `attend_pointer_kernel`.
    """
    merge = Merges + tl.program_id(0) * 4
    group = tl.program_id(2)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    token = tl.load(merge) + row
    is_mine = token < tl.load(merge + 1)
    channel = tl.arange(0, WIDTH)
    mask = is_mine[:, None] & (channel < D)[None, :]
    first = group.to(tl.int64) * num_partials + tl.load(merge + 2)
    peak = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    out = tl.zeros([ROWS, WIDTH], tl.float32)
    for part in range(tl.load(merge + 3)):
        place = (first + part) * QUERIES + row
        log_sum = tl.load(Partial_lse + place, mask=is_mine, other=0.0)
        at = Partial + place[:, None] * WIDTH + channel[None, :]
        values = tl.load(at, mask=mask, other=0.0)
        new_peak = tl.maximum(peak, log_sum)
        # Empty parts come before the first full one, too: minus infinity less itself is no number.
        floor = tl.where(new_peak == float("-inf"), 0.0, new_peak)
        fade = tl.exp2(peak - floor)
        weight = tl.exp2(log_sum - floor)
        total = total * fade + weight
        out = out * fade[:, None] + values * weight[:, None]
        peak = new_peak
    batch = (group // num_heads).to(tl.int64)
    out_at = Out + batch * out_batch + (group % num_heads) * out_head
    out_at += token[:, None] * out_token + channel[None, :]
    tl.store(out_at, (out / total[:, None]).to(Out.dtype.element_ty), mask=mask)
    if HAS_LSE:
        lse_at = Lse + group.to(tl.int64) * num_queries + token
        tl.store(lse_at, (peak + tl.log2(total)) * 0.6931471805599453, mask=is_mine)
