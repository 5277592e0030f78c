"""A Wan folder in small: every file that a run of LightX2V finds in its model path, whole."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from streamer.models.checkpoints.layouts import umt5_from_original
from streamer.models.transformer import TransformerConfig
from streamer.models.umt5 import UMT5Sizes, build_umt5
from streamer.models.wan_vae import WanVAE, WanVAEConfig
from tests.models.published import tiny, write_shards

SIZES = {
    "dim": 32,
    "num_heads": 2,
    "num_layers": 2,
    "ffn_dim": 48,
    "text_dim": 16,
    "freq_dim": 16,
    "text_len": 512,
}
WORDS = ("<pad>", "</s>", "<unk>", "a", "red", "balloon", "over", "green", "hills", "blurry")
UMT5_PARTS = (
    *(f"attn.{part}" for part in "qkvo"),
    *(f"ffn.{part}" for part in ("gate.0", "fc1", "fc2")),
    "norm1",
    "norm2",
    "pos_embedding.embedding",
)


def make_wan_folder(folder: Path) -> Path:
    """Write teacher, causal model, VAE, text encoder and tokenizer; always the same numbers."""
    config = TransformerConfig(
        width=32,
        num_heads=2,
        ffn_width=48,
        num_layers=2,
        text_width=16,
        text_length=512,
        freq_width=16,
    )
    write_shards(dict(tiny(1, config).state_dict()), folder)
    about = {"_class_name": "WanModel", "model_type": "t2v", **SIZES}
    (folder / "config.json").write_text(json.dumps(about))
    (folder / "causvid_models").mkdir()
    torch.save(tiny(2, config).state_dict(), folder / "causvid_models" / "causal_model.pt")
    torch.manual_seed(3)
    torch.save(WanVAE(WanVAEConfig(width=8)).state_dict(), folder / "Wan2.1_VAE.pth")
    torch.save(_umt5(), folder / "models_t5_umt5-xxl-enc-bf16.pth")
    _tokenizer(folder / "google" / "umt5-xxl")
    return folder


def _umt5() -> dict[str, torch.Tensor]:
    """A tiny UMT5 under the names of Wan's own file."""
    torch.manual_seed(4)
    ours = build_umt5(UMT5Sizes(len(WORDS), 16, 2, 2, 8, 32, 32)).state_dict()
    names = ["token_embedding.weight", "norm.weight"]
    names += [f"blocks.{layer}.{part}.weight" for layer in range(2) for part in UMT5_PARTS]
    return {name: ours[umt5_from_original(name) or ""].clone() for name in names}


def _tokenizer(folder: Path) -> None:
    folder.mkdir(parents=True)
    made = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    made.pre_tokenizer = Whitespace()
    made.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    made.add_special_tokens(["<pad>", "</s>", "<unk>"])
    made.save(str(folder / "tokenizer.json"))
