"""StoredClips: clips and texts that stay in their files until they are drawn.

For shards that do not fit into memory, as those of published models, whose texts alone take
megabytes.  A folder holds clips-*.safetensors (as LatentClips) and texts-*.safetensors (texts
without a clip); rows of zeros behind a text are not stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor

from streamer.distill.shards import LatentClips
from streamer.errors import WeightsError

LIGHT_BYTES = 8 * 2**30


def is_light(folder: Path) -> bool:
    """Whether a folder holds clips only, and fits into memory."""
    paths = list(folder.glob("clips-*.safetensors"))
    has_texts = any(folder.glob("texts-*.safetensors"))
    return not has_texts and sum(path.stat().st_size for path in paths) < LIGHT_BYTES


@dataclass(frozen=True)
class _Row:
    path: Path
    number: int


class StoredClips:
    """Clips of some folders, drawn from their files; a ClipSource.

    frame_shape: C, H, W of a latent frame, which texts alone do not tell.  text_length: rows that a
    text is given, zeros behind it.
    Raises WeightsError when the folders hold nothing, or clips of another shape.
    """

    def __init__(
        self, folders: Sequence[Path], frame_shape: tuple[int, int, int], text_length: int
    ) -> None:
        self.frame_shape = frame_shape
        self._text_length = text_length
        self.num_frames = 0
        self._clips: list[_Row] = []
        self._texts: list[_Row] = []
        for folder in folders:
            paths = sorted(folder.glob("clips-*.safetensors"))
            paths += sorted(folder.glob("texts-*.safetensors"))
            if not paths:
                raise WeightsError(
                    f"{folder}: no shards; make them with `streamer distill world` or `videos`"
                )
            for path in paths:
                self._add(path)

    def __len__(self) -> int:
        return len(self._clips)

    def draw(self, count: int, generator: torch.Generator) -> LatentClips:
        """Some clips by chance, as float32.  Raises WeightsError when there are only texts."""
        if not self._clips:
            raise WeightsError("the shards hold texts only; this stage needs clips, too")
        rows = [self._clips[i] for i in _numbers(len(self._clips), count, generator)]
        parts = {field.name: [_read(row, field.name) for row in rows] for field in _FIELDS}
        return LatentClips(
            torch.cat(parts["latents"]),
            _stack_texts(parts["text"], self._text_length),
            torch.cat(parts["switch"]),
            torch.cat(parts["begins"]),
            torch.cat(parts["leaps"]),
        )

    def draw_texts(self, count: int, generator: torch.Generator) -> Tensor:
        """Some texts by chance, before and after changes: float32 [B, K, E]."""
        rows = [self._texts[i] for i in _numbers(len(self._texts), count, generator)]
        either = torch.randint(2, (count,), generator=generator)
        texts = _stack_texts([_read(row, "text") for row in rows], self._text_length)
        return texts[torch.arange(count), either]

    def _add(self, path: Path) -> None:
        with safe_open(path, framework="pt") as file:
            count = file.get_slice("text").get_shape()[0]
            rows = [_Row(path, number) for number in range(count)]
            self._texts += rows
            if path.name.startswith("texts-"):
                return
            _, frames, *shape = file.get_slice("latents").get_shape()
        if tuple(shape) != self.frame_shape:
            raise WeightsError(
                f"{path}: latent frames of {tuple(shape)}, the model makes {self.frame_shape}; "
                "make the shards again for this configuration"
            )
        if self.num_frames not in (0, frames):
            raise WeightsError(f"{path}: clips of {frames} latent frames, not {self.num_frames}")
        self.num_frames = frames
        self._clips += rows


_FIELDS = fields(LatentClips)


def _numbers(limit: int, count: int, generator: torch.Generator) -> list[int]:
    return torch.randint(limit, (count,), generator=generator).tolist()


def _read(row: _Row, name: str) -> Tensor:
    """One row; float32 for numbers that are stored as float16, which autocast would not join."""
    with safe_open(row.path, framework="pt") as file:
        if name == "leaps" and name not in file.keys():  # noqa: SIM118, it is no dictionary
            return torch.zeros(1, dtype=torch.bool)
        part: Tensor = file.get_slice(name)[row.number : row.number + 1]
    return part.float() if part.is_floating_point() else part


def _stack_texts(texts: Sequence[Tensor], length: int) -> Tensor:
    """Texts [1, 1 or 2, K, E] of different lengths as float32 [B, 2, length, E]."""
    padded = [F.pad(text, (0, 0, 0, length - text.shape[2])) for text in texts]
    return torch.cat([text.expand(-1, 2, -1, -1) for text in padded])
