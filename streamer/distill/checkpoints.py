"""Checkpoints of a training: safetensors files of limited size, a tensor at a time.

Split tensors (ranks.py) are gathered one by one and written by the main rank, so that no process
ever holds more than one of them whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from streamer.distill.ranks import is_main

MAX_SHARD_BYTES = 16 * 2**20


def write_shards(
    folder: Path, tensors: Iterable[tuple[str, Tensor]], limit: int = MAX_SHARD_BYTES
) -> None:
    """Write named tensors as safetensors files of at most `limit` bytes of values each, with
    `index.json` to join them.

    tensors: whole ones; they may be made while they are asked for, which all ranks do.
    A tensor larger than the limit is cut into flat pieces.
    """
    if is_main():
        folder.mkdir(parents=True, exist_ok=True)
    index: dict[str, dict[str, Any]] = {}
    shard: dict[str, Tensor] = {}
    number, room = 0, limit
    for name, tensor in tensors:
        if not is_main():
            continue
        flat = tensor.detach().cpu().contiguous().flatten()
        index[name] = {"shape": list(tensor.shape), "pieces": []}
        for count, piece in enumerate(torch.split(flat, max(1, limit // flat.element_size()))):
            size = piece.numel() * piece.element_size()
            if size > room and shard:
                save_file(shard, _shard_path(folder, number))
                shard, number, room = {}, number + 1, limit
            room -= size
            shard[f"{name}#{count}"] = piece.clone()
            index[name]["pieces"].append(number)
    if is_main():
        save_file(shard, _shard_path(folder, number))
        (folder / "index.json").write_text(json.dumps(index) + "\n")


class ShardReader:
    """Reads what `write_shards` wrote, tensor by tensor, on the CPU."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._index: dict[str, dict[str, Any]] = json.loads((folder / "index.json").read_text())

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """What there is."""
        return {name: tuple(entry["shape"]) for name, entry in self._index.items()}

    def read(self, name: str) -> Tensor:
        """One tensor, whole."""
        entry = self._index[name]
        pieces = []
        for count, number in enumerate(entry["pieces"]):
            with safe_open(_shard_path(self._folder, number), framework="pt") as file:
                pieces.append(file.get_tensor(f"{name}#{count}"))
        return torch.cat(pieces).reshape(entry["shape"])


def find_checkpoints(out: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    return sorted(state.parent for state in out.glob("checkpoint-*/state.json"))


def _shard_path(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:04d}.safetensors"
