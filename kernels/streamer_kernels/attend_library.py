"""attend and attend_views over attention of libraries, which know neither rings nor views.

A library attends densely to a run of slots and tells the logarithm of the sum of exponentials.
That is enough: a view is cut into runs that are scored alike, and the results are merged by their
sums, each shifted by the weight of its run.  A ring without sinks is a single run and costs nothing
more.  An eight-bit ring is turned back into numbers first, a layer at a time.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from streamer_kernels.attend_views import Span, View, ViewTable, check_views
from streamer_kernels.merge import Merge, merge
from streamer_kernels.quantise import RingScales, dequantise_ring

Dense = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(q [B,N,A,D], k [B,S,A,D], v [B,S,A,D]) -> (result [B,N,A,D], log of the sums [B,A,N])."""


@dataclass(frozen=True)
class LibraryAttention:
    """The two attention operations over one library.  Forward only.

    merge: puts runs together, see `merge.merge`.
    """

    name: str
    dense: Dense
    merge: Merge = merge

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        num_valid: int,
        q_sink: Tensor | None = None,
        num_sink: int = 0,
        scales: RingScales | None = None,
    ) -> Tensor:
        """Attend to the first num_valid slots; the contract is `attend.attend`.

        Raises RuntimeError when a gradient is wanted, and what the library raises.
        """
        if not 0 < num_valid <= k.shape[1]:
            raise ValueError(f"num_valid is {num_valid}, but the ring has {k.shape[1]} slots")
        if not 0 <= num_sink <= num_valid:
            raise ValueError(f"num_sink is {num_sink}, but only {num_valid} slots are valid")
        num_sink = 0 if q_sink is None else num_sink
        spans = (Span(0, num_sink, is_sink=True), Span(num_sink, num_valid))
        view = View(q.shape[1], tuple(span for span in spans if span.first < span.end))
        self._refuse_gradient(q, k, v, q_sink)
        if scales is not None:
            k, v = dequantise_ring(k, v, scales, num_valid, q.dtype)
        return self._view(q, k, v, view, q_sink)[0]

    def attend_views(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        table: ViewTable,
        q_sink: Tensor | None = None,
        lse: Tensor | None = None,
        scales: RingScales | None = None,
    ) -> Tensor:
        """Attend to the spans of each view; the contract is `attend_views.attend_views`.

        Spans come from the host: a captured graph keeps those that it was captured with.
        Raises RuntimeError when a gradient is wanted, and what the library raises.
        """
        check_views(q, k, table, lse)
        self._refuse_gradient(q, k, v, q_sink)
        if scales is not None:
            k, v = dequantise_ring(k, v, scales, table.num_slots, q.dtype)
        results, start = [], 0
        for view in table.read():
            rows = slice(start, start + view.num_queries)
            sinks = None if q_sink is None else q_sink[:, rows]
            out, log_sum = self._view(q[:, rows], k, v, view, sinks)
            results.append(out)
            if lse is not None:
                lse[:, :, rows] = log_sum
            start += view.num_queries
        return results[0] if len(results) == 1 else torch.cat(results, dim=1)

    def _view(
        self, q: Tensor, k: Tensor, v: Tensor, view: View, q_sink: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        parts = []
        for span in view.spans:
            query = q_sink if span.is_sink and q_sink is not None else q
            run = slice(span.first, span.end)
            out, log_sum = self.dense(query, k[:, run], v[:, run])
            parts.append((out, log_sum + span.log_weight if span.log_weight else log_sum))
        return parts[0] if len(parts) == 1 else self.merge(parts)

    def _refuse_gradient(self, *tensors: Tensor | None) -> None:
        if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
            raise RuntimeError(
                f"attention by {self.name} has no backward pass here; run it under "
                "torch.no_grad() or differentiate load_ops('torch')"
            )


def with_one_pass(library: LibraryAttention) -> LibraryAttention:
    """The same library, its runs put together by our kernel.  Raises ImportError without Triton."""
    from streamer_kernels.merge_triton import merge as merge_in_one_pass

    return replace(library, name=f"{library.name}+merge", merge=merge_in_one_pass)


def _log_sums(log_sum: Tensor, q: Tensor) -> Tensor:
    """[B, A, N], whatever a library adds or pads."""
    return log_sum.reshape(q.shape[0], q.shape[2], -1)[:, :, : q.shape[1]].float()


def _aten(operator: Callable[..., tuple[Tensor, ...]], *options: object) -> Dense:
    def dense(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        out, log_sum, *_ = operator(*(t.transpose(1, 2) for t in (q, k, v)), *options)
        return out.transpose(1, 2), _log_sums(log_sum, q)

    return dense


def cudnn() -> LibraryAttention:
    """cuDNN's attention, as PyTorch carries it: CUDA devices, sixteen-bit elements."""
    operator = torch.ops.aten._scaled_dot_product_cudnn_attention
    return LibraryAttention("cudnn", _aten(operator, None, True))


def torch_flash() -> LibraryAttention:
    """FlashAttention 2, as PyTorch carries it: CUDA devices, sixteen-bit elements."""
    return LibraryAttention(
        "torch-flash", _aten(torch.ops.aten._scaled_dot_product_flash_attention)
    )


def processor_flash() -> LibraryAttention:
    """PyTorch's attention for processors."""
    operator = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return LibraryAttention("cpu-flash", _aten(operator))


def flash_attention_3() -> LibraryAttention:
    """FlashAttention 3, Shah et al. 2024, arXiv:2407.08608: Hopper, where it is installed.

    Raises ImportError where it is not.
    """
    module: Any = importlib.import_module("flash_attn_interface")

    def dense(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        result = module.flash_attn_func(q, k, v, **options)
        if not isinstance(result, tuple):
            raise RuntimeError("flash_attn_func gave no log-sums; install a newer flash_attn_3")
        return result[0], _log_sums(result[1], q)

    # Newer versions give the sums only when they are asked for, older ones always.
    code = getattr(module.flash_attn_func, "__code__", None)
    names = code.co_varnames if code is not None else ()
    options = {"return_attn_probs": True} if "return_attn_probs" in names else {}
    return LibraryAttention("flash-attention-3", dense)
