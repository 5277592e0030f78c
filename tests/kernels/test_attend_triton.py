"""The Triton attend against the reference, in the interpreter."""

from __future__ import annotations

import sys
from dataclasses import fields

import pytest
import torch
from streamer_kernels import Ops, load_ops
from streamer_kernels.attend import attend
from streamer_kernels.attend_triton import padded_width, pick_tile
from torch import Tensor

from streamer.models.cache import RingLayout
from streamer.models.rolling import RollingContext
from streamer.models.transformer import CausalWanTransformer, TransformerConfig
from tests.kernels.interpreter import Interpreter

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Triton is made for Linux only")

# Another order of the same float32 sums over at most 80 slots.
ROUNDING = 5e-6


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def draw_case(
    num_tokens: int, num_slots: int, head_width: int, batch: int = 2
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """q, q_sink, k, v with two heads."""
    tokens, slots = (batch, num_tokens, 2, head_width), (batch, num_slots, 2, head_width)
    return draw(*tokens, seed=1), draw(*tokens, seed=2), draw(*slots, seed=3), draw(*slots, seed=4)


def assert_equal(out: Tensor, expected: Tensor, atol: float = ROUNDING) -> None:
    torch.testing.assert_close(out, expected, rtol=0, atol=atol)


# Tiles are 32x32 here: a ring that is filling, one that is full, an exact number of tiles, lengths
# that end inside a tile, a single slot.
@pytest.mark.parametrize("head_width", [32, 64])
@pytest.mark.parametrize(
    ("num_tokens", "num_slots", "num_valid"),
    [(37, 75, 41), (33, 75, 75), (32, 64, 64), (5, 64, 32), (1, 3, 1)],
)
def test_reads_exactly_the_valid_slots(
    interpreter: Interpreter,
    num_tokens: int,
    num_slots: int,
    num_valid: int,
    head_width: int,
) -> None:
    q, _, k, v = draw_case(num_tokens, num_slots, head_width)
    expected = attend(q, k, v, num_valid)
    k[:, num_valid:], v[:, num_valid:] = torch.nan, torch.nan
    assert_equal(interpreter.attend(q, k, v, num_valid), expected)


# Sinks inside the first tile, on its edge and past it; a window that ends with the sinks.
@pytest.mark.parametrize("head_width", [32, 64])
@pytest.mark.parametrize(
    ("num_tokens", "num_valid", "num_sink"),
    [(7, 70, 5), (33, 66, 32), (7, 75, 35), (5, 40, 40), (9, 33, 1)],
)
def test_scores_sinks_with_their_own_query(
    interpreter: Interpreter,
    num_tokens: int,
    num_valid: int,
    num_sink: int,
    head_width: int,
) -> None:
    q, q_sink, k, v = draw_case(num_tokens, 75, head_width)
    expected = attend(q, k, v, num_valid, q_sink, num_sink)
    k[:, num_valid:], v[:, num_valid:] = torch.nan, torch.nan
    assert_equal(interpreter.attend(q, k, v, num_valid, q_sink, num_sink), expected)


def test_a_sink_query_without_sinks_changes_nothing(interpreter: Interpreter) -> None:
    q, q_sink, k, v = draw_case(5, 40, 32)
    assert_equal(interpreter.attend(q, k, v, 40, q_sink * torch.nan, 0), attend(q, k, v, 40))


def test_sinks_without_a_query_of_their_own_use_the_query(interpreter: Interpreter) -> None:
    q, _, k, v = draw_case(5, 40, 32)
    assert_equal(interpreter.attend(q, k, v, 40, None, 6), attend(q, k, v, 40))


@pytest.mark.parametrize("head_width", [6, 24])
def test_pads_heads_that_are_no_power_of_two(interpreter: Interpreter, head_width: int) -> None:
    q, q_sink, k, v = draw_case(5, 75, head_width)
    expected = attend(q, k, v, 70, q_sink, 9)
    assert_equal(interpreter.attend(q, k, v, 70, q_sink, 9), expected)


def test_reads_slices_of_packed_and_transposed_tensors(interpreter: Interpreter) -> None:
    q, q_sink, v = draw(2, 5, 3, 2, 32, seed=1).unbind(2)
    k = draw(2, 2, 40, 32, seed=2).transpose(1, 2)
    v = torch.cat([v] * 9, dim=1)[:, 2:42]
    assert not any(tensor.is_contiguous() for tensor in (q, k, v))
    assert_equal(interpreter.attend(q, k, v, 39, q_sink, 7), attend(q, k, v, 39, q_sink, 7))


def test_large_scores_do_not_overflow(interpreter: Interpreter) -> None:
    q, q_sink, k, v = draw_case(5, 70, 32)
    q, q_sink = 100 * q, 100 * q_sink
    # Scores near 1000 carry an error of 1e-4, which the exponential keeps.
    assert_equal(
        interpreter.attend(q, k, v, 70, q_sink, 9), attend(q, k, v, 70, q_sink, 9), atol=1e-3
    )


# One unit in the last place of results below 2: bfloat16 is truncated by the interpreter.
@pytest.mark.parametrize(("dtype", "ulp"), [(torch.float16, 1e-3), (torch.bfloat16, 8e-3)])
def test_sixteen_bit_inputs_are_summed_in_float32(
    interpreter: Interpreter, dtype: torch.dtype, ulp: float
) -> None:
    q, q_sink, k, v = (tensor.to(dtype) for tensor in draw_case(5, 70, 32))
    out = interpreter.attend(q, k, v, 70, q_sink, 9)
    assert out.dtype == dtype
    exact = attend(q.float(), k.float(), v.float(), 70, q_sink.float(), 9)
    assert_equal(out.float(), exact, atol=ulp)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_valid": 0}, "num_valid is 0, but the ring has 40 slots"),
        ({"num_valid": 41}, "num_valid is 41, but the ring has 40 slots"),
        ({"num_sink": 31}, "num_sink is 31, but only 30 slots are valid"),
        ({"k": torch.zeros(2, 32, 2, 40).transpose(1, 3)}, "k has strides .* the last one must"),
        ({"v": torch.zeros(2, 39, 2, 32)}, "v is .2, 39, 2, 32., expected .2, 40, 2, 32."),
        ({"q_sink": torch.zeros(2, 4, 2, 32)}, "q_sink is .2, 4, 2, 32., expected .2, 5, 2, 32."),
        ({"v": torch.zeros(2, 40, 2, 32).half()}, "v is torch.float16 on cpu, q is torch.float32"),
        ({"q": torch.zeros(2, 5, 2, 32).double()}, "q is torch.float64, expected one of"),
        ({"q": torch.zeros(5, 2, 32)}, "expected .B, N or S, A, D."),
    ],
)
def test_refuses_what_it_cannot_read(
    interpreter: Interpreter, change: dict[str, Tensor | int], message: str
) -> None:
    q, q_sink, k, v = draw_case(5, 40, 32)
    arguments = {"q": q, "k": k, "v": v, "num_valid": 30, "q_sink": q_sink, "num_sink": 3} | change
    with pytest.raises(ValueError, match=message):
        interpreter.attend(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["q", "k", "v", "q_sink"])
