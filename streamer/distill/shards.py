"""LatentClips: prompt-video pairs in memory, and the shards they are read from.

A shard is a safetensors file of clips of one length.  Knows nothing of how clips are made.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Protocol

import torch
from safetensors.torch import load_file
from torch import Tensor

from streamer.distill.draws import send
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
    leaps: bool [N], whether the second block comes from a much later time than the first, which
        then stands for the sink of a stream that has played for long; none, if not given.
    """

    latents: Tensor
    text: Tensor
    switch: Tensor
    begins: Tensor
    leaps: Tensor = None  # type: ignore[assignment]  # filled below

    def __post_init__(self) -> None:
        """Fill in what is not given."""
        if self.leaps is None:
            object.__setattr__(self, "leaps", torch.zeros_like(self.begins))

    def __len__(self) -> int:
        return len(self.latents)

    def on(self, device: torch.device | str) -> LatentClips:
        """The same with latents and texts on a device; what passes depend on stays on the host."""
        return replace(self, latents=send(self.latents, device), text=send(self.text, device))

    def rows(self, indices: Tensor) -> LatentClips:
        """Some of the clips, as float32.  indices: on the host."""
        there = send(indices, self.latents.device)
        return LatentClips(
            self.latents[there].float(),
            self.text[there].float(),
            self.switch[indices],
            self.begins[indices],
            self.leaps[indices],
        )

    def text_of(self, is_later: Tensor, device: torch.device | str) -> Tensor:
        """The text of each clip before its change, or after it: [N, K, E] on a device.

        is_later: bool [N], on the host.
        """
        text, later = send(self.text, device), send(is_later, device)
        return torch.where(later[:, None, None], text[:, 1], text[:, 0])

    def taught(self, block: int) -> Tensor:
        """Which frames show what the text of the clip's end makes of the blocks before them.

        Not those before a change of text; not the first of a piece from the middle of a world,
        which does not show how one begins; not what follows a leap.  block: latent frames.
        result: bool [N, F], on the host.
        """
        index = torch.arange(self.num_frames) // block
        is_taught = (index >= self.switch[:, None]) & ((index > 0) | self.begins[:, None])
        return is_taught & ((index != 1) | ~self.leaps[:, None])

    def draw(self, count: int, generator: torch.Generator) -> LatentClips:
        """Some clips by chance, as float32."""
        return self.rows(torch.randint(len(self), (count,), generator=generator))

    def draw_texts(self, count: int, generator: torch.Generator) -> Tensor:
        """Some texts by chance, before and after changes: float32 [B, K, E]."""
        texts = self.text.flatten(0, 1)
        chosen = torch.randint(len(texts), (count,), generator=generator)
        return texts[send(chosen, texts.device)].float()

    @property
    def num_frames(self) -> int:
        """Latent frames of a clip."""
        return self.latents.shape[1]

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """C, H, W of a latent frame."""
        channels, height, width = self.latents.shape[2:]
        return channels, height, width

    def draw_steady(self, count: int, generator: torch.Generator) -> Tensor:
        """Rows [count] of clips whose prompt never changes, by chance."""
        steady = (self.switch == 0).nonzero()[:, 0]
        return steady[torch.randint(len(steady), (count,), generator=generator)]

    def beginnings(self, block: int) -> LatentClips:
        """The first blocks, of `block` latent frames, of the clips that begin their world."""
        rows = self.begins.nonzero()[:, 0]
        there = rows.to(self.latents.device)
        told = self.text[there][:, :1].expand(-1, 2, -1, -1)
        return LatentClips(
            self.latents[there, :block],
            told,
            torch.zeros_like(self.switch[rows]),
            self.begins[rows],
        )


def read_clips(folder: Path, held_out: bool = False) -> LatentClips:
    """All shards of a folder that are complete by now.  Raises WeightsError when there is none."""
    paths = sorted(folder.glob("held-out.safetensors" if held_out else "clips-*.safetensors"))
    if not paths:
        raise WeightsError(f"{folder}: no shards; make them with `streamer distill world`")
    parts = [LatentClips(**load_file(path)) for path in paths]
    return LatentClips(
        *(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(LatentClips))
    )
