"""LatentClips: prompt-video pairs in memory, and the shards they are read from.

A shard is a safetensors file of clips of one length.  Knows nothing of how clips are made.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Protocol

import torch
from safetensors.torch import load_file
from torch import Tensor

from streamer.errors import WeightsError


class ClipSource(Protocol):
    """Where a stage takes clips and texts from: memory, or files that are read as needed."""

    def __len__(self) -> int: ...

    @property
    def num_frames(self) -> int:
        """Latent frames of a clip."""

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """C, H, W of a latent frame."""

    def draw(self, count: int, generator: torch.Generator) -> LatentClips:
        """Some clips by chance, as float32."""

    def draw_texts(self, count: int, generator: torch.Generator) -> Tensor:
        """Some texts by chance, of any clips: float32 [B, K, E]."""


@dataclass(frozen=True)
class LatentClips:
    """Clips of one length.

    latents: [N, F, C, H, W], normalised.  text: [N, 2, K, E], before and after the change.
    switch: [N], the block from which the second text holds; 0 where nothing changes.
    begins: bool [N], whether the first block is the first of its world.
    """

    latents: Tensor
    text: Tensor
    switch: Tensor
    begins: Tensor

    def __len__(self) -> int:
        return len(self.latents)

    def rows(self, indices: Tensor) -> LatentClips:
        """Some of the clips, as float32."""
        return LatentClips(
            self.latents[indices].float(),
            self.text[indices].float(),
            self.switch[indices],
            self.begins[indices],
        )

    def draw(self, count: int, generator: torch.Generator) -> LatentClips:
        """Some clips by chance, as float32."""
        return self.rows(torch.randint(len(self), (count,), generator=generator))

    def draw_texts(self, count: int, generator: torch.Generator) -> Tensor:
        """Some texts by chance, before and after changes: float32 [B, K, E]."""
        texts = self.text.flatten(0, 1)
        return texts[torch.randint(len(texts), (count,), generator=generator)].float()

    @property
    def num_frames(self) -> int:
        """Latent frames of a clip."""
        return self.latents.shape[1]

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """C, H, W of a latent frame."""
        channels, height, width = self.latents.shape[2:]
        return channels, height, width

    def beginnings(self, block: int) -> LatentClips:
        """The first blocks, of `block` latent frames, of the clips that begin their world."""
        rows = self.begins.nonzero()[:, 0]
        told = self.text[rows][:, :1].expand(-1, 2, -1, -1)
        return LatentClips(
            self.latents[rows, :block], told, torch.zeros_like(self.switch[rows]), self.begins[rows]
        )


def read_clips(folder: Path, held_out: bool = False) -> LatentClips:
    """All shards of a folder that are complete by now.  Raises WeightsError when there is none."""
    paths = sorted(folder.glob("held-out.safetensors" if held_out else "clips-*.safetensors"))
    if not paths:
        raise WeightsError(f"{folder}: no shards; make them with `streamer distill world`")
    parts = [load_file(path) for path in paths]
    return LatentClips(
        *(torch.cat([part[field.name] for part in parts]) for field in fields(LatentClips))
    )
