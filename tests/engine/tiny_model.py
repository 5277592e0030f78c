"""A tiny model with random weights, whole in every part.

`make_tiny_config(folder)` writes transformer, decoder and text encoder into the folder and returns
the configuration that runs them.  The pictures mean nothing, but every layer moves them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

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
