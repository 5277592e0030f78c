"""Short streams of a network under training, drawn as rows of a sheet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from streamer.models.cache import RingLayout
from streamer.models.rolling import RollingContext
from streamer.models.sampler import DenoisingSteps, block_noise, denoise_block
from streamer.models.transformer import CausalWanTransformer
from streamer.models.vae import VideoVAE


@dataclass(frozen=True)
class Previewer:
    """Streams as the server makes them, and their pictures.

    texts: encodings of what is drawn, [1, K, E] each.  shape: C, H, W of a latent frame.
    """

    layout: RingLayout
    steps: DenoisingSteps
    vae: VideoVAE
    texts: tuple[Tensor, ...]
    shape: tuple[int, int, int]
    device: torch.device

    @torch.no_grad()
    def stream(
        self, network: CausalWanTransformer, text: Tensor, seed: int, num_blocks: int
    ) -> Tensor:
        """The first blocks of a stream under a text [1, K, E]: [1, F, C, H, W]."""
        keys = network.encode_text(text)
        context = RollingContext(
            network.config.cache_shape(*self.shape[1:]), self.layout, device=self.device
        )
        size = (1, self.layout.block, *self.shape)
        made = []
        for index in range(num_blocks):

            def noise(draw: int, index: int = index) -> Tensor:
                return block_noise(seed, index, draw, size, self.device)

            made.append(denoise_block(network, self.steps, noise, keys, context))
        return torch.cat(made, 1)

    @torch.no_grad()
    def row(self, latents: Tensor) -> Tensor:
        """The last picture of each block, side by side.

        latents: [1, F, C, H, W].  result: uint8 [H, n * W, 3], on the CPU.
        """
        pixels, _ = self.vae.decode(latents)
        reduction = self.vae.config.temporal_reduction
        per_block = self.layout.block * reduction
        missing = reduction - 1 if self.vae.config.has_single_first else 0
        shown = pixels[0, per_block - 1 - missing :: per_block]
        return (torch.cat(list(shown), 2).permute(1, 2, 0) * 255).round().to(torch.uint8).cpu()

    def draw(self, network: CausalWanTransformer, path: Path, num_blocks: int = 6) -> None:
        """A stream of each text as a PNG; nothing without a text."""
        streams = [self.stream(network, text, n, num_blocks) for n, text in enumerate(self.texts)]
        self.draw_clips(streams, path)

    def draw_clips(self, clips: Sequence[Tensor], path: Path) -> None:
        """Clips [1, F, C, H, W], a row each, as a PNG; nothing without a clip."""
        rows = [self.row(latents) for latents in clips]
        if rows:
            Image.fromarray(torch.cat(rows, 0).numpy()).save(path)
