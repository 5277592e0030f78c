"""Self-attention of one layer, after the projections: norm, rotation, what is to be seen."""

from __future__ import annotations

from streamer_kernels import Ops
from torch import Tensor

from streamer.models.context import AttentionContext, RingContext


def attend_rotated(
    ops: Ops,
    context: AttentionContext,
    layer: int,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    norms: tuple[Tensor, Tensor],
    table: Tensor,
    eps: float,
) -> Tensor:
    """RMS norm over the full width, rotation, attention to what the context shows: [B, N, A, D].

    q, k, v: [B, N, E].  norms: weights for queries and for keys.  table: [N, D/2, 2].
    """
    weights = *norms, table, eps
    if isinstance(context, RingContext) and not k.requires_grad:
        place = context.place(layer)
        q, q_sink = ops.qk_norm_rope_write(
            q,
            k,
            v,
            *weights,
            place.ring_k,
            place.ring_v,
            place.slots,
            place.sink_table,
            place.scales,
        )
        return context.attend_written(layer, q, q_sink)
    q, k = ops.qk_norm_rope(q, k, *weights)
    return context.attend(layer, q, k, v.view_as(k))
