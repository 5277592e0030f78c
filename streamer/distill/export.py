"""From a training run's export to the files that ship: small enough each, and read back to be sure.

A model's files lie in one folder; `configs/*.json` name them.  New files are written beside the old
ones and then take their places: a server with the old ones mapped into memory goes on with them.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from torch import Tensor

from streamer.distill.replacing import replacing
from streamer.errors import OutputError, WeightsError
from streamer.models.checkpoint import read_tensors, save_weights

Storage = Literal["float32", "float16", "int8"]
_BYTES: dict[Storage, int] = {"float32": 4, "float16": 2, "int8": 1}


def as_storage(name: str) -> Storage:
    """The storage of that name.  Raises ValueError for another."""
    for known in _BYTES:
        if known == name:
            return known
    raise ValueError(f"storage {name!r}; known: {', '.join(_BYTES)}")


def export_transformer(
    sources: Sequence[Path], folder: Path, storage: Storage, most_mb: int
) -> list[Path]:
    """Write a transformer's weights into files of at most about `most_mb` megabytes each.

    One file is `transformer.safetensors`; several are `transformer-1-of-N.safetensors`, in the
    order in which a configuration lists them.  No file is touched before all new ones lie beside
    them and were read back.  Raises WeightsError when the storage cannot hold what was read,
    OutputError when it cannot be written.
    """
    tensors = read_tensors(sources)
    _check_range(tensors, folder, storage)
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        own = tensor.numel() * _BYTES[storage]
        if size + own > most_mb * 2**20 and shards[-1]:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += own
    names = [f"transformer-{i}-of-{len(shards)}.safetensors" for i in range(1, len(shards) + 1)]
    paths = [folder / name for name in (names if len(shards) > 1 else ["transformer.safetensors"])]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            partial = [stack.enter_context(replacing(path)) for path in paths]
            for shard, path in zip(shards, partial, strict=True):
                save_weights(shard, path, storage)
                path.chmod(0o644)  # safetensors writes for the owner alone; a server may be another
            _compare(tensors, read_tensors(partial), folder, storage)
        for old in folder.glob("transformer*.safetensors"):
            if old not in (*sources, *paths):
                old.unlink()
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"{folder}: cannot be written: {reason}") from error
    return paths


def _check_range(tensors: dict[str, Tensor], folder: Path, storage: Storage) -> None:
    most = torch.finfo(torch.float32 if storage == "float32" else torch.float16).max
    for name, tensor in tensors.items():
        if float(tensor.abs().max()) > most:
            raise WeightsError(f"{folder}: {name} reaches beyond {most:.3g}, too far for {storage}")


def _compare(
    before: dict[str, Tensor], after: dict[str, Tensor], folder: Path, storage: Storage
) -> None:
    """Raise WeightsError unless names agree and values agree to what the storage can hold."""
    if before.keys() != after.keys():
        strange = sorted(before.keys() ^ after.keys())[:4]
        raise WeightsError(f"{folder}: names were lost or won on the way: {strange}")
    share = {"float32": 0.0, "float16": 1e-3, "int8": 1e-2}[storage]
    for name, tensor in before.items():
        gap, scale = (after[name] - tensor).abs().max(), tensor.abs().max()
        if not bool(gap <= share * scale + torch.finfo(torch.float16).tiny):
            raise WeightsError(
                f"{folder}: {name} changed by {float(gap):.3g} at a scale of {float(scale):.3g}; "
                f"it does not fit into {storage}"
            )


def check_files(sources: Sequence[Path]) -> None:
    """Raise WeightsError when one is missing."""
    for source in sources:
        if not source.is_file():
            raise WeightsError(f"{source}: no such file; has its stage been trained?")


def copy_files(sources: Sequence[Path], folder: Path) -> list[Path]:
    """Copy finished files into a folder, each in one step.

    Raises WeightsError when one is missing, OutputError when one cannot be written.
    """
    check_files(sources)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return [_copy(source, folder / source.name) for source in sources]
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written: {error.strerror or error}") from error


def _copy(source: Path, target: Path) -> Path:
    with replacing(target) as partial:
        shutil.copyfile(source, partial)
    return target
