"""Weights files of our own parameter names: one or many safetensors shards, read strictly.

Storage may be smaller than use: sixteen-bit floats are widened, and an int8 tensor is multiplied by
its `<name>.scale`, one number a row, when it is loaded.  Nothing is skipped, renamed or guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from streamer.errors import WeightsError

SCALE = ".scale"
SMALLEST_INT8_ROWS = 64
"""Matrices with fewer rows or columns than this are stored as float16 also in int8 files."""


def read_tensors(paths: Sequence[Path]) -> dict[str, Tensor]:
    """All tensors of some shards, on the host, float32, dequantised.

    Raises WeightsError, naming the file, when one is missing or damaged, holds a tensor twice, an
    int8 tensor without its scale, or numbers that are not finite.
    """
    stored: dict[str, Tensor] = {}
    origin: dict[str, Path] = {}
    for path in paths:
        for name, tensor in _read_file(path).items():
            if name in stored:
                raise WeightsError(f"{path}: {name} is also in {origin[name]}; drop one of them")
            stored[name], origin[name] = tensor, path
    result = {}
    for name, tensor in stored.items():
        if not _is_scale(name, stored):
            result[name] = _widened(name, tensor, stored.get(name + SCALE), origin[name])
    return result


Growth = Callable[[dict[str, Tensor], Mapping[str, Tensor]], dict[str, Tensor]]
"""From what was read and what a module has: what it is filled with."""


def load_weights(module: nn.Module, paths: Sequence[Path], grow: Growth | None = None) -> None:
    """Fill a module (one on the meta device, too) from its weights files; every name must fit.

    grow: makes the weights of a smaller module fit first; what it takes from the module itself must
        not be on the meta device.

    Raises WeightsError as `read_tensors` does, and when a tensor is missing, of another shape, or
    unknown to the module.
    """
    tensors = read_tensors(paths)
    wanted = module.state_dict()
    if grow is not None:
        tensors = grow(tensors, wanted)
    where = ", ".join(str(path) for path in paths)
    if missing := sorted(wanted.keys() - tensors.keys()):
        raise WeightsError(f"{where}: {_some(missing)} missing; is this another model's file?")
    if extra := sorted(tensors.keys() - wanted.keys()):
        raise WeightsError(f"{where}: {_some(extra)} unknown to this model; is it another's file?")
    for name, tensor in tensors.items():
        if tensor.shape != wanted[name].shape:
            raise WeightsError(
                f"{where}: {name} is {tuple(tensor.shape)}, the config needs "
                f"{tuple(wanted[name].shape)}; do file and config belong together?"
            )
    module.load_state_dict(tensors, strict=True, assign=True)


def save_weights(
    tensors: Mapping[str, Tensor],
    path: Path,
    storage: Literal["float32", "float16", "int8"] = "float16",
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write tensors under their names.  int8: the large matrices row by row, float16 for the rest.

    metadata: strings for the file's header, such as the step of a training.
    """
    stored: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        host = tensor.detach().to("cpu", torch.float32)
        if storage == "int8" and host.ndim == 2 and min(host.shape) >= SMALLEST_INT8_ROWS:
            stored[name], stored[name + SCALE] = quantise(host)
        else:
            stored[name] = host.to(torch.float32 if storage == "float32" else torch.float16)
    save_file({name: t.contiguous() for name, t in stored.items()}, path, dict(metadata or {}))


def quantise(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """A matrix [O, I] as int8 [O, I] and scales float32 [O]: matrix = int8 * scale, row by row."""
    scale = matrix.abs().amax(dim=1).clamp(min=1e-12) / 127.0
    return (matrix / scale[:, None]).round().to(torch.int8), scale


def _read_file(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise WeightsError(f"{path}: there is no such weights file")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: damaged, or no safetensors file: {error}") from error


def _is_scale(name: str, stored: Mapping[str, Tensor]) -> bool:
    base = stored.get(name.removesuffix(SCALE)) if name.endswith(SCALE) else None
    return base is not None and base.dtype == torch.int8


def _widened(name: str, tensor: Tensor, scale: Tensor | None, path: Path) -> Tensor:
    if tensor.dtype == torch.int8:
        if scale is None or scale.shape != tensor.shape[:1]:
            raise WeightsError(f"{path}: {name} is int8 and {name}{SCALE} does not fit it")
        tensor = tensor.float() * scale.float().view(-1, *[1] * (tensor.ndim - 1))
    wide = tensor.float()
    if not bool(torch.isfinite(wide).all()):
        raise WeightsError(f"{path}: {name} holds numbers that are not finite; the file is damaged")
    return wide


def _some(names: Sequence[str]) -> str:
    """The first few of some names, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more + (" is" if len(names) == 1 else " are")
