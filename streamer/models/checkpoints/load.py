"""Fill a module from a published file: strictly, one tensor at a time.

Beyond the module itself, the host needs memory for one tensor (two for one that a LoRA changes):
files are mapped, and each tensor is checked, converted and moved before the next is read.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from streamer.errors import WeightsError
from streamer.models.checkpoint import SCALE
from streamer.models.checkpoints.lora import Lora, open_lora
from streamer.models.checkpoints.read import Entry
from streamer.models.checkpoints.recognise import (
    Kind,
    Recognised,
    recognise,
    recognise_folder,
)
from streamer.models.checkpoints.refuse import require_kind, require_stream_model

Progress = Callable[[float, str], None]
"""Told how much is loaded, 0..1, and which tensor comes next."""


log = logging.getLogger(__name__)

PUBLISHED_WIDTH = 1536
"""The narrowest of Wan's transformers."""


@dataclass(frozen=True)
class LoraFile:
    """A LoRA to add: its file or folder, and how strongly."""

    path: Path
    scale: float = 1.0


def load_checkpoint(
    module: nn.Module,
    kind: Kind,
    paths: Sequence[Path],
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    nest: str = "",
    loras: Sequence[LoraFile] = (),
    assume_causal: bool = False,
    on_progress: Progress | None = None,
) -> Recognised:
    """Fill a module, best one on the meta device, from a file in any known layout.

    paths: one file, the shards of one network, or a folder to look in.
    dtype, device: what the weights become.  nest: which network of a training save.
    loras: merged into the weights.  assume_causal: take a transformer that says it is a teacher.
    Raises WeightsError that names file, tensor, found, wanted and the likely cause.
    """
    found = locate(paths, kind, nest=nest, assume_causal=assume_causal)
    if kind == "transformer":
        require_stream_model(found, assume_causal=assume_causal)
        if found.role == "unknown" and found.sizes["width"] >= PUBLISHED_WIDTH:
            log.warning(
                "%s: nothing tells whether this transformer is causal; a bidirectional one has the "
                "same names, and falls apart after a block",
                found.path,
            )
    fill(module, found, dtype=dtype, device=device, loras=loras, on_progress=on_progress)
    return found


def locate(
    paths: Sequence[Path], kind: Kind, *, nest: str = "", assume_causal: bool = False
) -> Recognised:
    """The network of this kind that the paths mean; a folder is searched, two levels deep.

    Raises WeightsError when there is none, or more than one that would do.
    """
    if len(paths) == 1 and paths[0].is_dir():
        return _in_folder(paths[0], kind, assume_causal)
    for path in paths:
        if not path.exists():
            raise WeightsError(f"{path}: there is no such weights file")
    found = recognise(paths, nest)
    require_kind(found, kind)
    return found


def fill(
    module: nn.Module,
    found: Recognised,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    loras: Sequence[LoraFile] = (),
    on_progress: Progress | None = None,
) -> None:
    """Give every parameter and buffer of a module its tensor from a recognised file.

    Raises WeightsError for the first tensor that is missing, too much, of another shape, or not
    finite.
    """
    wanted = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    shared = _shared_names(module)
    check_names(found, wanted, shared)
    opened = [open_lora(lora.path, wanted, lora.scale) for lora in loras]
    total = max(1, found.num_bytes)
    done = 0
    with torch.no_grad():
        for name, shape in wanted.items():
            if name in shared:
                continue
            stored = found.names[name]
            if on_progress is not None:
                on_progress(done / total, name)
            tensor = prepared(found, name, shape, opened).to(dtype=dtype, device=device, copy=True)
            _assign(module, name, tensor)
            done += found.tensors.entries[stored].num_bytes
        for name, source in shared.items():
            _assign(module, name, _held(module, source))
    if on_progress is not None:
        on_progress(1.0, "")


