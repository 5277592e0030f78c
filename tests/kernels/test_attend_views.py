"""Attention over spans of a ring: loops, the reference, the libraries and the kernels agree."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from typing import Literal

import pytest
import torch
from streamer_kernels.attend import attend
from streamer_kernels.attend_library import LibraryAttention, processor_flash, with_one_pass
from streamer_kernels.attend_views import (
    MAX_SPANS,
    SeenFrame,
    Span,
    View,
    ViewTable,
    attend_views,
    view_frames,
)
from streamer_kernels.merge import merge
from torch import Tensor

from streamer.models.cache import RingLayout
from tests.kernels.interpreter import Interpreter

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="Triton is made for Linux only")
ROUNDING = 5e-6
WEIGHT = math.log(0.3)


def draw(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def draw_case(
    num_queries: int, num_slots: int, head_width: int = 16, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """q, q_sink, k, v of one sample with two heads."""
    tokens, slots = (1, num_queries, 2, head_width), (1, num_slots, 2, head_width)
    q, q_sink = draw(*tokens, seed=1, dtype=dtype), draw(*tokens, seed=2, dtype=dtype)
    return q, q_sink, draw(*slots, seed=3, dtype=dtype), draw(*slots, seed=4, dtype=dtype)


def by_loops(
    q: Tensor, q_sink: Tensor, k: Tensor, v: Tensor, views: list[View]
) -> tuple[Tensor, Tensor]:
    out, lse = torch.zeros_like(q), torch.zeros(q.shape[0], q.shape[2], q.shape[1])
    owners = [view for view in views for _ in range(view.num_queries)]
    for b in range(q.shape[0]):
        for n, view in enumerate(owners):
            for a in range(q.shape[2]):
                total, summed = 0.0, torch.zeros(q.shape[3], dtype=q.dtype)
                for span in view.spans:
                    for s in range(span.first, span.end):
                        query = (q_sink if span.is_sink else q)[b, n, a]
                        score = float(query @ k[b, s, a]) / math.sqrt(q.shape[3])
                        weight = math.exp(score + span.log_weight)
                        total, summed = total + weight, summed + weight * v[b, s, a]
                out[b, n, a], lse[b, a, n] = summed / total, math.log(total)
    return out, lse


VIEWS = [
    View(3, (Span(0, 2, True), Span(2, 6, False, WEIGHT), Span(8, 9))),
    View(2, (Span(1, 3, True), Span(4, 5, True, 0.5), Span(5, 8))),
]


def test_the_reference_reads_spans_weights_and_both_queries() -> None:
    q, q_sink, k, v = draw_case(5, 9, dtype=torch.float64)
    expected, log_sums = by_loops(q, q_sink, k, v, VIEWS)
    lse = torch.empty(1, 2, 5)
    out = attend_views(q, k, v, ViewTable(VIEWS), q_sink, lse)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(lse, log_sums, rtol=0, atol=1e-6)


def test_the_reference_is_attend_where_attend_is_enough() -> None:
    q, q_sink, k, v = draw_case(5, 9, dtype=torch.float64)
    table = ViewTable([View(5, (Span(0, 2, True), Span(2, 8)))])
    out = attend_views(q, k, v, table, q_sink)
    torch.testing.assert_close(out, attend(q, k, v, 8, q_sink, 2), rtol=0, atol=1e-12)


def test_the_reference_differentiates() -> None:
    tensors = [tensor.requires_grad_() for tensor in draw_case(5, 9, 2, torch.float64)]

    def call(q: Tensor, q_sink: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attend_views(q, k, v, ViewTable(VIEWS), q_sink)

    assert torch.autograd.gradcheck(call, tensors)


@pytest.mark.parametrize(
    ("views", "message"),
    [
        ([], "there are no views"),
        ([View(0, (Span(0, 1),))], "view 0 has 0 queries"),
        ([View(1, ())], "0 spans"),
        ([View(1, (Span(3, 3),))], "0 <= first < end"),
        ([View(1, (Span(0, 1, False, -math.inf),))], "a finite weight"),
        ([View(1, tuple(Span(2 * i, 2 * i + 1) for i in range(MAX_SPANS + 1)))], "5 spans"),
    ],
)
def test_views_that_no_kernel_can_serve_are_refused(views: list[View], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ViewTable(views)


def test_a_table_tells_the_most_keys_that_a_query_sees_besides_sinks() -> None:
    views = [View(3, (Span(0, 4, is_sink=True), Span(4, 10))), View(2, (Span(6, 8), Span(9, 20)))]
    assert ViewTable(views).most_keys == 13


def test_a_table_is_updated_at_its_address() -> None:
    table = ViewTable(VIEWS)
    address, before = table.spans.data_ptr(), table.spans.clone()
    moved = [replace(view, spans=(*view.spans[:2], Span(6, 7))) for view in VIEWS]
    table.update(moved)
    assert table.spans.data_ptr() == address
    assert not torch.equal(table.spans, before)
    assert torch.equal(table.spans, ViewTable(moved).spans)
    with pytest.raises(ValueError, match="make another ViewTable"):
        table.update([View(5, (Span(0, 1),))])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": torch.zeros(1, 4, 2, 16)}, "q has 4 queries, the views have 5"),
        ({"k": torch.zeros(1, 8, 2, 16)}, "reach slot 8, but the ring has 8 slots"),
        ({"lse": torch.zeros(1, 5, 2)}, "lse is .* expected contiguous"),
    ],
)
def test_calls_that_do_not_fit_the_table_are_refused(
    change: dict[str, Tensor], message: str
) -> None:
    q, _, k, v = draw_case(5, 9)
    arguments = {"q": q, "k": k, "v": v, "table": ViewTable(VIEWS)} | change
    with pytest.raises(ValueError, match=message):
        attend_views(**arguments)  # type: ignore[arg-type]


def test_frames_become_as_few_spans_as_possible() -> None:
    frames = [SeenFrame(5), SeenFrame(0, True), SeenFrame(4), SeenFrame(2, log_weight=WEIGHT)]
    view = view_frames(7, [*frames, SeenFrame(1, log_weight=WEIGHT)], tokens=10)
    weighted = Span(10, 30, log_weight=WEIGHT)
    assert view == View(7, (Span(0, 10, True), weighted, Span(40, 60)))


@pytest.mark.parametrize("sink", [0, 1, 2])
@pytest.mark.parametrize("block", [1, 2, 3])
def test_a_pass_over_two_blocks_needs_no_more_spans_than_there_are(sink: int, block: int) -> None:
    """The clean pass of a block and the first step of the next, in a ring with room for both."""
    window = 7 + sink
    old, wide = RingLayout(window, sink, block), RingLayout(window + block, sink, block)
    for first in range(0, 60, block):
        for end in (first + block, first + 2 * block):
            frames = [
                SeenFrame(wide.slot(frame), frame < sink, WEIGHT if frame < first else 0.0)
                for frame in old.visible(end)
            ]
            ViewTable([view_frames(1, frames, tokens=3)])


LIBRARY = processor_flash()


@pytest.mark.parametrize("num_sink", [0, 3, 8])
def test_a_library_attends_to_a_ring(num_sink: int) -> None:
    q, q_sink, k, v = draw_case(5, 9)
    expected = attend(q, k, v, 8, q_sink, num_sink)
    k[:, 8:], v[:, 8:] = torch.nan, torch.nan
    out = LIBRARY.attend(q, k, v, 8, q_sink, num_sink)
    torch.testing.assert_close(out, expected, rtol=0, atol=ROUNDING)


def test_a_library_attends_to_views() -> None:
    q, q_sink, k, v = draw_case(5, 9)
    lse, log_sums = torch.empty(1, 2, 5), torch.empty(1, 2, 5)
    expected = attend_views(q, k, v, ViewTable(VIEWS), q_sink, log_sums)
    out = LIBRARY.attend_views(q, k, v, ViewTable(VIEWS), q_sink, lse)
    torch.testing.assert_close(out, expected, rtol=0, atol=ROUNDING)
    torch.testing.assert_close(lse, log_sums, rtol=0, atol=ROUNDING)


def test_a_library_refuses_to_cut_a_gradient() -> None:
    q, _, k, v = draw_case(5, 9)
    with pytest.raises(RuntimeError, match="no backward pass here"):
        LIBRARY.attend(q.requires_grad_(), k, v, 9)


def test_a_library_is_called_once_for_a_ring_without_sinks() -> None:
    lengths = []

    def dense(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        lengths.append(k.shape[1])
        return LIBRARY.dense(q, k, v)

    q, q_sink, k, v = draw_case(5, 9)
    counted = LibraryAttention("counted", dense)
    counted.attend(q, k, v, 8)
    counted.attend(q, k, v, 8, q_sink, 3)
    assert lengths == [8, 3, 5]


def test_merging_keeps_extreme_sums_finite() -> None:
    parts = [
        (draw(1, 2, 2, 4, seed=i), torch.full((1, 2, 2), sum_))
        for i, sum_ in enumerate((900.0, -900.0))
    ]
    out, total = merge(parts)
    assert torch.equal(out, parts[0][0])
    assert torch.equal(total, parts[0][1])


def scattered(part: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The same numbers with other strides, as libraries give them."""
    out, log_sum = part
    return (
        out.transpose(1, 2).contiguous().transpose(1, 2),
        log_sum.transpose(1, 2).contiguous().transpose(1, 2),
    )


