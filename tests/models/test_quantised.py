"""Eight-bit layers: near to the real ones, and the known parts of the model left alone."""

import pytest
import torch
from streamer_kernels import load_ops

from streamer.models.quantised import EightBitLinear, psnr_db, quantise
from streamer.models.transformer import CausalWanTransformer, TransformerConfig

OPS = load_ops("torch")
CONFIG = TransformerConfig(
    width=32,
    num_heads=2,
    ffn_width=48,
    num_layers=4,
    in_channels=4,
    out_channels=4,
    text_width=8,
    text_length=5,
    freq_width=16,
)


@pytest.mark.parametrize(("kind", "error"), [("int8", 0.02), ("fp8", 0.05)])
def test_an_eight_bit_map_is_near_the_map(kind: str, error: float):
    torch.manual_seed(1)
    linear = torch.nn.Linear(64, 40).requires_grad_(False)
    # One token far louder than the others must not cost them their precision.
    x = torch.randn(2, 7, 64) * torch.tensor([1.0, 100.0, 1e-3, 1, 1, 1, 1])[:, None]
    linear.bias.zero_()
    out, right = EightBitLinear([linear], kind, OPS)(x), linear(x)  # type: ignore[arg-type]
    assert out.shape == right.shape
    off = (out - right).norm(dim=-1) / right.norm(dim=-1)
    assert off.max() < error
    assert off.max() > 1e-4  # it is rounded indeed


def test_several_maps_become_one():
    maps = [torch.nn.Linear(16, width).requires_grad_(False) for width in (8, 24)]
    x = torch.randn(3, 16)
    out = EightBitLinear(maps, "int8", OPS)(x)
    torch.testing.assert_close(out, torch.cat([m(x) for m in maps], -1), rtol=0, atol=0.03)


def test_the_gelu_of_a_feed_forward_is_taken_while_it_is_rounded():
    torch.manual_seed(1)
    linear = torch.nn.Linear(64, 40).requires_grad_(False)
    x = torch.randn(3, 64)
    gelu = torch.nn.functional.gelu(x, approximate="tanh")
    out = EightBitLinear([linear], "int8", OPS, takes_gelu=True)(x)
    assert torch.equal(out, EightBitLinear([linear], "int8", OPS)(gelu))
    transformer = CausalWanTransformer(CONFIG).requires_grad_(False)
    gelu = torch.nn.functional.gelu(torch.ones(48), approximate="tanh")
    whole = transformer.blocks[1].ffn[2](gelu)
    quantise(transformer, "int8", OPS)
    ffn = transformer.blocks[1].ffn
    torch.testing.assert_close(ffn[2](ffn[1](torch.ones(1, 48)))[0], whole, rtol=0, atol=0.05)


def test_first_and_last_layer_and_all_that_reads_text_stay():
    transformer = CausalWanTransformer(CONFIG).requires_grad_(False)
    kept = {
        name: tensor.clone()
        for name, tensor in transformer.state_dict().items()
        if not name.startswith(("blocks.1.", "blocks.2.")) or "cross_attn.k" in name
        or "cross_attn.v" in name
    }  # fmt: skip
    assert quantise(transformer, "int8", OPS) == 2 * 8
    after = transformer.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in kept.items())
    assert after["blocks.1.ffn.0.codes"].dtype == torch.int8
    assert "blocks.1.self_attn.q.weight" not in after


def test_psnr_is_that_of_pictures_in_0_to_1():
    wanted = torch.full((2, 3), 0.5)
    assert psnr_db(wanted + 0.1, wanted) == pytest.approx(20.0, abs=1e-4)
    assert psnr_db(wanted, wanted) == float("inf")
    assert psnr_db(wanted * torch.nan, wanted) == float("-inf")