def prepared(
    found: Recognised, name: str, shape: tuple[int, ...], loras: Sequence[Lora] = ()
) -> Tensor:
    """One tensor under our name: read, dequantised, checked, changed by LoRAs; on the host.

    Its memory may be the file's own.  Raises WeightsError.
    """
    stored = found.names[name]
    tensor = _fitted(_dequantised(found, stored), shape, found, stored)
    if tensor.is_floating_point() and tensor.numel():
        low, high = torch.aminmax(tensor)
        if not (torch.isfinite(low) and torch.isfinite(high)):
            raise WeightsError(
                f"{found.tensors.entries[stored].file}: {stored} holds numbers that are not finite;"
                " the file is damaged, or was saved from a training that failed"
            )
    for lora in loras:
        delta = lora.delta(name, shape)
        if delta is not None:
            tensor = delta.add_(tensor)
    return tensor


def check_names(
    found: Recognised,
    wanted: Mapping[str, tuple[int, ...]],
    shared: Mapping[str, str] | None = None,
) -> None:
    """Raise WeightsError unless the file holds exactly the wanted tensors, in their shapes.

    wanted: our name -> shape.  shared: names whose tensor is another one's, which files leave out.
    """
    shared = shared or {}
    where, entries = found.path, found.tensors.entries
    missing = [name for name in wanted if name not in found.names and name not in shared]
    extra = [
        *found.unknown,
        *(
            stored
            for ours, stored in found.names.items()
            if ours not in wanted and not _is_scale(ours, found)
        ),
    ]
    mismatched = [
        (name, found.names[name], entries[found.names[name]].shape, shape)
        for name, shape in wanted.items()
        if name in found.names and not _fits(entries[found.names[name]], shape, found.kind)
    ]
    if mismatched:
        _, stored, has, shape = mismatched[0]
        more = f" ({len(mismatched)} tensors differ)" if len(mismatched) > 1 else ""
        raise WeightsError(
            f"{entries[stored].file}: {stored} is {has}, the config needs {shape}{more}; "
            f"{_size_cause(found, stored, has, shape)}"
        )
    if missing:
        raise WeightsError(
            f"{where}: {_some(missing)} missing; {_missing_cause(found, missing, wanted)}"
        )
    if extra:
        raise WeightsError(f"{where}: {_some(extra)} unknown to this model; {_extra_cause(extra)}")


def _in_folder(folder: Path, kind: Kind, assume_causal: bool) -> Recognised:
    found, faults = recognise_folder(folder)
    fitting = [each for each in found if each.kind == kind]
    usable = [
        each
        for each in fitting
        if kind != "transformer" or assume_causal or each.role in ("stream", "unknown")
    ]
    if kind == "transformer" and any(each.role == "stream" for each in usable):
        usable = [each for each in usable if each.role == "stream"]
    if len(usable) > 1:
        some = ", ".join(str(each.tensors.path) for each in usable[:4])
        raise WeightsError(f"{folder}: holds {len(usable)} that would do: {some}; name one of them")
    if usable:
        return usable[0]
    if fitting:
        return fitting[0]
    if faults:
        raise faults[0]
    there = ", ".join(sorted({each.title for each in found})) or "no weights at all"
    raise WeightsError(f"{folder}: holds no {kind}, only: {there}; `streamer models pull` gets it")


def _dequantised(found: Recognised, stored: str) -> Tensor:
    """A tensor as numbers: int8 times its `.scale` row by row, everything else as it is."""
    tensor = found.tensors.read(stored)
    entry = found.tensors.entries[stored]
    if tensor.dtype in (torch.float8_e4m3fn, torch.float8_e5m2):
        raise WeightsError(
            f"{entry.file}: {stored} is stored in 8-bit floats, which are not read; take the "
            "bfloat16 or float32 form of the checkpoint"
        )
    if tensor.dtype != torch.int8:
        return tensor
    scale = found.tensors.entries.get(stored + SCALE)
    if scale is None or scale.shape != entry.shape[:1]:
        raise WeightsError(f"{entry.file}: {stored} is int8 and {stored}{SCALE} does not fit it")
    rows = found.tensors.read(stored + SCALE)
    return tensor.float() * rows.float().view(-1, *[1] * (tensor.ndim - 1))


