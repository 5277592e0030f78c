"""A tiny model with random weights, whole in every part.

`make_tiny_config(folder)` writes transformer, decoder and text encoder into the folder and returns
the configuration that runs them.  The pictures mean nothing, but every layer moves them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing

from streamer.config import Config, parse_config
from streamer.models.checkpoint import save_weights
from streamer.models.text import (
    Attribute,
    StorybookTextEncoder,
    TextEncoderConfig,
    WordTable,
    save_text_encoder,
)
from streamer.models.tiny_vae import TinyVAE, TinyVAEConfig, save_vae
from streamer.models.transformer import CausalWanTransformer, TransformerConfig
from streamer.models.umt5 import UMT5Sizes, build_umt5
from streamer.models.wan_vae import WanVAE, WanVAEConfig

TOKENS = (
    "<pad>",
    "</s>",
    "<unk>",
    "red",
    "blue",
    "balloon",
    "night",
    "sea",
    "hills",
    "the",
    "over",
)
WORDS = ("red", "green", "blue", "night", "snow", "hills", "balloon", "over", "a", "the", "sea")


def make_tiny_config(
    folder: Path,
    *,
    stream: dict[str, Any] | None = None,
    steps: Sequence[float] = (1000, 500),
    **transformer: int,
) -> Config:
    """Write weights into `folder` and return the configuration; the same weights every time.

    stream: keys of the configuration's stream section to change.  steps: denoising_step_list.
    transformer: sizes to change.
    """
    sizes = {"width": 24, "num_heads": 2, "num_layers": 2, "ffn_width": 48, "latent_channels": 4}
    sizes |= {"text_width": 16, "text_length": 4, "freq_width": 16} | transformer
    torch.manual_seed(3)
    _write_transformer(folder / "transformer.safetensors", sizes)
    _write_decoder(folder / "decoder", sizes["latent_channels"])
    _write_text(folder / "text.safetensors", sizes)
    return parse_config(
        {
            "name": "tiny",
            "family": "wan",
            "stream": {"width": 64, "height": 64} | (stream or {}),
            "model": {
                "transformer": sizes | {"weights": [str(folder / "transformer.safetensors")]},
                "sampler": {"denoising_step_list": list(steps), "warp": True},
                "decoder": {"weights": str(folder / "decoder")},
                "text": {"weights": str(folder / "text.safetensors")},
                "threads": 1,
            },
        },
        "tiny",
    )


def make_wan_config(
    folder: Path,
    *,
    stream: dict[str, Any] | None = None,
    sampler: dict[str, Any] | None = None,
    decoder: dict[str, Any] | None = None,
    text: dict[str, Any] | None = None,
) -> Config:
    """As `make_tiny_config`, with the parts that the published models have: a Wan VAE and UMT5.

    The keyword arguments change keys of the configuration's sections.
    """
    sizes = {"width": 24, "num_heads": 2, "num_layers": 2, "ffn_width": 48, "latent_channels": 16}
    sizes |= {"text_width": 16, "text_length": 6, "freq_width": 16}
    torch.manual_seed(3)
    _write_transformer(folder / "transformer.safetensors", sizes)
    vae = WanVAE(WanVAEConfig(width=2, blocks_per_stage=2))
    torch.save(vae.state_dict(), folder / "Wan2.1_VAE.pth")
    umt5 = build_umt5(UMT5Sizes(12, sizes["text_width"], 1, 2, 8, 16, 32)).state_dict()
    del umt5["encoder.embed_tokens.weight"]
    save_file({name: tensor.clone() for name, tensor in umt5.items()}, folder / "umt5.safetensors")
    words = Tokenizer(WordLevel({word: i for i, word in enumerate(TOKENS)}, "<unk>"))
    words.pre_tokenizer = WhitespaceSplit()
    words.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    words.save(str(folder / "tokenizer.json"))
    return parse_config(
        {
            "name": "tiny",
            "family": "wan",
            "stream": {"width": 64, "height": 64} | (stream or {}),
            "model": {
                "transformer": sizes | {"weights": [str(folder / "transformer.safetensors")]},
                "sampler": {"denoising_step_list": [1000, 500], "warp": True} | (sampler or {}),
                "decoder": {"kind": "wan", "weights": str(folder / "Wan2.1_VAE.pth")}
                | (decoder or {}),
                "text": {"kind": "umt5", "weights": str(folder / "umt5.safetensors")}
                | (text or {}),
                "threads": 1,
            },
        },
        "tiny",
    )


def _write_transformer(path: Path, sizes: dict[str, int]) -> None:
    config = TransformerConfig(
        width=sizes["width"],
        num_heads=sizes["num_heads"],
        ffn_width=sizes["ffn_width"],
        num_layers=sizes["num_layers"],
        in_channels=sizes["latent_channels"],
        out_channels=sizes["latent_channels"],
        text_width=sizes["text_width"],
        text_length=sizes["text_length"],
        freq_width=sizes["freq_width"],
    )
    save_weights(CausalWanTransformer(config).state_dict(), path, "float32")


def _write_decoder(path: Path, latent_channels: int) -> None:
    vae = TinyVAE(
        TinyVAEConfig(
            patch_size=2,
            latent_channels=latent_channels,
            encoder_channels=(4, 4, 4, 4),
            decoder_channels=(8, 8, 4, 4),
            blocks_per_stage=1,
            convs_per_block=1,
            growth="shuffle",
            frames_to_trim=0,
        )
    )
    torch.nn.init.constant_(vae.decoder[-1].bias, 0.5)
    save_vae(vae, path)


def _write_text(path: Path, sizes: dict[str, int]) -> None:
    config = TextEncoderConfig(
        attributes=(Attribute("colour", ("red", "green", "blue")),),
        text_length=sizes["text_length"],
        text_width=sizes["text_width"],
        word_width=8,
        num_layers=1,
        num_heads=2,
        feed_forward_width=16,
        num_free_codes=4,
    )
    words = WordTable.quantise(WORDS, torch.randn(len(WORDS), config.word_width))
    save_text_encoder(StorybookTextEncoder(config, words), path)
