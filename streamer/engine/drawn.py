"""Parts of a model with random weights, for benchmarks: as large and as slow as real ones.

Their pictures mean nothing.  Our own decoder is read from its files, which ship with it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from streamer.config import DecoderSection, ModelSection, weights_path
from streamer.models.decoders import load_folded
from streamer.models.tiny_vae import TAEW2_1, TinyVAE
from streamer.models.transformer import CausalWanTransformer, TransformerConfig
from streamer.models.vae import VideoVAE
from streamer.models.wan_vae import WanVAE, WanVAEConfig

SPREAD = 0.02
LIGHTVAE_WIDTH = 24
SEED = 5


class DrawnText:
    """Random rows in the place of a text encoder; the same rows for the same text."""

    def __init__(self, text_length: int, text_width: int) -> None:
        self.text_length = text_length
        self.text_width = text_width

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Encode prompts: float32 [B, text_length, text_width], on the host."""
        rows = []
        for text in texts:
            seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")
            generator = torch.Generator().manual_seed(seed)
            rows.append(torch.randn(self.text_length, self.text_width, generator=generator))
        return torch.stack(rows) * SPREAD


def draw_transformer(model: ModelSection, device: torch.device) -> CausalWanTransformer:
    """A transformer of the sizes that the configuration asks for."""
    sizes, dtype = TransformerConfig.of(model.transformer), getattr(torch, model.transformer.dtype)
    with torch.device("meta"):
        transformer = CausalWanTransformer(sizes)
    return cast(CausalWanTransformer, _drawn(transformer, device, dtype))


def draw_decoder(section: DecoderSection, device: torch.device, dtype: torch.dtype) -> VideoVAE:
    """An autoencoder of the kind that the configuration asks for."""
    if section.kind == "tiny":
        return load_folded(weights_path(section.weights), device)
    if section.dtype is not None:
        dtype = getattr(torch, section.dtype)
    with torch.device("meta"):
        if section.kind == "taehv":
            vae: TinyVAE | WanVAE = TinyVAE(TAEW2_1)
        elif section.kind == "lightvae":
            vae = WanVAE(WanVAEConfig(width=LIGHTVAE_WIDTH))
        else:
            vae = WanVAE(WanVAEConfig())
    _drawn(vae, device, dtype)
    return vae


@torch.no_grad()
def _drawn(module: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """Fill a module of the meta device: norms scale by one, biases are zero, the rest is small."""
    module.to_empty(device=device).to(dtype)
    generator = torch.Generator(device).manual_seed(SEED)
    for name, tensor in module.state_dict(keep_vars=True).items():
        if not tensor.is_floating_point():
            tensor.zero_()
        elif tensor.ndim > 1 and tensor.numel() > max(tensor.shape):
            tensor.normal_(std=SPREAD, generator=generator)
        elif name.endswith(("weight", "gamma")):
            tensor.fill_(1.0)
        else:
            tensor.zero_()
    return module.eval().requires_grad_(False)
