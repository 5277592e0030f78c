"""UMT5: both layouts load, padding is masked and zeroed, parked weights give the same rows."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn

from streamer.errors import ConfigError, WeightsError
from streamer.models.checkpoints.layouts import umt5_from_original
from streamer.models.umt5 import (
    FileTokenizer,
    UMT5Sizes,
    UMT5TextEncoder,
    build_umt5,
    find_tokenizer,
    load_umt5,
)

SIZES = UMT5Sizes(
    vocabulary=12, width=16, num_layers=2, num_heads=2, head_width=8, ffn_width=24, num_buckets=32
)
WORDS = ["<pad>", "</s>", "<unk>", "a", "red", "balloon", "over", "hills", "&", "night"]
LENGTH = 6


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return build_umt5(SIZES)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder as Wan publishes it, but for the weights."""
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, "<unk>"))
    words.normalizer = normalizers.Lowercase()
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    place = tmp_path / "google" / "umt5-xxl"
    place.mkdir(parents=True)
    words.save(str(place / "tokenizer.json"))
    return tmp_path


def state(network: nn.Module) -> dict[str, Tensor]:
    tensors = dict(network.state_dict())
    del tensors["encoder.embed_tokens.weight"]
    return {name: tensor.clone() for name, tensor in tensors.items()}


def original_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Under the names of Wan's own file."""
    theirs = {}
    for layer in range(SIZES.num_layers):
        for name in (
            *("norm1.weight", "norm2.weight", "pos_embedding.embedding.weight"),
            *(f"attn.{part}.weight" for part in "qkvo"),
            *(f"ffn.{part}.weight" for part in ("gate.0", "fc1", "fc2")),
        ):
            theirs[f"blocks.{layer}.{name}"] = umt5_from_original(f"blocks.{layer}.{name}")
    theirs |= {"token_embedding.weight": "shared.weight"}
    theirs |= {"norm.weight": "encoder.final_layer_norm.weight"}
    return {name: tensors[str(ours)] for name, ours in theirs.items()}


def encode(weights: Path, folder: Path, text: str, *, is_parked: bool = False) -> Tensor:
    encoder = load_umt5(
        weights, folder, dtype=torch.float32, text_length=LENGTH, is_parked=is_parked
    )
    assert (encoder.text_length, encoder.text_width) == (LENGTH, SIZES.width)
    return encoder.encode([text])


def test_both_layouts_and_parked_weights_give_the_same_rows(network: nn.Module, folder: Path):
    tensors = state(network)
    torch.save(original_names(tensors), folder / "models_t5_umt5-xxl-enc-bf16.pth")
    hub = folder / "text_encoder"
    hub.mkdir()
    save_file(tensors, hub / "model.safetensors")
    one = encode(folder / "models_t5_umt5-xxl-enc-bf16.pth", folder, "a red balloon")
    assert torch.equal(encode(hub, folder, "a red balloon"), one)
    assert torch.equal(encode(hub, folder, "a red balloon", is_parked=True), one)


def test_rows_behind_the_end_token_are_zero_and_padding_is_not_seen(
    network: nn.Module, folder: Path
):
    encoder = UMT5TextEncoder(network, FileTokenizer(folder, LENGTH), text_length=LENGTH)
    rows = encoder.encode(["a red balloon", "night"])
    assert rows.shape == (2, LENGTH, SIZES.width)
    assert (rows[0, :4] != 0).any(dim=1).all()
    assert not rows[0, 4:].any()
    assert not rows[1, 2:].any()
    longer = UMT5TextEncoder(network, FileTokenizer(folder, 2 * LENGTH), text_length=2 * LENGTH)
    torch.testing.assert_close(longer.encode(["night"])[:, :LENGTH], rows[1:], atol=1e-6, rtol=0)


def test_prompts_are_cleaned_before_they_are_read(network: nn.Module, folder: Path):
    encoder = UMT5TextEncoder(network, FileTokenizer(folder, LENGTH), text_length=LENGTH)
    dirty, clean = encoder.encode(["  a \n &amp;amp;\u3000red ", "a & red"])
    assert torch.equal(dirty, clean)


def test_a_long_prompt_keeps_its_end_token(folder: Path):
    tokens, mask = FileTokenizer(folder, LENGTH)(["a red balloon over hills a a a", "red"])
    assert tokens.tolist() == [[3, 4, 5, 6, 7, 1], [4, 1, 0, 0, 0, 0]]
    assert mask.tolist() == [[1] * 6, [1, 1, 0, 0, 0, 0]]


def test_parked_weights_go_home_after_each_visit(network: nn.Module, folder: Path):
    tensors = state(network)
    torch.manual_seed(0)
    parked = build_umt5(SIZES)
    before = {name: parameter.data_ptr() for name, parameter in parked.named_parameters()}
    encoder = UMT5TextEncoder(
        parked, FileTokenizer(folder, LENGTH), text_length=LENGTH, is_parked=True
    )
    encoder.encode(["a red balloon"])
    assert {name: p.data_ptr() for name, p in parked.named_parameters()} == before
    for name, tensor in tensors.items():
        assert torch.equal(parked.state_dict()[name], tensor)


def test_a_missing_tokenizer_or_package_is_named(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with pytest.raises(WeightsError, match=r"no tokenizer; looked for tokenizer\.json"):
        find_tokenizer(tmp_path / "google")
    path = find_tokenizer(folder)
    path.write_text("{")
    with pytest.raises(WeightsError, match=r"tokenizer\.json: damaged"):
        FileTokenizer(folder)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match=r'pip install "streamer\[wan\]"'):
        build_umt5(SIZES)
