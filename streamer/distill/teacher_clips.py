"""Clips of a bidirectional teacher, for figures and pictures beside those of its student."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from streamer.config import Config
from streamer.distill.blueprint import blueprint_of, read_transformer
from streamer.distill.trajectories import PathSolver
from streamer.engine.diffusion import DiffusionModel
from streamer.models.text import TextEncoder
from streamer.models.vae import VideoVAE

_BATCH = 8


@dataclass(frozen=True)
class TeacherClips:
    """Makes clips with a teacher.  Owned by one evaluation or one sheet.

    solver: holds the network.  frame_shape: C, H, W of a latent frame.  block: latent frames.
    """

    name: str
    solver: PathSolver
    text: TextEncoder
    decoder: VideoVAE
    frame_shape: tuple[int, int, int]
    block: int
    device: torch.device

    @classmethod
    def of(
        cls, folder: Path, model: DiffusionModel, config: Config, steps: int, guidance: float
    ) -> TeacherClips:
        """The teacher of an export, with the text encoder and the decoder of a loaded model.

        Raises WeightsError for a folder that is no export, or one of other sizes.
        """
        blueprint = blueprint_of(config)
        network = read_transformer(folder, blueprint.transformer).to(model.device).eval()
        stream, sizes = config.stream, model.decoder.config
        shape = (
            sizes.latent_channels,
            stream.height // sizes.spatial_reduction,
            stream.width // sizes.spatial_reduction,
        )
        solver = PathSolver(network.requires_grad_(False), guidance, steps)
        block = blueprint.layout.block
        return cls(str(folder), solver, model.text, model.decoder, shape, block, model.device)

    @torch.no_grad()
    def make(self, texts: Sequence[str], seed: int, num_blocks: int) -> Iterator[NDArray[np.uint8]]:
        """A clip of each text, of so many blocks: uint8 [T, H, W, 3]."""
        size = (num_blocks * self.block, *self.frame_shape)
        nothing = self.text.encode([""]).to(self.device, torch.float32)
        for first in range(0, len(texts), _BATCH):
            part = list(texts[first : first + _BATCH])
            told = torch.cat([self.text.encode([text]) for text in part])
            generators = [torch.Generator().manual_seed(seed + first + i) for i in range(len(part))]
            noise = torch.stack([torch.randn(size, generator=one) for one in generators])
            clips = self.solver.solve(
                noise.to(self.device), told.to(self.device, torch.float32), nothing
            )[-1]
            for clip in torch.split(clips, 1):
                pixels, _ = self.decoder.decode(clip)
                frames = (pixels[0] * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
                yield np.ascontiguousarray(frames.cpu().numpy())
