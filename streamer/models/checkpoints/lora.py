"""Low-rank changes, added to a transformer's weights while they load.

W + scale * (alpha / rank) * up @ down, per module.  Hu et al. 2021, arXiv:2106.09685, section 4.1.
Without an alpha the factor is 1: PEFT's default for these files, and what LongLive was saved with.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from streamer.errors import WeightsError
from streamer.models.checkpoints import lora_names
from streamer.models.checkpoints.read import Tensors
from streamer.models.checkpoints.recognise import recognise
from streamer.models.checkpoints.refuse import require_kind


@dataclass
class Change:
    """What one LoRA does to one tensor: names in its file."""

    down: str = ""
    up: str = ""
    alpha: str = ""
    diff: str = ""


@dataclass
class Lora:
    """One file of changes, matched to the tensors of a transformer.

    changes: our tensor name -> where its change lies.
    """

    path: Path
    tensors: Tensors
    scale: float
    alpha: float | None
    changes: dict[str, Change] = field(default_factory=dict)

    def delta(self, name: str, shape: Sequence[int]) -> Tensor | None:
        """What to add to a tensor of this shape, float32 on the host; None: nothing.

        Raises WeightsError when the sizes do not fit, or numbers are not finite.
        """
        change = self.changes.get(name)
        if change is None:
            return None
        if change.diff:
            delta = self.tensors.read(change.diff).float() * self.scale
            rank = None
        else:
            down, up = self._matrix(change.down), self._matrix(change.up)
            rank = down.shape[0]
            if up.shape[1] != rank:
                raise WeightsError(
                    f"{self.path}: {change.down} has rank {rank}, {change.up} {up.shape[1]}; the "
                    "file is damaged, fetch it again"
                )
            delta = (up @ down).mul_(self.scale * self._alpha(change, rank) / rank)
        if delta.numel() != torch.Size(shape).numel():
            raise WeightsError(
                f"{self.path}: the change of {name} is {tuple(delta.shape)}, the model's tensor "
                f"{tuple(shape)}; is the LoRA for a model of another size?"
            )
        if not bool(torch.isfinite(delta).all()):
            raise WeightsError(
                f"{self.path}: the change of {name} is not finite; the file is damaged"
            )
        return delta.reshape(tuple(shape))

    def _matrix(self, name: str) -> Tensor:
        return self.tensors.read(name).float().flatten(1)

    def _alpha(self, change: Change, rank: int) -> float:
        if change.alpha:
            return float(self.tensors.read(change.alpha))
        return rank if self.alpha is None else self.alpha


def open_lora(path: Path, wanted: Mapping[str, Sequence[int]], scale: float = 1.0) -> Lora:
    """Match a LoRA file to a transformer.

    wanted: the transformer's tensors and their shapes.  scale: how strongly to apply it.
    Raises WeightsError when the file is none, or changes a module that the model does not have.
    """
    found = recognise([path] if path.is_file() else _adapter_file(path))
    require_kind(found, "lora")
    modules = {
        module.replace(".", "_"): module
        for module in (name.rsplit(".", 1)[0] for name in wanted if "." in name)
    }
    lora = Lora(path, found.tensors, scale, _configured_alpha(path))
    for stored in found.tensors.entries:
        split = lora_names.split_part(stored)
        module = lora_names.target(split[0], modules) if split else None
        if split is None or module is None:
            raise WeightsError(_foreign(path, stored))
        part = split[1]
        leaf = {"diff_b": "bias", "diff_m": "modulation"}.get(part, "weight")
        name = f"{module}.{leaf}"
        if name not in wanted:
            raise WeightsError(_foreign(path, stored))
        change = lora.changes.setdefault(name, Change())
        setattr(change, "diff" if part.startswith("diff") else part, stored)
    for name, change in lora.changes.items():
        if not change.diff and not (change.down and change.up):
            there = change.down or change.up or change.alpha
            raise WeightsError(
                f"{path}: {there} lacks its other half for {name}; the file is damaged"
            )
    return lora


def _foreign(path: Path, stored: str) -> str:
    cause = "is it for another model?"
    if "k_img" in stored or "add_k_proj" in stored or "img_emb" in stored:
        cause = "it is for an image-to-video model"
    return f"{path}: {stored} changes a part that the model does not have; {cause}"


def _adapter_file(folder: Path) -> list[Path]:
    for name in ("adapter_model.safetensors", "pytorch_lora_weights.safetensors"):
        if (folder / name).is_file():
            return [folder / name]
    raise WeightsError(
        f"{folder}: there is no adapter_model.safetensors nor pytorch_lora_weights.safetensors in "
        "it; name the LoRA's file"
    )


def _configured_alpha(path: Path) -> float | None:
    """PEFT's alpha, from the adapter_config.json beside its weights."""
    folder = path if path.is_dir() else path.parent
    try:
        settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        return float(settings["lora_alpha"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
