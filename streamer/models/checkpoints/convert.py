"""Any known layout -> one safetensors file in our names, with the configuration in its header.

Written as it is read, one tensor after another: the library would hold the whole network.
The format: 8 bytes of length, a header in JSON, then the tensors' bytes
(https://github.com/huggingface/safetensors#format).
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from streamer.errors import OutputError, WeightsError
from streamer.models.checkpoints.load import LoraFile, Progress, check_names, prepared
from streamer.models.checkpoints.lora import open_lora
from streamer.models.checkpoints.read import DTYPES, Entry
from streamer.models.checkpoints.recognise import NOTE_CONFIG, NOTE_ROLE, Recognised
from streamer.models.transformer import CausalWanTransformer, TransformerConfig

_CODES = {dtype: code for code, dtype in DTYPES.items()}
_ALIGNMENT = 8

TEXT_LENGTH = 512
"""Rows of text that the published transformers read; no tensor of theirs tells it."""


def convert(
    found: Recognised,
    target: Path,
    *,
    dtype: torch.dtype | None = None,
    loras: Sequence[LoraFile] = (),
    config: str = "",
    on_progress: Progress | None = None,
) -> int:
    """Write a recognised network as one file; returns the bytes written.

    dtype: of the floating-point tensors; None keeps each as it is.  loras: merged (transformers
    only).  config: a configuration as JSON, for the header.
    Raises WeightsError when the network is not whole, OutputError when the place cannot be written.
    What was written is renamed to `target` at the end, so that a half file never has its name.
    """
    entries = {
        ours: found.tensors.entries[stored]
        for ours, stored in found.names.items()
        if not ours.endswith(".scale")
    }
    shapes = _wanted(found, entries)
    opened = [open_lora(lora.path, shapes, lora.scale) for lora in loras]
    kinds = {name: _stored_as(entries[name], dtype) for name in shapes}
    header = _header(found, shapes, kinds, config)
    part = target.with_name(f"{target.name}.part")
    total = max(1, sum(_num_bytes(shapes[name], kinds[name]) for name in shapes))
    done = 0
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            file.write(header)
            for name, shape in shapes.items():
                if on_progress is not None:
                    on_progress(done / total, name)
                tensor = prepared(found, name, shape, opened).to(kinds[name])
                file.write(_bytes_of(tensor).data)
                done += _num_bytes(shape, kinds[name])
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
    except OSError as error:
        raise OutputError(f"{target}: cannot be written: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
    if on_progress is not None:
        on_progress(1.0, "")
    return len(header) + total


def _wanted(found: Recognised, entries: Mapping[str, Entry]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the network that the file should hold; a transformer's are known."""
    if found.kind == "lora":
        raise WeightsError(
            f"{found.path}: a LoRA alone is no model; give it with its base (--lora)"
        )
    if found.unknown:
        raise WeightsError(f"{found.path}: {found.unknown[0]} is in no layout known here")
    if found.kind != "transformer" or found.role in ("image-to-video", "other"):
        return {name: entry.shape for name, entry in entries.items()}
    sizes = found.sizes
    grid, pooling = entries.get("grid_embedding"), entries.get("text_pooling.0.weight")
    canvas = entries.get("text_canvas.picture.figure.sum.weight")
    whole_text = pooling or canvas  # both read all slots of a text at once
    with torch.device("meta"):
        model = CausalWanTransformer(
            TransformerConfig(
                width=sizes["width"],
                num_heads=sizes["num_heads"],
                ffn_width=sizes["ffn_width"],
                num_layers=sizes["num_layers"],
                in_channels=sizes["latent_channels"],
                out_channels=sizes["latent_channels"],
                text_width=sizes["text_width"],
                text_length=(
                    whole_text.shape[1] // sizes["text_width"] if whole_text else TEXT_LENGTH
                ),
                freq_width=sizes["freq_width"],
                learned_grid=None if grid is None else (grid.shape[0], grid.shape[1]),
                pooled_text=pooling is not None,
                text_canvas=0 if canvas is None else canvas.shape[0],
                canvas_frames=_canvas_frames(entries),
                predicts_clean="canvas_gate.1.weight" in entries,
                carries=sum(fnmatchcase(name, "carry.copies.*.q.bias") for name in entries),
            )
        )
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    check_names(found, wanted)
    return wanted


def _canvas_frames(entries: Mapping[str, Entry]) -> int:
    """Latent frames of a canvas: figures are seen in each of them, the place in all."""
    place = entries.get("text_canvas.picture.place.1.bias")
    colours = entries.get("text_canvas.picture.colours.bias")
    return colours.shape[0] // place.shape[0] if place and colours else 1


def _stored_as(entry: Entry, dtype: torch.dtype | None) -> torch.dtype:
    if entry.dtype == torch.int8:
        return dtype or torch.float32
    return dtype or entry.dtype if entry.dtype.is_floating_point else entry.dtype


def _header(
    found: Recognised,
    shapes: Mapping[str, tuple[int, ...]],
    kinds: Mapping[str, torch.dtype],
    config: str,
) -> bytes:
    notes = {NOTE_ROLE: found.role, "streamer.kind": found.kind, "streamer.from": found.path.name}
    if config:
        notes[NOTE_CONFIG] = config
    header: dict[str, object] = {"__metadata__": notes}
    place = 0
    for name, shape in shapes.items():
        end = place + _num_bytes(shape, kinds[name])
        header[name] = {
            "dtype": _CODES[kinds[name]],
            "shape": list(shape),
            "data_offsets": [place, end],
        }
        place = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return struct.pack("<Q", len(text)) + text


def _num_bytes(shape: Sequence[int], dtype: torch.dtype) -> int:
    return torch.Size(shape).numel() * dtype.itemsize


def _bytes_of(tensor: Tensor) -> NDArray[np.uint8]:
    array: NDArray[np.uint8] = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
    return array
