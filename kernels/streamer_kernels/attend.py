"""attend: softmax attention over a ring of cached keys.  Contract and reference.

The valid slots of a ring are always the first `num_valid` ones: it fills from slot 0, and once full
every slot is valid.  Softmax does not care about the order of keys, so a wrapped ring needs no
gather and no second segment.

Sinks lie in the first `num_sink` slots.  They are scored with a second query, rotated back by the
number of evicted frames, so that they always appear to sit just before the window.  Nothing is
copied and no key is rotated again.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from streamer_kernels.quantise import RingScales, dequantise_ring


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    num_valid: int,
    q_sink: Tensor | None = None,
    num_sink: int = 0,
    scales: RingScales | None = None,
) -> Tensor:
    """Attend from every query to the first num_valid slots; scale 1 / sqrt(D), no mask.

    q: [B, N, A, D].  k, v: [B, S, A, D] with num_valid <= S; slots past num_valid are never read.
    q_sink: [B, N, A, D], used instead of q against slots 0..num_sink-1; None means that q serves
        all slots.
    scales: k and v are int8 or fp8 codes of the ring and mean code * scale; None: numbers.
    result: [B, N, A, D].  Any strides with a contiguous last dimension.  Differentiable in q, k, v
        and q_sink.
    Raises ValueError when num_valid or num_sink do not fit the ring.
    """
    if not 0 < num_valid <= k.shape[1]:
        raise ValueError(f"num_valid is {num_valid}, but the ring has {k.shape[1]} slots")
    if not 0 <= num_sink <= num_valid:
        raise ValueError(f"num_sink is {num_sink}, but only {num_valid} slots are valid")
    if scales is not None:
        k, v = dequantise_ring(k, v, scales, num_valid, q.dtype)
    queries = q.transpose(1, 2)
    keys = k[:, :num_valid].transpose(1, 2)
    values = v[:, :num_valid].transpose(1, 2)
    if q_sink is None or num_sink == 0:
        return F.scaled_dot_product_attention(queries, keys, values).transpose(1, 2)
    sinks = q_sink.transpose(1, 2)
    if q.device.type == "cpu" and not _needs_gradient(q, k, v, q_sink):
        return _merge(sinks, queries, keys, values, num_sink).transpose(1, 2)
    keys = keys.transpose(2, 3)
    scores = [
        torch.matmul(sinks, keys[..., :num_sink]),
        torch.matmul(queries, keys[..., num_sink:]),
    ]
    weights = torch.softmax(torch.cat(scores, dim=-1) * (1.0 / math.sqrt(q.shape[-1])), dim=-1)
    return torch.matmul(weights, values).transpose(1, 2)


def _needs_gradient(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def _merge(q_sink: Tensor, q: Tensor, keys: Tensor, values: Tensor, num_sink: int) -> Tensor:
    """The same without holding the scores, which on a processor is 2 to 3 times faster.

    [B, A, N or S, D].

    Two attentions weighted by their sums of exponentials.  The operator tells those sums but not
    their gradient. Online softmax, Milakov and Gimelshein 2018, arXiv:1805.02867, section 3.1.
    """
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    if num_sink == keys.shape[2]:
        return F.scaled_dot_product_attention(q_sink, keys, values)
    sink_out, sink_sum = flash(q_sink, keys[:, :, :num_sink], values[:, :, :num_sink])
    out, log_sum = flash(q, keys[:, :, num_sink:], values[:, :, num_sink:])
    weight = torch.sigmoid(sink_sum - log_sum).unsqueeze(-1).to(out.dtype)
    return torch.lerp(out, sink_out, weight)