def _fits(entry: Entry, shape: tuple[int, ...], kind: Kind) -> bool:
    if entry.shape == shape:
        return True
    if kind == "taehv":
        return _is_wider_growth(entry.shape, shape)
    # diffusers drops or adds axes of length 1 on the norms of the VAE.
    return kind == "vae" and _squeezed(entry.shape) == _squeezed(shape)


def _fitted(tensor: Tensor, shape: tuple[int, ...], found: Recognised, stored: str) -> Tensor:
    if tuple(tensor.shape) == shape:
        return tensor
    if found.kind == "taehv" and _is_wider_growth(tuple(tensor.shape), shape):
        # Older files predict more frames per latent than the model shows: the last ones count.
        return tensor[tensor.shape[0] - shape[0] :]
    return tensor.reshape(shape)


def _is_wider_growth(has: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether this is a TGrow convolution, 1x1, saved for a larger number of frames."""
    return len(has) == 4 and has[1:] == shape[1:] and has[2:] == (1, 1) and has[0] > shape[0]


def _squeezed(shape: Sequence[int]) -> list[int]:
    return [length for length in shape if length != 1]


def _is_scale(name: str, found: Recognised) -> bool:
    base = found.names.get(name.removesuffix(SCALE)) if name.endswith(SCALE) else None
    return base is not None and found.tensors.entries[base].dtype == torch.int8


def _shared_names(module: nn.Module) -> dict[str, str]:
    """Names of one parameter that has two, such as tied embeddings: second name -> first."""
    first: dict[int, str] = {}
    shared = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if id(parameter) in first:
            shared[name] = first[id(parameter)]
        else:
            first[id(parameter)] = name
    return shared


def _owner(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, leaf = name.rpartition(".")
    return module.get_submodule(path), leaf


def _held(module: nn.Module, name: str) -> Tensor:
    owner, leaf = _owner(module, name)
    tensor: Tensor = getattr(owner, leaf)
    return tensor


def _assign(module: nn.Module, name: str, tensor: Tensor) -> None:
    owner, leaf = _owner(module, name)
    if leaf in owner._buffers:
        owner._buffers[leaf] = tensor
        return
    if not isinstance(tensor, nn.Parameter):
        tensor = nn.Parameter(tensor, requires_grad=getattr(owner, leaf).requires_grad)
    owner._parameters[leaf] = tensor


def _size_cause(
    found: Recognised, stored: str, has: tuple[int, ...], shape: tuple[int, ...]
) -> str:
    if found.kind == "transformer":
        if stored.endswith("patch_embedding.weight") and has[0] == shape[0]:
            return f"the file reads {has[1]} channels; is it of Wan2.2, or image-to-video?"
        return f"the file is {found.title}; is it the checkpoint of another config?"
    if found.kind == "vae":
        return f"the file is {found.title}; choose decoder.kind 'wan' or 'lightvae' accordingly"
    return "do file and config belong together?"


def _missing_cause(
    found: Recognised, missing: Sequence[str], wanted: Mapping[str, tuple[int, ...]]
) -> str:
    layers = {name.split(".")[1] for name in missing if name.startswith("blocks.")}
    if found.kind == "transformer" and len(missing) < len(wanted):
        has = found.sizes.get("num_layers", 0)
        if layers and all(int(layer) >= has for layer in layers):
            return f"the file has {has} layers; is it of a smaller model, or a shard of several?"
        return "is the file one shard of several? Name all of them, or their folder"
    if found.kind == "vae" and all(name.startswith(("encoder.", "conv1.")) for name in missing):
        return "the file holds the decoder alone; take the whole VAE"
    return "is this another model's file?"


def _extra_cause(extra: Sequence[str]) -> str:
    if any("k_img" in name or "img_emb" in name or "add_k_proj" in name for name in extra):
        return "it is an image-to-video model"
    if any(name.startswith("blocks.") for name in extra):
        return "is it of a larger model than the config?"
    return "is it another model's file?"


def _some(names: Sequence[str]) -> str:
    """The first few of some names, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more + (" is" if len(names) == 1 else " are")
