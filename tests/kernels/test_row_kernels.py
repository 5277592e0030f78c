"""The kernels that work a row at a time against their references, in the interpreter."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from streamer_kernels import load_ops
from streamer_kernels.gelu import bias_gelu, linear_gelu, linear_gelu_epilogue
from streamer_kernels.i420 import to_i420
from streamer_kernels.quantise import dequantise_rows, quantise_rows, scaled_linear
from torch import Tensor

from tests.kernels.interpreter import Interpreter

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Triton is made for Linux only")

# Another order of float32 sums over at most 96 channels.
ROUNDING = 5e-6
# Two roundings to sixteen bits of numbers below 8; the interpreter truncates bfloat16.
SIXTEEN_BITS = {torch.float16: 1e-2, torch.bfloat16: 1e-1}
REFERENCE = load_ops("torch")


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def draw_table(rows: int, head_width: int) -> Tensor:
    angle = 7.0 * draw(rows, head_width // 2, seed=9)
    return torch.stack([angle.cos(), angle.sin()], dim=-1)


def assert_equal(out: Any, expected: Any, atol: float = ROUNDING) -> None:
    torch.testing.assert_close(out, expected, rtol=0, atol=atol)


# Widths that fill a power of two and that do not; one vector for all, for some and for each token.
SIZES = [(32, 1), (96, 3), (20, 6)]


def row_arguments(width: int, groups: int) -> dict[str, tuple[Any, ...]]:
    """One call of each operation on six tokens of two samples."""
    x, branch = draw(2, 6, width, seed=1), draw(2, 6, width, seed=2)
    gate, shift, scale = draw(3, 2, groups, width, seed=3)
    weight, bias = draw(2, width, seed=4)
    heads = x.view(2, 6, 2, width // 2)
    return {
        "modulate": (x, shift, scale, 1e-6),
        "gate_add": (x, branch, gate),
        "gate_add_modulate": (x, branch, gate, shift, scale, 1e-6),
        "gate_add_layer_norm": (x, branch, gate, weight, bias, 1e-6),
        "rotate": (heads, draw_table(6, width // 2)),
        "qk_norm_rope": (x, branch, weight, bias, draw_table(6, width // 2), 1e-6),
        "linear_gelu": (x, draw(70, width, seed=5), draw(70, seed=6)),
    }


@pytest.mark.parametrize(("width", "groups"), SIZES)
@pytest.mark.parametrize("name", row_arguments(32, 1))
def test_a_kernel_equals_its_reference(
    interpreter: Interpreter, name: str, width: int, groups: int
) -> None:
    arguments = row_arguments(width, groups)[name]
    expected = getattr(REFERENCE, name)(*arguments)
    # The sums of `linear_gelu` have a size of the square root of the width.
    assert_equal(getattr(interpreter.ops(), name)(*arguments), expected, atol=3 * ROUNDING)


@pytest.mark.parametrize("dtype", SIXTEEN_BITS)
@pytest.mark.parametrize("name", row_arguments(32, 1))
def test_sixteen_bit_inputs_are_computed_in_float32(
    interpreter: Interpreter, name: str, dtype: torch.dtype
) -> None:
    def cast(dtype: torch.dtype, value: Any) -> Any:
        is_table = isinstance(value, Tensor) and value.shape[-1] == 2
        return value.to(dtype) if isinstance(value, Tensor) and not is_table else value

    half = [cast(dtype, value) for value in row_arguments(32, 2)[name]]
    out = getattr(interpreter.ops(), name)(*half)
    exact = getattr(REFERENCE, name)(*(cast(torch.float32, value) for value in half))
    for given, right in zip(
        *(x if isinstance(x, tuple) else (x,) for x in (out, exact)), strict=True
    ):
        assert given.dtype == dtype
        bound = SIXTEEN_BITS[dtype] * max(1.0, float(right.abs().max()) / 8)
        assert_equal(given.float(), right, atol=bound)


def test_the_next_norm_goes_without_a_gate(interpreter: Interpreter) -> None:
    x, branch, _, shift, scale, eps = row_arguments(20, 3)["gate_add_modulate"]
    weight, bias = shift[0, 0], scale[0, 0]
    ops = interpreter.ops()
    assert_equal(
        ops.gate_add_modulate(x, branch, None, shift, scale, eps),
        REFERENCE.gate_add_modulate(x, branch, None, shift, scale, eps),
    )
    assert_equal(
        ops.gate_add_layer_norm(x, branch, None, weight, bias, eps),
        REFERENCE.gate_add_layer_norm(x, branch, None, weight, bias, eps),
    )


def test_the_references_of_fused_operations_are_the_single_ones() -> None:
    """Bit by bit: a model gives the same result whichever it calls."""
    x, branch, gate, shift, scale, eps = row_arguments(20, 3)["gate_add_modulate"]
    total = REFERENCE.gate_add(x, branch, gate)
    fused = REFERENCE.gate_add_modulate(x, branch, gate, shift, scale, eps)
    assert torch.equal(fused[0], total)
    assert torch.equal(fused[1], REFERENCE.modulate(total, shift, scale, eps))
    weight, bias = shift[0, 0], scale[0, 0]
    plain, normed = REFERENCE.gate_add_layer_norm(x, branch, None, weight, bias, eps)
    assert torch.equal(plain, x + branch)
    assert torch.equal(normed, torch.nn.functional.layer_norm(x + branch, (20,), weight, bias, eps))


@pytest.mark.parametrize("has_sinks", [False, True])
def test_keys_and_values_go_to_their_slots_and_nowhere_else(
    interpreter: Interpreter, has_sinks: bool
) -> None:
    """Six tokens of a packed projection into a ring that wraps; the heads are no power of two."""
    q, k, v = draw(2, 6, 3 * 20, seed=1).split(20, dim=-1)
    weights = draw(2, 20, seed=2)
    table, sinks = draw_table(6, 10), draw_table(1, 10) if has_sinks else None
    slots = torch.tensor([7, 8, 0, 1, 2, 4])
    rings = [draw(2, 9, 2, 10, seed=seed) for seed in (3, 4)]
    copies = [ring.clone() for ring in rings]
    inputs = (q, k, v, *weights, table, 1e-6)
    expected = REFERENCE.qk_norm_rope_write(*inputs, *rings, slots, sinks)
    out = interpreter.ops().qk_norm_rope_write(*inputs, *copies, slots, sinks)
    assert_equal(out, expected)
    assert_equal(copies, rings)
    untouched = [3, 5, 6]
    for seed, ring in zip((3, 4), copies, strict=True):
        assert torch.equal(ring[:, untouched], draw(2, 9, 2, 10, seed=seed)[:, untouched])


def test_the_write_is_the_norm_and_the_copy() -> None:
    q, k, v = draw(3, 1, 4, 12, seed=1).unbind(0)
    weight, table, sinks = draw(12, seed=2), draw_table(4, 6), draw_table(1, 6)
    ring_k, ring_v, slots = torch.zeros(1, 5, 2, 6), torch.zeros(1, 5, 2, 6), torch.arange(1, 5)
    queries, sink_queries = REFERENCE.qk_norm_rope_write(
        q, k, v, weight, weight, table, 1e-6, ring_k, ring_v, slots, sinks
    )
    expected_q, expected_k = REFERENCE.qk_norm_rope(q, k, weight, weight, table, 1e-6)
    assert torch.equal(queries, expected_q)
    assert torch.equal(ring_k[:, 1:], expected_k)
    assert torch.equal(ring_v[:, 1:], v.view(1, 4, 2, 6))
    assert torch.equal(sink_queries, REFERENCE.rotate(queries, sinks))


def test_one_row_of_a_table_turns_all_tokens(interpreter: Interpreter) -> None:
    x, table = draw(2, 6, 3, 10, seed=1), draw_table(1, 10)
    assert_equal(interpreter.ops().rotate(x, table), REFERENCE.rotate(x, table))


def test_gelu_stays_finite_far_out(interpreter: Interpreter) -> None:
    x, bias = torch.tensor([[-1e4, -50.0, -1.0, 0.0, 1.0, 50.0, 1e4]]), torch.zeros(7)
    assert_equal(interpreter.call("gelu_triton.bias_gelu", x, bias), bias_gelu(x, bias))


def test_the_epilogue_of_the_library_is_refused_where_its_gelu_is_another() -> None:
    x, weight, bias = torch.ones(2, 4), torch.ones(3, 4), torch.ones(3)
    with pytest.raises(RuntimeError, match="the epilogue is cuBLASLt's, x is on cpu"):
        linear_gelu_epilogue(x, weight, bias)


def test_linear_gelu_is_the_module_that_models_were_trained_with() -> None:
    layer = torch.nn.Sequential(torch.nn.Linear(12, 20), torch.nn.GELU(approximate="tanh"))
    x = draw(2, 5, 12, seed=1)
    assert torch.equal(linear_gelu(x, layer[0].weight, layer[0].bias), layer(x))


# A row of a linear map, and heads of a cache, of which several go to one program.
@pytest.mark.parametrize("shape", [(3, 96), (2, 3, 2, 20), (1, 64)])
def test_integers_are_those_of_the_reference(
    interpreter: Interpreter, shape: tuple[int, ...]
) -> None:
    x = 5.0 * draw(*shape, seed=1)
    codes, scales = interpreter.ops().quantise_rows(x, "int8")
    expected_codes, expected_scales = quantise_rows(x, "int8")
    assert torch.equal(codes, expected_codes)
    assert_equal(scales, expected_scales, atol=1e-7)
    assert codes.abs().amax(-1).eq(127).all()


@pytest.mark.parametrize("shape", [(3, 96), (2, 3, 20)])
def test_the_gelu_is_taken_before_the_rounding(
    interpreter: Interpreter, shape: tuple[int, ...]
) -> None:
    x = 3.0 * draw(*shape, seed=1)
    codes, scales = interpreter.ops().gelu_quantise_rows(x, "int8")
    wanted = torch.nn.functional.gelu(x, approximate="tanh")
    assert_equal(scales, quantise_rows(wanted, "int8")[1], atol=1e-7)
    # A number that lies between two codes may go to either.
    back = dequantise_rows(codes, scales, torch.float32)
    assert ((back - wanted).abs() <= 0.51 * scales.unsqueeze(-1)).all()
    codes, scales = REFERENCE.gelu_quantise_rows(x, "int8")
    assert torch.equal(codes, quantise_rows(wanted, "int8")[0])


def test_ties_are_rounded_to_even(interpreter: Interpreter) -> None:
    x = torch.tensor([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5, 0.0, 3.0]])
    expected = torch.tensor([[127, 0, 2, 2, 0, -2, 0, 3]], dtype=torch.int8)
    assert torch.equal(quantise_rows(x, "int8")[0], expected)
    assert torch.equal(interpreter.ops().quantise_rows(x, "int8")[0], expected)


def test_fp8_scales_are_those_of_the_reference(interpreter: Interpreter) -> None:
    """The interpreter rounds fp8 in a way of its own, so codes are compared to a step or two."""
    x = 5.0 * draw(4, 40, seed=1)
    codes, scales = interpreter.ops().quantise_rows(x, "fp8")
    expected_codes, expected_scales = quantise_rows(x, "fp8")
    assert codes.dtype == torch.float8_e4m3fn
    assert_equal(scales, expected_scales, atol=1e-7)
    assert_equal(codes.float() / 448, expected_codes.float() / 448, atol=64 / 448)


@pytest.mark.parametrize(("kind", "step"), [("int8", 1 / 127), ("fp8", 1 / 8)])
def test_quantised_rows_come_back_to_half_a_step(kind: Any, step: float) -> None:
    x = torch.cat([draw(5, 64, seed=1), 1e4 * draw(1, 64, seed=2), torch.zeros(1, 64)])
    back = dequantise_rows(*quantise_rows(x, kind), torch.float32)
    # Integers have steps of the row's largest number, fp8 of each number.
    size = x.abs() if kind == "fp8" else x.abs().amax(-1, keepdim=True)
    floor = x.abs().amax(-1, keepdim=True) * 2.0**-18
    assert ((back - x).abs() <= 0.51 * step * size + floor).all()


@pytest.mark.parametrize("kind", ["int8", "fp8"])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_is_never_hidden(
    interpreter: Interpreter, kind: Any, bad: float
) -> None:
    x = draw(2, 8, seed=1)
    x[1, 3] = bad
    for call in (quantise_rows, interpreter.ops().quantise_rows):
        scales = call(x, kind)[1]
        assert scales[0].isfinite()
        assert not scales[1].isfinite()


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="kind is 'int4', expected one of 'int8', 'fp8'"):
        quantise_rows(torch.ones(1, 2), "int4")  # type: ignore[arg-type]


@pytest.mark.parametrize(("kind", "error"), [("int8", 0.02), ("fp8", 0.06)])
def test_a_linear_map_of_quantised_rows_is_near_the_exact_one(kind: Any, error: float) -> None:
    x, weight, bias = draw(7, 96, seed=1), draw(20, 96, seed=2), draw(20, seed=3)
    out = scaled_linear(*quantise_rows(x, kind), *quantise_rows(weight, kind), bias, torch.float32)
    exact = torch.nn.functional.linear(x, weight, bias)
    assert float((out - exact).norm() / exact.norm()) < error


# Columns that end inside a program's share, and rows whose colour planes end inside a row.
@pytest.mark.parametrize("size", [(2, 6, 38), (1, 8, 32), (1, 2, 2)])
def test_planes_are_the_bytes_of_the_reference(
    interpreter: Interpreter, size: tuple[int, int, int]
) -> None:
    generator = torch.Generator().manual_seed(1)
    pictures = torch.randint(256, (*size, 3), generator=generator).to(torch.uint8)
    assert torch.equal(interpreter.ops().to_i420(pictures), to_i420(pictures))


def test_colours_have_the_codes_of_the_recommendation() -> None:
    """ITU-R BT.601 with limited range: white, black, and 100 % red, green and blue."""
    colours = [(255, 255, 255), (0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255)]
    pictures = torch.tensor(colours, dtype=torch.uint8)[:, None, None].expand(-1, 2, 2, -1)
    planes = to_i420(pictures).flatten(1)[:, [0, 4, 5]].tolist()
    assert planes == [[235, 128, 128], [16, 128, 128], [81, 90, 240], [145, 54, 34], [41, 240, 110]]


def test_planes_lie_where_the_encoder_reads_them() -> None:
    av = pytest.importorskip("av")
    pictures = torch.zeros(1, 4, 6, 3, dtype=torch.uint8)
    pictures[0, :2, 4:] = 255
    frame = av.VideoFrame.from_ndarray(to_i420(pictures)[0].numpy(), format="yuv420p")
    back = torch.from_numpy(frame.to_ndarray(format="rgb24"))
    assert (back[:2, 4:] > 250).all()
    assert (back[:2, :4] < 5).all()
    assert (back[2:] < 5).all()


@pytest.mark.parametrize("size", [(1, 3, 4, 3), (1, 4, 3, 3), (4, 4, 3), (1, 4, 4, 4)])
def test_pictures_that_do_not_halve_are_refused(size: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"both must be even|expected torch\.uint8"):
        to_i420(torch.zeros(size, dtype=torch.uint8))


@pytest.mark.parametrize("name", row_arguments(32, 1))
def test_a_kernel_refuses_to_cut_a_gradient(name: str) -> None:
    first, *rest = row_arguments(32, 1)[name]
    with pytest.raises(RuntimeError, match=f"the triton {name} has no backward pass"):
        getattr(load_ops("triton"), name)(first.clone().requires_grad_(), *rest)


def refused(name: str, change: Callable[[list[Any]], None]) -> list[Any]:
    arguments = list(row_arguments(32, 3)[name])
    change(arguments)
    return arguments


def put(index: int, value: Any) -> Callable[[list[Any]], None]:
    def change(arguments: list[Any]) -> None:
        arguments[index] = value

    return change


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("modulate", put(1, torch.zeros(2, 4, 32)), "6 tokens do not split into 4 groups"),
        ("modulate", put(2, torch.zeros(2, 1, 32)), "scale is .2, 1, 32., expected .2, 3, 32."),
        ("modulate", put(0, torch.zeros(2, 32, 6).mT), "the last one must be 1"),
        ("modulate", put(0, torch.zeros(2, 6, 32).double()), "x is torch.float64"),
        ("gate_add", put(1, torch.zeros(2, 6, 32).half()), "branch is torch.float16"),
        ("gate_add_layer_norm", put(3, torch.zeros(31)), "weight is .31,., expected .32,."),
        ("rotate", put(1, torch.zeros(5, 8, 2)), "table is .5, 8, 2., expected .6, 8, 2."),
        ("rotate", put(1, torch.zeros(6, 8, 2).double()), "table is torch.float64"),
        ("qk_norm_rope", put(4, torch.zeros(6, 5, 2)), "32 wide, the table is for heads of 10"),
        ("linear_gelu", put(2, torch.zeros(69)), "bias is .69,., expected .70,."),
    ],
)
def test_a_kernel_refuses_what_it_cannot_read(
    interpreter: Interpreter, name: str, change: Callable[[list[Any]], None], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        getattr(interpreter.ops(), name)(*refused(name, change))
