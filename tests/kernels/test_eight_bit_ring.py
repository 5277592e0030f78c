"""A ring of codes: written, scored and summed with its scales, by references and kernels."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from streamer_kernels import Ops, load_ops
from streamer_kernels.attend import attend
from streamer_kernels.attend_library import processor_flash
from streamer_kernels.attend_views import Span, View, ViewTable, attend_views
from streamer_kernels.qk_norm_rope import qk_norm_rope_write
from streamer_kernels.quantise import (
    TYPES,
    Kind,
    RingScales,
    dequantise_ring,
    quantise_rows,
    write_codes,
)
from torch import Tensor

from streamer.models.cache import RingLayout
from streamer.models.rolling import RollingContext
from streamer.models.sampler import write_and_begin
from streamer.models.transformer import CausalWanTransformer, TransformerConfig
from tests.kernels.interpreter import Interpreter

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="Triton is made for Linux only")
KINDS: tuple[Kind, ...] = ("int8", "fp8")
ROUNDING = 5e-6
# What the rounding of keys and values to codes may do to a mean of unit values.
CODED = {"int8": 0.02, "fp8": 0.08}
VIEWS = [
    View(33, (Span(0, 10, True), Span(10, 50), Span(64, 96), Span(99, 100))),
    View(7, (Span(3, 5, True), Span(6, 40, True), Span(40, 72))),
]


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def draw_ring(
    kind: Kind, num_queries: int, num_slots: int, head_width: int = 32
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor], tuple[Tensor, Tensor], RingScales]:
    """q, q_sink, the ring as numbers, as codes, and its scales; slots of very different sizes."""
    tokens, slots = (2, num_queries, 2, head_width), (2, num_slots, 2, head_width)
    sizes = torch.logspace(-2, 2, num_slots)[:, None, None]
    k, v = draw(*slots, seed=3), draw(*slots, seed=4) * sizes.flip(0)
    (k_codes, k_scales), (v_codes, v_scales) = (quantise_rows(x, kind) for x in (k, v))
    scales = RingScales(*(s.transpose(1, 2).contiguous() for s in (k_scales, v_scales)))
    return draw(*tokens, seed=1), draw(*tokens, seed=2), (k, v), (k_codes, v_codes), scales


def assert_equal(out: Any, expected: Any, atol: float = ROUNDING) -> None:
    torch.testing.assert_close(out, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("kind", KINDS)
def test_the_references_read_codes_as_the_numbers_they_mean(kind: Kind) -> None:
    q, q_sink, ring, codes, scales = draw_ring(kind, 40, 101)
    meant = dequantise_ring(*codes, scales, 101, q.dtype)
    out = attend(q, *codes, 90, q_sink, 20, scales)
    assert torch.equal(out, attend(q, *meant, 90, q_sink, 20))
    exact = attend(q, *ring, 90, q_sink, 20)
    off = (out - exact).norm(dim=-1) / exact.norm(dim=-1)
    assert 1e-5 < off.max() < 3 * CODED[kind]
    table = ViewTable(VIEWS)
    seen = attend_views(q, *codes, table, q_sink, None, scales)
    assert torch.equal(seen, attend_views(q, *meant, table, q_sink))
    library = processor_flash()
    assert_equal(library.attend(q, *codes, 90, q_sink, 20, scales), out, atol=1e-4)
    assert_equal(library.attend_views(q, *codes, table, q_sink, None, scales), seen, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_codes_are_written_to_their_slots_and_nowhere_else(kind: Kind) -> None:
    ring = torch.zeros(1, 6, 2, 8, dtype=TYPES[kind])
    scales = torch.zeros(1, 2, 6)
    x, slots = draw(1, 3, 2, 8, seed=1), torch.tensor([4, 0, 5])
    write_codes(ring, scales, slots, x)
    back = ring.float() * scales.transpose(1, 2)[..., None]
    step = 1 / 127 if kind == "int8" else 1 / 8
    bound = step * x.abs().amax(-1, keepdim=True)
    assert ((back[:, slots] - x).abs() <= bound).all()
    assert not back[:, [1, 2, 3]].any()
    with pytest.raises(ValueError, match=r"the ring is torch.float32; scales belong to"):
        write_codes(ring.float(), scales, slots, x)


@LINUX
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("num_valid", "num_sink", "head_width"), [(70, 9, 32), (64, 32, 24), (33, 33, 32), (1, 0, 32)]
)
def test_the_kernel_reads_codes_as_the_reference_does(
    interpreter: Interpreter, kind: Kind, num_valid: int, num_sink: int, head_width: int
) -> None:
    q, q_sink, _, codes, scales = draw_ring(kind, 37, 75, head_width)
    expected = attend(q, *codes, num_valid, q_sink, num_sink, scales)
    for each in scales:
        each[..., num_valid:] = torch.nan  # never read
    out = interpreter.call("attend_triton.attend", q, *codes, num_valid, q_sink, num_sink, scales)
    assert_equal(out, expected, atol=ROUNDING * float(expected.abs().max() + 1))


@LINUX
@pytest.mark.parametrize("kind", KINDS)
def test_the_kernel_follows_views_of_codes(interpreter: Interpreter, kind: Kind) -> None:
    q, q_sink, _, codes, scales = draw_ring(kind, 40, 101)
    table, log_sums = ViewTable(VIEWS), torch.empty(2, 2, 40)
    expected = attend_views(q, *codes, table, q_sink, log_sums, scales)
    lse = torch.zeros(2, 2, 40)
    out = interpreter.call(
        "attend_triton.attend_views", q, *codes, table, q_sink, lse, scales, processors=7
    )
    assert_equal(out, expected, atol=ROUNDING * float(expected.abs().max() + 1))
    assert_equal(lse, log_sums)


def write_arguments(has_sinks: bool) -> tuple[Any, ...]:
    """Six tokens of a packed projection: three heads of sixteen, no power of two together."""
    q, k, v = draw(2, 6, 3 * 48, seed=1).split(48, dim=-1)
    angle = 7.0 * draw(6, 8, seed=9)
    table = torch.stack([angle.cos(), angle.sin()], dim=-1)
    weights = draw(2, 48, seed=2)
    return q, k, v, *weights, table, 1e-6, table.flip(0).contiguous() if has_sinks else None


@LINUX
@pytest.mark.parametrize("kind", KINDS)
def test_the_kernel_writes_codes_as_the_reference_does(
    interpreter: Interpreter, kind: Kind
) -> None:
    *inputs, sinks = write_arguments(has_sinks=True)
    slots = torch.tensor([7, 8, 0, 1, 2, 4])
    made = []
    for write in (qk_norm_rope_write, interpreter.ops().qk_norm_rope_write):
        rings = [torch.ones(2, 9, 3, 16, dtype=TYPES[kind]) for _ in range(2)]
        scales = RingScales(*(torch.full((2, 3, 9), 0.5) for _ in range(2)))
        queries = write(*inputs, *rings, slots, sinks, scales)
        made.append((queries, rings, scales))
    (expected_q, expected, expected_scales), (out_q, codes, scales) = made
    assert_equal(out_q, expected_q)
    assert not torch.equal(expected_q[0], expected_q[1])
    assert_equal(scales, expected_scales)
    for found, right in zip(codes, expected, strict=True):
        # A last bit may round the other way; the interpreter rounds fp8 in a way of its own.
        step = 1 if kind == "int8" else 64
        assert (found.float() - right.float()).abs().max() <= step
        assert (found.float() != right.float()).float().mean() < 0.2
    untouched = [3, 5, 6]
    for ring, each in zip(codes, scales, strict=True):
        assert (ring[:, untouched].float() == 1).all()
        assert (each[..., untouched] == 0.5).all()


@LINUX
def test_every_token_may_have_a_sink_angle_of_its_own(interpreter: Interpreter) -> None:
    *inputs, sinks = write_arguments(has_sinks=True)
    slots, made = torch.arange(6), []
    for write in (qk_norm_rope_write, interpreter.ops().qk_norm_rope_write):
        rings = [torch.zeros(2, 6, 3, 16) for _ in range(2)]
        made.append(write(*inputs, *rings, slots, sinks))
    assert_equal(made[1], made[0])
    alone = qk_norm_rope_write(*inputs, *rings, slots, sinks[:1])
    assert_equal(made[0][1][:, 0], alone[1][:, 0])
    assert not torch.allclose(made[0][1][:, 1], alone[1][:, 1], atol=1e-3)


@LINUX
def test_what_the_kernels_cannot_read_is_refused(interpreter: Interpreter) -> None:
    q, _, ring, codes, scales = draw_ring("int8", 5, 40)
    call = "attend_triton.attend"
    with pytest.raises(ValueError, match=r"rings of the queries' type, this one is torch.int8"):
        interpreter.call(call, q, *codes, 40, None, 0, scales, form="hopper")
    with pytest.raises(ValueError, match=r"k is torch.float32 and v torch.float32; scales belong"):
        interpreter.call(call, q, *ring, 40, None, 0, scales)
    with pytest.raises(ValueError, match=r"scales.v is \(2, 2, 39\), expected \(2, 2, 40\)"):
        interpreter.call(call, q, *codes, 40, None, 0, RingScales(scales.k, scales.v[..., 1:]))
    with pytest.raises(ValueError, match=r"k is torch.int8"):
        interpreter.call(call, q, *codes, 40)
    row = (*draw(3, 1, 2, 12, seed=1).unbind(0), *draw(2, 12, seed=2), draw(2, 3, 2, seed=3), 1e-6)
    rings = [torch.zeros(1, 2, 2, 6, dtype=torch.int8) for _ in range(2)]
    small = RingScales(torch.zeros(1, 2, 2), torch.zeros(1, 2, 2))
    with pytest.raises(ValueError, match="heads are 6 wide; codes need a power of two"):
        interpreter.ops().qk_norm_rope_write(*row, *rings, torch.arange(2), None, small)


CONFIG = TransformerConfig(
    width=32,
    num_heads=2,
    ffn_width=32,
    num_layers=2,
    in_channels=4,
    out_channels=4,
    text_width=8,
    text_length=5,
    freq_width=16,
)


def stream_pairs(ops: Ops, kind: Kind | None) -> Tensor:
    """Four passes over two blocks of one frame, in a ring of three with one sink: it wraps."""
    torch.manual_seed(0)
    network = CausalWanTransformer(CONFIG, ops=ops).requires_grad_(False)
    for parameter in network.parameters():
        parameter.normal_(std=0.2)
    first, second = (network.encode_text(draw(1, 3, 8, seed=seed)) for seed in (5, 6))
    layout = RingLayout(3, 1, block=1)
    context = RollingContext(CONFIG.cache_shape(4, 6), layout, ops=ops, spare_frames=1, kind=kind)
    clean, noise = draw(2, 4, 1, 1, 4, 4, 6, seed=7)
    return torch.cat([
        write_and_begin(network, clean[i], noise[i], 900.0, first.beside(second), context)
        for i in range(4)
    ])  # fmt: skip


@LINUX
@pytest.mark.parametrize("kind", [None, "int8"])
def test_passes_over_two_blocks_through_the_kernels(
    interpreter: Interpreter, kind: Kind | None
) -> None:
    out = stream_pairs(interpreter.ops(), kind)
    expected = stream_pairs(load_ops("torch"), kind)
    assert expected.std() > 0.1
    # A code that rounds the other way is a hundredth of its number off.
    atol = 1e-5 if kind is None else 1e-2
    assert_equal(out, expected, atol=atol * float(expected.abs().max()))
    if kind is not None:
        assert not torch.allclose(out, stream_pairs(load_ops("torch"), None), atol=1e-4)