def test_refuses_to_cut_a_gradient(name: str) -> None:
    tensors = dict(zip(("q", "q_sink", "k", "v"), draw_case(2, 3, 16), strict=True))
    tensors[name].requires_grad_()
    with pytest.raises(RuntimeError, match="no backward pass"):
        load_ops("triton").attend(**tensors, num_valid=3, num_sink=1)


def test_refuses_a_processor_without_the_interpreter() -> None:
    q, _, k, v = draw_case(2, 3, 16)
    with pytest.raises(RuntimeError, match="runs on CUDA devices, q is on cpu"):
        load_ops("triton").attend(q, k, v, 3)


def test_refuses_a_sample_that_32_bit_offsets_do_not_span(interpreter: Interpreter) -> None:
    q, _, k, v = (tensor.to("meta") for tensor in draw_case(1, 3, 16, batch=1))
    far = torch.empty_strided(k.shape, (0, 2**30, 16, 1), device="meta")
    with pytest.raises(ValueError, match="k spans 2147483679 elements in a sample"):
        interpreter.attend(q, far, v, 3)


def test_every_operation_has_a_kernel_of_its_own() -> None:
    triton_ops = load_ops("triton")
    for field in fields(Ops):
        assert getattr(triton_ops, field.name).__module__.endswith("_triton"), field.name


CONFIG = TransformerConfig(
    width=48,
    num_heads=2,
    ffn_width=32,
    num_layers=2,
    in_channels=4,
    out_channels=4,
    text_width=8,
    text_length=5,
    freq_width=16,
)


def stream_blocks(ops: Ops) -> Tensor:
    """Four blocks of one frame through a ring of three with one sink: it wraps and sinks move."""
    torch.manual_seed(0)
    network = CausalWanTransformer(CONFIG, ops=ops).requires_grad_(False)
    # A new network ends in zeros, which would hide everything.
    for parameter in network.parameters():
        parameter.normal_(std=0.2)
    prompt = network.encode_text(draw(1, 3, CONFIG.text_width, seed=5))
    layout = RingLayout(3, 1, block=1)
    context = RollingContext(CONFIG.cache_shape(4, 6, batch=1), layout, ops=ops)
    flows = []
    for latents in torch.split(draw(1, 4, 4, 4, 6, seed=6), 1, dim=1):
        context.begin()
        flows.append(network(latents, torch.full((1, 1), 500.0), prompt, context))
        context.commit()
    return torch.cat(flows, dim=1)


def test_a_streaming_transformer_gives_the_same_blocks(interpreter: Interpreter) -> None:
    num_calls = interpreter.num_calls
    out = stream_blocks(interpreter.ops())
    assert interpreter.num_calls - num_calls >= 4 * CONFIG.num_layers
    expected = stream_blocks(load_ops("torch"))
    assert expected.std() > 0.1
    # Two layers of float32 rounding.
    assert_equal(out, expected, atol=1e-5 * float(expected.abs().max()))


def test_heads_wider_than_every_tile_are_refused() -> None:
    with pytest.raises(ValueError, match="heads are 256 wide, the largest tile is for 128"):
        pick_tile(2, padded_width(129), 90)


def test_before_hopper_a_ring_of_codes_has_a_tile_of_its_own() -> None:
    assert pick_tile(2, 128, 80, is_coded=True).queries < pick_tile(2, 128, 80).queries
    assert pick_tile(2, 128, 90, is_coded=True) == pick_tile(2, 128, 90)
