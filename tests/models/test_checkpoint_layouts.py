"""Names of published checkpoints: every known list, translated and compared with our modules."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from streamer.config import configs_dir, load_config
from streamer.models.checkpoints import layouts, lora_names
from streamer.models.transformer import CausalWanTransformer, TransformerConfig

KNOWN = json.loads(
    (Path(__file__).parents[1] / "data" / "checkpoint_keys.json").read_text(encoding="utf-8")
)


def published(name: str) -> dict[str, tuple[int, ...]]:
    """A list of published tensors with their shapes; blocks are written once in the data."""
    about = KNOWN["lists"][name]
    unfolded = {
        key.replace("*", str(layer)): tuple(shape)
        for key, shape in about["tensors"].items()
        for layer in range(about["num_layers"] if "*" in key else 1)
    }
    assert len(unfolded) == about["num_tensors"]
    assert sum(torch.Size(shape).numel() for shape in unfolded.values()) == about["num_parameters"]
    return unfolded


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("wan2.1_t2v_1.3b", TransformerConfig.wan_1_3b()),
        ("wan2.1_t2v_14b", TransformerConfig.wan_14b()),
    ],
)
def test_the_transformers_tensors_are_the_published_ones(name: str, config: TransformerConfig):
    with torch.device("meta"):
        model = CausalWanTransformer(config)
    assert {k: tuple(t.shape) for k, t in model.state_dict().items()} == published(name)


@pytest.mark.parametrize(
    "path",
    [p for p in sorted(configs_dir().glob("*.json")) if p.stem not in ("pattern", "storybook")],
    ids=lambda path: path.stem,
)
def test_every_shipped_configuration_builds_the_published_tensors(path: Path):
    section = load_config(path).model.transformer
    with torch.device("meta"):
        model = CausalWanTransformer(TransformerConfig.of(section))
    size = {1536: "1.3b", 5120: "14b"}[section.width]
    built = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert built == published(f"wan2.1_t2v_{size}")


def test_diffusers_transformer_names_are_translated():
    for ours, theirs in KNOWN["maps"]["map_wan_to_diffusers_1.3b"].items():
        assert layouts.transformer_from_diffusers(theirs) == ours
        module, leaf = layouts.split_leaf(ours)
        assert layouts.transformer_module_to_diffusers(module) + leaf == theirs


def test_diffusers_vae_names_are_translated():
    pairs = KNOWN["maps"]["map_vae_to_diffusers"]
    assert {layouts.vae_from_diffusers(theirs) for theirs in pairs.values()} == set(pairs)
    for ours, theirs in pairs.items():
        assert layouts.vae_from_diffusers(theirs) == ours


def test_original_umt5_names_are_translated():
    for theirs, ours in KNOWN["maps"]["map_umt5_to_transformers"].items():
        assert layouts.umt5_from_original(theirs) == ours


@pytest.mark.parametrize(("stored", "wanted"), KNOWN["prefixes"].items())
def test_wrappers_and_prefixes_are_removed(stored: str, wanted: str | None):
    assert layouts.canonical(stored) == wanted


@pytest.mark.parametrize(
    "translate",
    [
        layouts.transformer_from_diffusers,
        layouts.vae_from_diffusers,
        layouts.umt5_from_original,
        layouts.transformer_module_to_diffusers,
    ],
)
def test_foreign_names_are_not_translated(translate: layouts.Translate):
    for name in ("", "blocks.0.nonsense.weight", "encoder.down_blocks", "decoder.up_blocks.9.x"):
        assert translate(name) is None


MODULES = {
    name.rsplit(".", 1)[0].replace(".", "_"): name.rsplit(".", 1)[0]
    for name in published("wan2.1_t2v_1.3b")
}


@pytest.mark.parametrize(
    "prefix", ["base_model.model.", "base_model.model.model.", "diffusion_model.", "transformer."]
)
def test_the_longlive_loras_targets_are_all_found(prefix: str):
    for stored in published("longlive_lora_1.3b"):
        module, part = lora_names.split_part(stored) or ("", "")
        found = lora_names.target(module.replace("base_model.model.", prefix), MODULES)
        assert found == module.removeprefix("base_model.model.")
        assert part in ("down", "up")


@pytest.mark.parametrize(
    ("stored", "ours", "part"),
    [
        ("transformer.blocks.7.attn1.to_out.0.lora_A.weight", "blocks.7.self_attn.o", "down"),
        ("transformer.blocks.7.attn2.to_k.lora_B.weight", "blocks.7.cross_attn.k", "up"),
        ("transformer.blocks.7.ffn.net.0.proj.lora_B.default.weight", "blocks.7.ffn.0", "up"),
        ("diffusion_model.blocks.7.ffn.2.lora_down.weight", "blocks.7.ffn.2", "down"),
        ("diffusion_model.time_projection.1.diff_b", "time_projection.1", "diff_b"),
        ("diffusion_model.blocks.7.norm3.diff", "blocks.7.norm3", "diff"),
        ("lora_unet_blocks_7_self_attn_q.lora_up.weight", "blocks.7.self_attn.q", "up"),
        ("lora_unet_blocks_7_cross_attn_v.alpha", "blocks.7.cross_attn.v", "alpha"),
        ("lora_unet_blocks_7_attn2_to_out_0.lora_up.weight", "blocks.7.cross_attn.o", "up"),
        ("condition_embedder.text_embedder.linear_1.lora.up.weight", "text_embedding.0", "up"),
    ],
)
def test_a_loras_target_is_found_under_every_naming(stored: str, ours: str, part: str):
    split = lora_names.split_part(stored)
    assert split is not None
    assert lora_names.target(split[0], MODULES) == ours
    assert split[1] == part
