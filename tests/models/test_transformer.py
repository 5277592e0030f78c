"""The transformer: published names, per-frame time, prompts made once, and its own sizes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from streamer.models.context import FullContext
from streamer.models.transformer import CausalWanTransformer, PromptKV, TransformerConfig

CONFIG = TransformerConfig(
    width=24,
    num_heads=2,
    ffn_width=32,
    num_layers=2,
    in_channels=3,
    out_channels=5,
    text_width=8,
    text_length=4,
    freq_width=16,
)
LAYER_NAMES = {
    "modulation",
    "norm3.weight",
    "norm3.bias",
    *(f"ffn.{i}.{kind}" for i in (0, 2) for kind in ("weight", "bias")),
    *(
        f"{attention}.{part}"
        for attention in ("self_attn", "cross_attn")
        for part in (
            *(f"{linear}.{kind}" for linear in "qkvo" for kind in ("weight", "bias")),
            "norm_q.weight",
            "norm_k.weight",
        )
    ),
}


@pytest.fixture(scope="module")
def network() -> CausalWanTransformer:
    torch.manual_seed(0)
    return CausalWanTransformer(CONFIG).requires_grad_(False)


@pytest.fixture(scope="module")
def text(network: CausalWanTransformer) -> PromptKV:
    return network.encode_text(torch.randn(2, 3, 8))


@pytest.mark.parametrize(
    ("config", "num_tensors", "num_parameters"),
    [
        (TransformerConfig.wan_1_3b(), 825, 1_418_996_800),
        (TransformerConfig.wan_14b(), 1095, 14_288_491_584),
    ],
)
def test_published_sizes(config: TransformerConfig, num_tensors: int, num_parameters: int) -> None:
    with torch.device("meta"):
        state = CausalWanTransformer(config).state_dict()
    assert len(state) == num_tensors
    assert sum(tensor.numel() for tensor in state.values()) == num_parameters


def test_parameter_names_are_the_published_ones(network: CausalWanTransformer) -> None:
    names = set(network.state_dict())
    outside = {
        f"{module}.{kind}"
        for module in (
            "patch_embedding",
            *(f"{embedding}_embedding.{i}" for embedding in ("text", "time") for i in (0, 2)),
            "time_projection.1",
            "head.head",
        )
        for kind in ("weight", "bias")
    } | {"head.modulation"}
    assert {name for name in names if not name.startswith("blocks.")} == outside
    for layer in range(2):
        prefix = f"blocks.{layer}."
        assert {n.removeprefix(prefix) for n in names if n.startswith(prefix)} == LAYER_NAMES


def test_patchify_is_the_convolution_with_the_same_weights(network: CausalWanTransformer) -> None:
    latents = torch.randn(2, 3, 3, 4, 6)
    expected = network.patch_embedding(latents.transpose(1, 2)).flatten(2).transpose(1, 2)
    torch.testing.assert_close(network.patchify(latents), expected, rtol=0, atol=1e-6)


def test_unpatchify_puts_channels_fastest(network: CausalWanTransformer) -> None:
    tokens = torch.arange(2 * 2 * 3 * 20.0).reshape(1, 12, 20)
    latents = network.unpatchify(tokens, rows=2, columns=3)
    assert latents.shape == (1, 2, 5, 4, 6)
    # Frame 1, token row 1, token column 2, patch row 0, patch column 1, channel 3.
    assert latents[0, 1, 3, 2, 5] == tokens[0, 6 + 3 + 2, 0 * 10 + 1 * 5 + 3]


def test_one_timestep_is_the_same_for_every_frame(
    network: CausalWanTransformer, text: PromptKV
) -> None:
    latents, timestep = torch.randn(2, 3, 3, 4, 6), torch.tensor([700.0, 20.0])
    flow = network(latents, timestep, text, FullContext())
    assert flow.shape == (2, 3, 5, 4, 6)
    per_frame = network(latents, timestep[:, None].expand(2, 3), text, FullContext())
    torch.testing.assert_close(per_frame, flow, rtol=0, atol=1e-6)
    other = network(latents, torch.tensor([[700.0, 20.0, 700.0]] * 2), text, FullContext())
    assert (other - flow).abs().max() > 1e-3


def test_missing_text_rows_are_zero_rows(network: CausalWanTransformer) -> None:
    short = torch.randn(1, 2, 8)
    long = torch.cat([short, torch.zeros(1, 2, 8)], dim=1)
    assert torch.equal(network.encode_text(short).k, network.encode_text(long).k)
    with pytest.raises(ValueError, match="5 rows, the model reads 4"):
        network.encode_text(torch.randn(1, 5, 8))


def test_a_prompt_is_overwritten_in_place(network: CausalWanTransformer, text: PromptKV) -> None:
    other = network.encode_text(torch.randn(2, 4, 8))
    kept = text.clone()
    addresses = (kept.k.data_ptr(), kept.v.data_ptr())
    kept.copy_(other)
    assert (kept.k.data_ptr(), kept.v.data_ptr()) == addresses
    latents, timestep = torch.randn(2, 1, 3, 4, 6), torch.tensor([500.0, 500.0])
    flows = [network(latents, timestep, prompt, FullContext()) for prompt in (kept, other, text)]
    assert torch.equal(flows[0], flows[1])
    assert not torch.equal(flows[0], flows[2])


def test_initial_weights_predict_nothing_and_can_learn() -> None:
    torch.manual_seed(0)
    network = CausalWanTransformer(CONFIG)
    network.initialise()
    text = network.encode_text(torch.randn(1, 4, 8))
    flow = network(torch.randn(1, 2, 3, 4, 6), torch.tensor([500.0]), text, FullContext())
    assert flow.abs().max() == 0.0
    (flow - torch.randn_like(flow)).square().sum().backward()
    assert network.head.head.weight.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"num_heads": 5}, "width 24 does not split into 5 heads"),
        ({"patch": (2, 2, 2)}, "within one latent frame"),
    ],
)
def test_impossible_sizes_are_refused(sizes: dict[str, object], message: str) -> None:
    known = {"width": 24, "num_heads": 2, "ffn_width": 32, "num_layers": 1}
    with pytest.raises(ValueError, match=message):
        TransformerConfig(**{**known, **sizes})


def test_latents_that_patches_do_not_tile_are_refused(
    network: CausalWanTransformer, text: PromptKV
) -> None:
    with pytest.raises(ValueError, match="5x6 do not divide into 2x2 patches"):
        network(torch.randn(2, 1, 3, 5, 6), torch.tensor([1.0, 1.0]), text, FullContext())


def test_a_learned_grid_tells_tokens_where_they_are_and_fits_one_size_only():
    torch.manual_seed(0)
    config = replace(CONFIG, learned_grid=(2, 3))
    plain, placed = CausalWanTransformer(CONFIG), CausalWanTransformer(config)
    missing = placed.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert missing == ["grid_embedding"]
    latents = torch.randn(1, 2, config.in_channels, 4, 6)
    text = plain.encode_text(torch.randn(1, config.text_length, config.text_width))
    time = torch.full((1,), 500.0)
    with torch.no_grad():
        before = plain(latents, time, text, FullContext())
        assert torch.equal(placed(latents, time, text, FullContext()), before)
        placed.grid_embedding.normal_()
        assert not torch.allclose(placed(latents, time, text, FullContext()), before)
    with pytest.raises(ValueError, match="one size only"):
        config.grid(4, 4)


def test_pooled_text_joins_the_time_and_begins_without_effect():
    torch.manual_seed(0)
    plain = CausalWanTransformer(CONFIG)
    pooled = CausalWanTransformer(replace(CONFIG, pooled_text=True))
    pooled.initialise()
    missing = pooled.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert {name.split(".")[0] for name in missing} == {"text_pooling"}
    latents, time = torch.randn(2, 2, CONFIG.in_channels, 4, 6), torch.full((2,), 500.0)
    embeds = torch.randn(2, CONFIG.text_length, CONFIG.text_width)
    with torch.no_grad():
        before = plain(latents, time, plain.encode_text(embeds), FullContext())
        text = pooled.encode_text(embeds)
        assert torch.equal(pooled(latents, time, text, FullContext()), before)
        pooled.text_pooling[-1].weight.normal_()
        text.copy_(pooled.encode_text(embeds))
        after = pooled(latents, time, text, FullContext())
        assert not torch.allclose(after, before)
        alone = pooled(latents[1:], time[1:], pooled.encode_text(embeds[1:]), FullContext())
        torch.testing.assert_close(after[1:], alone, atol=1e-5, rtol=1e-5)
    assert text.clone().pooled is not text.pooled
