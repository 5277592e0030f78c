"""attend_views: attention in which runs of queries see different spans of a ring.  Contract and
reference.

`attend` serves one block that sees all valid slots.  This serves the rest: a hole of slots that the
next block will overwrite, old keys that count for less, and two blocks in one pass - the clean pass
of a block and the first step of the next one, where the clean queries must not see the noisy keys.
Both blocks then share one launch, whose tiles fill the processors better than two.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from streamer_kernels.quantise import RingScales, dequantise_ring

MAX_SPANS = 4
"""Spans of one kind (sink or not) in a view.  A circle of slots with a hole and a block in it falls
into at most three when it is written as a line; the fourth is room to spare."""


@dataclass(frozen=True)
class Span:
    """Slots first .. end - 1 of the ring, seen alike.

    is_sink: scored with the second query.
    log_weight: added to every score; log(beta) makes a key count beta times.
    """

    first: int
    end: int
    is_sink: bool = False
    log_weight: float = 0.0


@dataclass(frozen=True)
class View:
    """What the next `num_queries` queries of a pass see."""

    num_queries: int
    spans: tuple[Span, ...]


@dataclass(frozen=True)
class SeenFrame:
    """One latent frame in a view: where it lies, in frames, and how it is scored."""

    slot: int
    is_sink: bool = False
    log_weight: float = 0.0


def view_frames(num_queries: int, frames: Iterable[SeenFrame], tokens: int) -> View:
    """The view of so many queries on these frames of `tokens` tokens, in as few spans as possible.

    The order of the frames does not matter.
    """
    spans: list[Span] = []
    for frame in sorted(frames, key=lambda frame: (not frame.is_sink, frame.slot)):
        first, scored = frame.slot * tokens, (frame.is_sink, frame.log_weight)
        if spans and (spans[-1].end, spans[-1].is_sink, spans[-1].log_weight) == (first, *scored):
            first = spans.pop().first
        spans.append(Span(first, (frame.slot + 1) * tokens, *scored))
    return View(num_queries, tuple(spans))


class ViewTable:
    """The views of a pass, on the host and on the device at a fixed address.

    One per stream, in the worker process, as long as its ring.  The kernels read the device's copy,
    so a captured graph follows `update` without being captured again; unless `is_host_read`: then
    the operation takes the views from the host, and a graph holds for those it was captured with.

    spans: int32 [views, 2, MAX_SPANS, 3]: spans of plain keys and of sinks; first slot, end, and
        the bits of log2(e) * log_weight as float32.  Missing spans are empty.
    Raises ValueError for views that no kernel can serve.
    """

    def __init__(self, views: Sequence[View], device: torch.device | str = "cpu") -> None:
        self.views = _checked(views)
        self.spans = _pack(self.views).to(device)
        self.is_host_read = False

    def update(self, views: Sequence[View]) -> None:
        """Take other views of as many queries each, with as many kinds of keys: one small copy.

        Raises ValueError when the launch would have to change.
        """
        checked = _checked(views)
        if _launch_shape(checked) != _launch_shape(self.views):
            raise ValueError(
                f"views of {_launch_shape(checked)} (queries, with sinks) cannot replace those of "
                f"{_launch_shape(self.views)}; make another ViewTable"
            )
        self.views = checked
        packed = _pack(checked)
        if self.spans.is_cuda:  # else the host would wait for the device
            packed = packed.pin_memory()
        self.spans.copy_(packed, non_blocking=self.spans.is_cuda)

    def read(self) -> tuple[View, ...]:
        """The views, for an operation that launches other work for other views."""
        self.is_host_read = True
        return self.views

    @property
    def num_queries(self) -> int:
        """The queries of the whole pass."""
        return sum(view.num_queries for view in self.views)

    @property
    def has_sinks(self) -> bool:
        """Whether any view scores slots with the second query."""
        return any(span.is_sink for view in self.views for span in view.spans)

    @property
    def most_keys(self) -> int:
        """The most slots that a query sees, besides its sinks."""
        return max(
            sum(span.end - span.first for span in view.spans if not span.is_sink)
            for view in self.views
        )

    @property
    def num_slots(self) -> int:
        """How many slots the ring must have."""
        return max(span.end for view in self.views for span in view.spans)


def _launch_shape(views: Sequence[View]) -> list[tuple[int, bool]]:
    has_sinks = any(span.is_sink for view in views for span in view.spans)
    return [(view.num_queries, has_sinks) for view in views]


def _checked(views: Sequence[View]) -> tuple[View, ...]:
    if not views:
        raise ValueError("there are no views; a pass needs one for each of its queries")
    for index, view in enumerate(views):
        if view.num_queries < 1 or not view.spans:
            raise ValueError(
                f"view {index} has {view.num_queries} queries and {len(view.spans)} spans; "
                "expected at least one of both"
            )
        for span in view.spans:
            if not 0 <= span.first < span.end or not math.isfinite(span.log_weight):
                raise ValueError(
                    f"view {index} has the span {span}; expected 0 <= first < end and a finite "
                    "weight"
                )
        for is_sink in (False, True):
            count = sum(span.is_sink is is_sink for span in view.spans)
            if count > MAX_SPANS:
                raise ValueError(
                    f"view {index} has {count} spans of one kind, the kernels take {MAX_SPANS}"
                )
    return tuple(views)


def _pack(views: Sequence[View]) -> Tensor:
    packed = torch.zeros(len(views), 2, MAX_SPANS, 3, dtype=torch.int32)
    weights = packed.view(torch.float32)
    for index, view in enumerate(views):
        for kind in (0, 1):
            spans = [span for span in view.spans if span.is_sink is bool(kind)]
            for place, span in enumerate(spans):
                packed[index, kind, place, :2] = torch.tensor([span.first, span.end])
                weights[index, kind, place, 2] = span.log_weight / math.log(2.0)
    return packed


def attend_views(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    table: ViewTable,
    q_sink: Tensor | None = None,
    lse: Tensor | None = None,
    scales: RingScales | None = None,
) -> Tensor:
    """Attend from every query to the spans of its view; scale 1 / sqrt(D).

    q, q_sink, result: [B, N, A, D]; the first `table.views[0].num_queries` queries have the first
        view, and so on.  k, v: [B, S, A, D].
    q_sink: scores the sinks; None means that q does.
    lse: float32 [B, A, N], filled with the logarithm of the sum of the exponentials of the scores,
        weights included; two results over disjoint spans can be merged by it.
    scales: as in `attend.attend`.
    Slots outside the spans count for nothing, but must hold finite numbers.  Differentiable.
    Raises ValueError when the queries or the slots do not fit the table.
    """
    check_views(q, k, table, lse)
    if scales is not None:
        k, v = dequantise_ring(k, v, scales, table.num_slots, q.dtype)
    sinks = q if q_sink is None else q_sink
    results, start = [], 0
    for view in table.read():
        rows = slice(start, start + view.num_queries)
        scores = [
            torch.einsum(
                "bnad,bsad->bans",
                (sinks if span.is_sink else q)[:, rows],
                k[:, span.first : span.end],
            )
            / math.sqrt(q.shape[-1])
            + span.log_weight
            for span in view.spans
        ]
        values = torch.cat([v[:, span.first : span.end] for span in view.spans], dim=1)
        joined = torch.cat(scores, dim=-1)
        results.append(torch.einsum("bans,bsad->bnad", torch.softmax(joined, dim=-1), values))
        if lse is not None:
            lse[:, :, rows] = torch.logsumexp(joined.float(), dim=-1)
        start += view.num_queries
    return torch.cat(results, dim=1)


def check_views(q: Tensor, k: Tensor, table: ViewTable, lse: Tensor | None) -> None:
    """Raises ValueError when a call of `attend_views` does not fit its table."""
    batch, num_queries, num_heads = q.shape[:3]
    if num_queries != table.num_queries:
        raise ValueError(f"q has {num_queries} queries, the views have {table.num_queries}")
    if table.num_slots > k.shape[1]:
        raise ValueError(
            f"the views reach slot {table.num_slots - 1}, but the ring has {k.shape[1]} slots"
        )
    if lse is not None and (
        tuple(lse.shape) != (batch, num_heads, num_queries)
        or lse.dtype != torch.float32
        or not lse.is_contiguous()
    ):
        raise ValueError(
            f"lse is {lse.dtype} {tuple(lse.shape)}, expected contiguous torch.float32 "
            f"{(batch, num_heads, num_queries)}"
        )
