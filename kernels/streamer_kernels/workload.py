"""The operations of one pass at a model's sizes, on random data: what is checked and timed.

Attention gets data that cannot hide a fault.  Over thousands of random keys a softmax is so even
that a lost tile is below the rounding.  So every checked query is aimed at one key, which then
holds about half of the weight, and together they aim at keys all through the ring, its ends
included.
Slots that must not be read are aimed at too, and hold large values.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from streamer_kernels.attend_views import Span, View, ViewTable
from streamer_kernels.quantise import TYPES, Kind, RingScales, dequantise_ring, quantise_rows

NUM_CHECKED = 64
"""Queries that are compared: over all heads more than there are tiles of keys."""
MISLEADING = 30.0
CODE_LENIENCY = {"int8": 1.0, "fp8": 4.0}
"""A number that is rounded the other way is a whole step of its code off: an eighth in fp8."""


@dataclass(frozen=True)
class Shape:
    """The sizes of one pass in the steady state; the defaults are Wan2.1 1.3B at 832x480.

    num_frames: latent frames of the pass, over which the queries are spread.
    num_valid, num_sink: slots that are seen, and how many of them are sinks.
    ring: the kind of codes that the ring holds; None: numbers.
    """

    num_heads: int = 12
    head_width: int = 128
    ffn_width: int = 8960
    num_frames: int = 3
    num_queries: int = 4680
    num_valid: int = 32760
    num_sink: int = 0
    picture: tuple[int, int, int] = (12, 480, 832)
    ring: Kind | None = None

    @property
    def width(self) -> int:
        """Channels of a token."""
        return self.num_heads * self.head_width


@dataclass(frozen=True)
class Work:
    """One call of one operation.

    field: its name in `Ops`.  written: arguments that it fills.
    num_bytes: what it must at least read and write.  num_flops: 2 for each product and sum.
    rows: the queries to compare; None is all.  leniency: how many times further off than others its
    results may be.
    """

    label: str
    field: str
    arguments: tuple[Any, ...]
    written: tuple[Tensor, ...] = ()
    num_bytes: int = 0
    num_flops: int = 0
    rows: Tensor | None = None
    leniency: float = 1.0

    def run(self, operation: Callable[..., Any]) -> tuple[Tensor, ...]:
        """The results, and the arguments that were filled."""
        result = operation(*self.arguments)
        return (*(result if isinstance(result, tuple) else (result,)), *self.written)

    def compared(self, results: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """What is compared of the results: of attention, the checked queries."""
        if self.rows is None:
            return results
        return (results[0][:, self.rows], *(lse[:, :, self.rows] for lse in results[1:]))


class Draw:
    """Random tensors that are the same values in every element type.

    They are rounded to bfloat16 first, so that a float32 copy is exact.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype, seed: int = 0) -> None:
        self.device, self.dtype = device, dtype
        self.generator = torch.Generator(device).manual_seed(seed)

    def __call__(self, *shape: int, scale: float = 1.0) -> Tensor:
        """Normal, of this standard deviation."""
        drawn = torch.randn(*shape, device=self.device, generator=self.generator) * scale
        return drawn.to(torch.bfloat16).to(self.dtype)

    def table(self, rows: int, head_width: int) -> Tensor:
        """Cosines and sines of random angles: float32 [rows, head_width / 2, 2]."""
        angle = torch.rand(rows, head_width // 2, device=self.device, generator=self.generator)
        angle = 2.0 * math.pi * angle
        return torch.stack([angle.cos(), angle.sin()], dim=-1)

    def pictures(self, *shape: int) -> Tensor:
        """Random bytes: uint8 [T, H, W, 3]."""
        size = (*shape, 3)
        drawn = torch.randint(256, size, device=self.device, generator=self.generator)
        return drawn.to(torch.uint8)


@dataclass(frozen=True)
class Attention:
    """Data for attention at one shape.

    rows: the checked queries.  Of the slots num_valid are to be seen, a few more must not be.
    scales: where k and v are codes.
    """

    shape: Shape
    q: Tensor
    q_sink: Tensor
    k: Tensor
    v: Tensor
    rows: Tensor
    scales: RingScales | None = None

    @classmethod
    def draw(cls, shape: Shape, device: torch.device, dtype: torch.dtype) -> Attention:
        """Queries aimed at keys all through the ring."""
        draw = Draw(device, dtype)
        heads = (shape.num_heads, shape.head_width)
        num_hidden = max(1, shape.num_valid // 16)
        k = draw(1, shape.num_valid + num_hidden, *heads)
        v = draw(1, shape.num_valid + num_hidden, *heads)
        q, q_sink = draw(1, shape.num_queries, *heads), draw(1, shape.num_queries, *heads)
        v[:, shape.num_valid :] = MISLEADING
        count = min(NUM_CHECKED, shape.num_queries)
        rows = torch.linspace(0, shape.num_queries - 1, count, device=device).round().long()
        strength = math.log(shape.num_valid) + 0.4
        for query, low, high in (
            (q, shape.num_sink, shape.num_valid),
            (q_sink, 0, shape.num_sink),
        ):
            # Over heads and rows together: low, ..., high - 1 in even steps.
            places = torch.linspace(low, max(low, high - 1), count * heads[0], device=device)
            aimed = k[0, places.round().long().view(count, heads[0]), torch.arange(heads[0])]
            length = aimed.float().square().sum(-1, keepdim=True)
            aimed = aimed.float() * (strength * math.sqrt(heads[1]) / length)
            query[0, rows] = aimed.to(dtype)
        # The first query looks straight at slots behind the end.
        k[0, shape.num_valid :] = q[0, :1] * 3.0
        if shape.ring is None:
            return cls(shape, q, q_sink, k, v, rows)
        (k, k_scales), (v, v_scales) = (quantise_rows(ring, shape.ring) for ring in (k, v))
        scales = RingScales(*(s.transpose(1, 2).contiguous() for s in (k_scales, v_scales)))
        return cls(shape, q, q_sink, k, v, rows, scales)

    def plain(self) -> Work:
        """`attend` in the steady state."""
        shape = self.shape
        sinks = (self.q_sink, shape.num_sink) if shape.num_sink else (None, 0)
        seen = shape.num_queries * shape.num_valid
        return Work(
            label=f"attend {shape.num_heads} x {shape.num_queries} x {shape.num_valid}"
            + self._label(),
            field="attend",
            arguments=(self.q, self.k, self.v, shape.num_valid, *sinks, self.scales),
            num_bytes=self._num_bytes(),
            num_flops=4 * shape.width * seen,
            rows=self.rows,
        )

    def paired(self) -> Work:
        """`attend_views` in the pass that ends one block and begins the next, half of the queries
        each: a full ring, and behind it the keys of the second half.
        """
        shape = self.shape
        half = shape.num_queries // 2
        table = self._pair(half, shape.num_queries - half)
        seen = sum(
            view.num_queries * sum(span.end - span.first for span in view.spans)
            for view in table.views
        )
        sinks = self.q_sink if shape.num_sink else None
        return Work(
            label=f"attend_views {shape.num_heads} x {shape.num_queries} x "
            f"{shape.num_valid - half}, two blocks" + self._label(),
            field="attend_views",
            arguments=(self.q, self.k, self.v, table, sinks, None, self.scales),
            num_bytes=self._num_bytes(),
            num_flops=4 * shape.width * seen,
            rows=self.rows,
        )

    def _label(self) -> str:
        shape = self.shape
        sinks = f" sinks {shape.num_sink}" if shape.num_sink else ""
        return sinks + (f" ring {shape.ring}" if shape.ring else "")

    def _num_bytes(self) -> int:
        shape, size = self.shape, self.q.element_size()
        return 2 * shape.width * (size * shape.num_queries + self.k.itemsize * shape.num_valid)

    def viewed(self) -> Work:
        """`attend_views` with sinks, a hole, old keys of less weight, two views and log-sums."""
        shape = self.shape
        half = (shape.num_queries + 1) // 2
        table = self._views(half, shape.num_queries - half)
        lse = torch.zeros(1, shape.num_heads, shape.num_queries, device=self.q.device)
        return Work(
            label="attend_views",
            field="attend_views",
            arguments=(self.q, self.k, self.v, table, self.q_sink, lse, self.scales),
            written=(lse,),
            rows=self.rows,
        )

    def expected_plain(self, reference: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        """What `plain` must give for the checked queries: float32."""
        q, q_sink, k, v = self._checked()
        sinks = (q_sink, self.shape.num_sink) if self.shape.num_sink else ()
        return (reference(q, k, v, self.shape.num_valid, *sinks),)

    def expected_viewed(self, reference: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        """What `viewed` must give for the checked queries, and their log-sums: float32."""
        q, q_sink, k, v = self._checked()
        first = int((self.rows < (self.shape.num_queries + 1) // 2).sum())
        table = self._views(first, len(self.rows) - first)
        lse = torch.zeros(1, self.shape.num_heads, len(self.rows), device=q.device)
        return reference(q, k, v, table, q_sink, lse), lse

    def expected_paired(self, reference: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        """What `paired` must give for the checked queries: float32."""
        q, q_sink, k, v = self._checked()
        first = int((self.rows < self.shape.num_queries // 2).sum())
        table = self._pair(first, len(self.rows) - first)
        return (reference(q, k, v, table, q_sink if self.shape.num_sink else None),)

    def _checked(self) -> tuple[Tensor, ...]:
        q, q_sink = (queries[:, self.rows].float() for queries in (self.q, self.q_sink))
        if self.scales is None:
            return q, q_sink, self.k.float(), self.v.float()
        ring = dequantise_ring(self.k, self.v, self.scales, self.k.shape[1], torch.float32)
        return q, q_sink, *ring

    def _pair(self, *counts: int) -> ViewTable:
        """The first half sees the ring, the second all but the frames that it will replace, and its
        own keys behind it.
        """
        num_sink, end = self.shape.num_sink, self.shape.num_valid
        ring = end - self.shape.num_queries // 2
        gap = num_sink + (ring - num_sink) // 3
        hole = min(gap + self.shape.num_queries // 2, ring)
        sinks = (Span(0, num_sink, is_sink=True),) if num_sink else ()
        views = (
            (*sinks, Span(num_sink, ring)),
            (*sinks, *(s for s in (Span(num_sink, gap), Span(hole, end)) if s.first < s.end)),
        )
        pairs = zip(counts, views, strict=True)
        return ViewTable([View(count, seen) for count, seen in pairs if count], self.q.device)

    def _views(self, *counts: int) -> ViewTable:
        """The older half of the queries sees no key of the last third, the newer none of the
        middle one.
        """
        third = self.shape.num_valid // 3
        num_sink = max(1, self.shape.num_sink or third // 4)
        sink, last = Span(0, num_sink, is_sink=True), Span(2 * third, self.shape.num_valid)
        spans = (
            (sink, Span(num_sink, 2 * third, log_weight=-1.2)),
            (sink, Span(num_sink, third, log_weight=-1.2), last),
        )
        views = [View(count, seen) for count, seen in zip(counts, spans, strict=True) if count]
        return ViewTable(views, self.q.device)


def row_works(shape: Shape, device: torch.device, dtype: torch.dtype) -> list[Work]:
    """Every operation besides attention; the same values whatever the element type."""
    draw = Draw(device, dtype)
    tokens, width, frames = shape.num_queries, shape.width, shape.num_frames
    x, branch = draw(1, tokens, width), draw(1, tokens, width)
    gate, shift, scale = (draw(1, frames, width, scale=0.5) for _ in range(3))
    weight, bias = draw(width) + 1.0, draw(width)
    table = draw.table(tokens, shape.head_width)
    ring = (1, 2 * tokens, shape.num_heads, shape.head_width)
    ring_k, ring_v = (torch.zeros(ring, device=device, dtype=dtype) for _ in range(2))
    slots = (torch.arange(tokens, device=device) + tokens // 2 + 1) % (2 * tokens)
    up = draw(shape.ffn_width, width, scale=width**-0.5)
    up_bias = draw(shape.ffn_width)
    fed = draw(1, tokens, shape.ffn_width)
    heads = x.view(1, tokens, shape.num_heads, shape.head_width)
    count, height, wide = shape.picture
    pictures = draw.pictures(count, height, wide)
    row = x.numel() * x.element_size()
    norms = (x, branch, x, weight, weight, table, 1e-6)
    coded = []
    if shape.ring is not None:
        codes = [torch.zeros(ring, device=device, dtype=TYPES[shape.ring]) for _ in range(2)]
        size = (1, shape.num_heads, 2 * tokens)
        scales = RingScales(*(torch.zeros(size, device=device) for _ in range(2)))
        coded.append(
            Work(
                f"qk_norm_rope_write {shape.ring}",
                "qk_norm_rope_write",
                (*norms, *codes, slots, table[:1].clone(), scales),
                written=(*codes, *scales),
                num_bytes=5 * row + 2 * x.numel(),
                leniency=CODE_LENIENCY[shape.ring],
            )
        )
    return [
        *coded,
        Work("modulate", "modulate", (x, shift, scale, 1e-6), num_bytes=2 * row),
        Work("gate_add", "gate_add", (x, branch, gate), num_bytes=3 * row),
        Work(
            "gate_add_modulate",
            "gate_add_modulate",
            (x, branch, gate, shift, scale, 1e-6),
            num_bytes=4 * row,
        ),
        Work(
            "gate_add_layer_norm",
            "gate_add_layer_norm",
            (x, branch, None, weight, bias, 1e-6),
            num_bytes=4 * row,
        ),
        Work("rotate", "rotate", (heads, table[:1].contiguous()), num_bytes=2 * row),
        Work(
            "qk_norm_rope",
            "qk_norm_rope",
            (x, branch, weight, weight, table, 1e-6),
            num_bytes=4 * row,
        ),
        Work(
            "qk_norm_rope_write",
            "qk_norm_rope_write",
            (*norms, ring_k, ring_v, slots, table[:1].clone()),
            written=(ring_k, ring_v),
            num_bytes=7 * row,
        ),
        Work(
            "linear_gelu",
            "linear_gelu",
            (x, up, up_bias),
            num_bytes=row + (up.numel() + tokens * shape.ffn_width) * x.element_size(),
            num_flops=2 * tokens * up.numel(),
        ),
        Work("quantise_rows int8", "quantise_rows", (x, "int8"), num_bytes=row + x.numel()),
        Work("quantise_rows fp8", "quantise_rows", (x, "fp8"), num_bytes=row + x.numel()),
        Work(
            "gelu_quantise_rows int8",
            "gelu_quantise_rows",
            (fed, "int8"),
            num_bytes=fed.numel() * (fed.element_size() + 1),
        ),
        Work(
            "gelu_quantise_rows fp8",
            "gelu_quantise_rows",
            (fed, "fp8"),
            num_bytes=fed.numel() * (fed.element_size() + 1),
        ),
        Work("to_i420", "to_i420", (pictures,), num_bytes=pictures.numel() * 3 // 2),
    ]