@LINUX
@pytest.mark.parametrize("num_parts", [1, 2, 3])
@pytest.mark.parametrize(("num_heads", "width"), [(2, 16), (3, 12)])
def test_the_merge_in_one_pass_is_the_merge(
    interpreter: Interpreter, num_parts: int, num_heads: int, width: int
) -> None:
    parts = [
        scattered((
            draw(2, 5, num_heads, width, seed=i),
            4.0 * draw(2, num_heads, 5, 1, seed=i + 9)[..., 0],
        ))
        for i in range(num_parts)
    ]  # fmt: skip
    wanted, total = merge(parts)
    # Packed, because the other process sees no strides of tensors in lists.
    out, log_sum = interpreter.call("merge_triton.merge", parts)
    torch.testing.assert_close(out, wanted, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(log_sum, total, atol=1e-6, rtol=1e-5)


@LINUX
def test_the_merge_in_one_pass_keeps_extreme_sums_finite(interpreter: Interpreter) -> None:
    parts = [
        (draw(1, 2, 2, 4, seed=i), torch.full((1, 2, 2), sum_))
        for i, sum_ in enumerate((900.0, -900.0))
    ]
    out, total = interpreter.call("merge_triton.merge", parts)
    assert torch.equal(out, parts[0][0])
    assert torch.equal(total, parts[0][1])


@LINUX
def test_the_merge_in_one_pass_refuses_what_it_cannot_do() -> None:
    from streamer_kernels.merge_triton import merge as in_one_pass

    part = (draw(1, 2, 2, 4, seed=0), torch.zeros(1, 2, 2))
    with pytest.raises(RuntimeError, match="the triton merge has no backward pass"):
        in_one_pass([(part[0].requires_grad_(), part[1]), part])
    assert with_one_pass(LIBRARY).name == "cpu-flash+merge"
    assert with_one_pass(LIBRARY).merge is in_one_pass


# Tiles are 32x32 in the interpreter.  Spans inside a tile, over a border and on one; a hole; sinks
# in two places; a single slot; two views whose queries end inside a tile.
RING_VIEWS = [
    View(33, (Span(0, 10, True), Span(10, 50, False, WEIGHT), Span(64, 96), Span(99, 100))),
    View(7, (Span(3, 5, True), Span(6, 40, True, 0.4), Span(40, 72))),
]


@LINUX
@pytest.mark.parametrize("form", ["pointer", "hopper"])
@pytest.mark.parametrize("has_sinks", [False, True])
def test_both_kernels_follow_the_views(
    interpreter: Interpreter, form: Literal["pointer", "hopper"], has_sinks: bool
) -> None:
    q, q_sink, k, v = draw_case(40, 101, 32)
    views = [
        replace(view, spans=tuple(replace(s, is_sink=s.is_sink and has_sinks) for s in view.spans))
        for view in RING_VIEWS
    ]
    table, expected_lse = ViewTable(views), torch.empty(1, 2, 40)
    expected = attend_views(q, k, v, table, q_sink, expected_lse)
    # Neither view sees these; the pointer form must not even read them.
    hidden = torch.tensor([100] if form == "pointer" else [])
    k[:, hidden.long()], v[:, hidden.long()] = torch.nan, torch.nan
    lse = torch.zeros(1, 2, 40)
    out = interpreter.call("attend_triton.attend_views", q, k, v, table, q_sink, lse=lse, form=form)
    torch.testing.assert_close(out, expected, rtol=0, atol=ROUNDING)
    torch.testing.assert_close(lse, expected_lse, rtol=0, atol=ROUNDING)


@LINUX
@pytest.mark.parametrize("form", ["pointer", "hopper"])
def test_parts_over_the_keys_are_merged(
    interpreter: Interpreter, form: Literal["pointer", "hopper"]
) -> None:
    """Seven processors for two tiles: 3 parts each, and with 2 tiles of keys one part is empty."""
    q, _, k, v = draw_case(9, 40, 32)
    views = [View(9, (Span(0, 7), Span(20, 40, False, WEIGHT)))]
    expected_lse = torch.empty(1, 2, 9)
    expected = attend_views(q, k, v, ViewTable(views), None, expected_lse)
    lse, table = torch.zeros(1, 2, 9), ViewTable(views)
    out = interpreter.call(
        "attend_triton.attend_views", q, k, v, table, lse=lse, form=form, processors=7
    )
    torch.testing.assert_close(out, expected, rtol=0, atol=ROUNDING)
    torch.testing.assert_close(lse, expected_lse, rtol=0, atol=ROUNDING)


@LINUX
@pytest.mark.parametrize(("dtype", "ulp"), [(torch.float16, 1e-3), (torch.bfloat16, 8e-3)])
def test_the_hopper_form_sums_sixteen_bit_inputs_in_float32(
    interpreter: Interpreter, dtype: torch.dtype, ulp: float
) -> None:
    q, q_sink, k, v = draw_case(5, 70, 32, dtype)
    out = interpreter.call("attend_triton.attend", q, k, v, 65, q_sink, 9, form="hopper")
    assert out.dtype == dtype
    exact = attend(q.float(), k.float(), v.float(), 65, q_sink.float(), 9)
    torch.testing.assert_close(out.float(), exact, rtol=0, atol=ulp)


@LINUX
def test_the_hopper_form_says_what_the_copy_engine_cannot_read(interpreter: Interpreter) -> None:
    q, _, k, v = draw_case(5, 70, 33)
    q, k, v = (tensor[..., 1:] for tensor in (q, k, v))
    with pytest.raises(ValueError, match="multiples of 16 bytes"):
        interpreter.call("attend_triton.attend", q, k, v, 65, form="hopper")
    out = interpreter.call("attend_triton.attend", q, k, v, 65)
    torch.testing.assert_close(out, attend(q, k, v, 65), rtol=0, atol=ROUNDING)
