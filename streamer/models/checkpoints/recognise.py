"""What a file of tensors is: which network, in whose layout, of which size, for which use.

Network, layout and size are read off names and shapes.  The use of a Wan transformer is not: a
causal student and its bidirectional teacher have the same names and shapes.  So the evidence is
weighed in this order: what a converted file says of itself, tensors that only one kind has, the
nest of a training save, the configuration beside a published folder, equality with the base model
beside it, and at last the words in the file's own name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import torch

from streamer.errors import WeightsError
from streamer.models.checkpoints import layouts, lora_names
from streamer.models.checkpoints.read import (
    SafetensorsFile,
    Tensors,
    open_shards,
    weight_files,
)

Kind = Literal["transformer", "vae", "text", "taehv", "lora", "image encoder"]
Role = Literal["stream", "unknown", "bidirectional", "ode", "image-to-video", "critic", "other"]

NOTE_ROLE = "streamer.role"
NOTE_CONFIG = "streamer.config"
"""Keys in the header of a converted file."""

PREFERRED_NESTS = ("generator_ema", "generator", "generator_lora", "model_state", "state_dict")
HEAD_WIDTH = 128
"""Every published Wan2.1 transformer has heads of this width; the file does not tell it."""

IMAGE_CHANNELS = 36
"""Latents, a mask and an encoded picture: what image-to-video models read."""

_SHIPPED_NAMES = {(1536, 30): "1.3B", (5120, 40): "14B"}
_ODE = re.compile(r"(?<![a-z])ode(?![a-z])")
_BIDIRECTIONAL = re.compile(r"bidirectional|step_?distill|teacher")
_CAUSAL = re.compile(r"causal|causvid|self[_-]?forcing|longlive|krea|autoregressive")
_BASE = "diffusion_pytorch_model"


@dataclass(frozen=True)
class Recognised:
    """What a file, or the shards of one network, turned out to be.

    names: our name -> the name in the file.  unknown: names of the file that no layout explains.
    sizes: our configuration's words -> numbers, read off the shapes.
    why: the evidence for `role`, as the end of a sentence.
    """

    path: Path
    kind: Kind
    layout: str
    tensors: Tensors
    names: Mapping[str, str]
    unknown: Sequence[str] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)
    role: Role = "unknown"
    why: str = ""

    @property
    def num_parameters(self) -> int:
        """How many numbers the file holds."""
        return sum(entry.numel for entry in self.tensors.entries.values())

    @property
    def num_bytes(self) -> int:
        """How much memory they take as stored."""
        return sum(entry.num_bytes for entry in self.tensors.entries.values())

    @property
    def dtypes(self) -> str:
        """The number formats in use, the most frequent first, such as `bfloat16`."""
        counts: dict[str, int] = {}
        for entry in self.tensors.entries.values():
            name = str(entry.dtype).removeprefix("torch.")
            counts[name] = counts.get(name, 0) + entry.numel
        return ", ".join(sorted(counts, key=lambda name: -counts[name]))

    @property
    def title(self) -> str:
        """A name for people: `Wan2.1 14B transformer, image-to-video`."""
        if self.kind == "transformer":
            width, layers = self.sizes.get("width", 0), self.sizes.get("num_layers", 0)
            known = _SHIPPED_NAMES.get((width, layers))
            size = f"Wan2.1 {known}" if known else f"Wan-like, {layers} layers of {width},"
            use = {
                "stream": "causal (a stream model)",
                "unknown": "causal or not: the file does not tell",
                "bidirectional": "bidirectional text-to-video (a teacher)",
                "ode": "ODE initialisation (a training stage)",
                "image-to-video": "image-to-video",
                "critic": "critic of a training",
                "other": "of another task",
            }[self.role]
            return f"{size} transformer, {use}"
        if self.kind == "vae":
            width = self.sizes.get("width", 0)
            return f"Wan2.1 VAE{'' if width == 96 else f', pruned to width {width} (LightVAE)'}"
        names = {"text": "UMT5 text encoder", "taehv": "TAEHV tiny autoencoder"}
        if self.kind == "lora":
            return f"LoRA of rank {self.sizes.get('rank', 0)} for a transformer"
        return names.get(self.kind, self.kind)


Rule = tuple[str, Kind, str, Callable[[str], str | None]]


def _as_it_is(name: str) -> str | None:
    return name


RULES: tuple[Rule, ...] = (
    ("patch_embedding.weight", "transformer", "original", _as_it_is),
    (
        "condition_embedder.time_proj.weight",
        "transformer",
        "diffusers",
        layouts.transformer_from_diffusers,
    ),
    ("decoder.middle.0.residual.0.gamma", "vae", "original", _as_it_is),
    ("decoder.mid_block.resnets.0.norm1.gamma", "vae", "diffusers", layouts.vae_from_diffusers),
    ("blocks.0.ffn.gate.0.weight", "text", "original", layouts.umt5_from_original),
    (
        "encoder.block.0.layer.0.SelfAttention.q.weight",
        "text",
        "transformers",
        _as_it_is,
    ),
    ("decoder.3.conv.0.weight", "taehv", "original", _as_it_is),
    ("visual.patch_embedding.weight", "image encoder", "original", _as_it_is),
)
"""A name that only this network has in only this layout, and how its other names translate."""


def recognise(paths: Sequence[Path], nest: str = "") -> Recognised:
    """What the file, or the shards of one network, are.

    nest: the network wanted from a pickle that holds several; empty: the best one.
    Raises WeightsError when they are damaged, or no network that is known here.
    """
    tensors = open_shards(paths, nest, PREFERRED_NESTS)
    found = {name: layouts.canonical(name) or name for name in tensors.entries}
    if lora_names.is_lora(found.values()):
        rank = min(
            (
                min(tensors.entries[name].shape)
                for name in tensors.entries
                if tensors.entries[name].shape and lora_names.is_half(name)
            ),
            default=0,
        )
        ours = {name: name for name in tensors.entries}
        return Recognised(
            tensors.path, "lora", "lora", tensors, ours, sizes={"rank": rank}, role="other"
        )
    # diffusers keeps the name patch_embedding.weight, so that mark alone proves nothing.
    is_diffusers = "condition_embedder.time_proj.weight" in found.values()
    for mark, kind, layout, translate in RULES:
        if mark in found.values() and not (layout == "original" and is_diffusers):
            return _described(tensors, kind, layout, found, translate)
    some = ", ".join(list(tensors.entries)[:3])
    raise WeightsError(
        f"{tensors.path}: none of the networks known here; its tensors begin with {some}; expected "
        "a Wan2.1 transformer, VAE or UMT5 encoder, a TAEHV decoder, or a LoRA"
    )


def recognise_folder(folder: Path) -> tuple[list[Recognised], list[WeightsError]]:
    """Everything a model folder holds, and what was wrong with the files that are none."""
    found, faults = [], []
    for paths in weight_files(folder):
        try:
            found.append(recognise(paths))
        except WeightsError as error:
            faults.append(error)
    return found, faults


def _described(
    tensors: Tensors,
    kind: Kind,
    layout: str,
    found: Mapping[str, str],
    translate: Callable[[str], str | None],
) -> Recognised:
    names: dict[str, str] = {}
    unknown = []
    for stored, name in found.items():
        ours = translate(name)
        if ours is None:
            unknown.append(stored)
        elif ours in names:
            raise WeightsError(
                f"{tensors.path}: {stored} and {names[ours]} are the same tensor under two names; "
                "the file mixes two saves"
            )
        else:
            names[ours] = stored
    shapes = {ours: tensors.entries[stored].shape for ours, stored in names.items()}
    sizes = _sizes(kind, shapes)
    role, why = _role(tensors, kind, names, sizes)
    return Recognised(tensors.path, kind, layout, tensors, names, unknown, sizes, role, why)


def _sizes(kind: Kind, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Sizes under the names of our configuration, as far as the shapes tell them."""
    if kind == "transformer":
        patch = shapes["patch_embedding.weight"]
        blocks = [int(name.split(".")[1]) for name in shapes if name.startswith("blocks.")]
        width = patch[0]
        sizes = {
            "width": width,
            "num_heads": max(1, width // HEAD_WIDTH),
            "num_layers": max(blocks, default=-1) + 1,
            "latent_channels": patch[1],
        }
        for word, name, axis in (
            ("ffn_width", "blocks.0.ffn.0.weight", 0),
            ("text_width", "text_embedding.0.weight", 1),
            ("freq_width", "time_embedding.0.weight", 1),
        ):
            if name in shapes:
                sizes[word] = shapes[name][axis]
        return sizes
    if kind == "vae" and "encoder.conv1.weight" in shapes:
        return {"width": shapes["encoder.conv1.weight"][0]}
    return {}


def _role(
    tensors: Tensors, kind: Kind, names: Mapping[str, str], sizes: Mapping[str, int]
) -> tuple[Role, str]:
    """What a transformer is for, and the evidence."""
    if kind != "transformer":
        return "other", ""
    if NOTE_ROLE in tensors.notes:
        said = tensors.notes[NOTE_ROLE]
        role: Role = next((role for role in get_args(Role) if role == said), "unknown")
        return role, f"its header says {said!r}"
    if any(".cross_attn.k_img." in name or name.startswith("img_emb.") for name in names):
        return "image-to-video", "it has cross-attention to an image"
    if sizes["latent_channels"] == IMAGE_CHANNELS:
        return "image-to-video", f"it reads {IMAGE_CHANNELS} channels, 20 of them of an image"
    if "grid_embedding" in names:
        return "stream", "it knows its picture's grid, as only our own models do"
    if any(name.startswith("vace_") for name in names):
        return "other", "it has the control blocks of VACE"
    return _role_by_place(tensors)


def _role_by_place(tensors: Tensors) -> tuple[Role, str]:
    """The role of a text-to-video transformer, whose tensors do not tell it."""
    path = tensors.path
    words = f"{path.parent.name}/{path.name}".lower()
    if tensors.nest == "critic":
        return "critic", "it lies under 'critic', the network that judged a training"
    if _ODE.search(words):
        return "ode", f"its name is {path.parent.name}/{path.name}"
    if _BIDIRECTIONAL.search(words):
        return "bidirectional", f"its name is {path.parent.name}/{path.name}"
    file = next(iter(tensors.entries.values())).file
    if file.name.startswith(_BASE):
        class_name = _class_name(file.parent / "config.json")
        if "Causal" in class_name:
            return "stream", f"config.json beside it says {class_name}"
        if class_name:
            return "bidirectional", f"config.json beside it says {class_name}"
    elif _equals_base(tensors, file):
        return "bidirectional", f"its numbers are those of {_BASE} beside it"
    if tensors.nest in ("generator_ema", "generator"):
        return "stream", f"it lies under {tensors.nest!r}, the student of a distillation"
    if _CAUSAL.search(words):
        return "stream", f"its name is {path.parent.name}/{path.name}"
    return "unknown", "nothing in the file, nor beside it, tells"


def _class_name(path: Path) -> str:
    try:
        return str(json.loads(path.read_text(encoding="utf-8")).get("_class_name", ""))
    except (OSError, ValueError, AttributeError):
        return ""


def _equals_base(tensors: Tensors, file: Path) -> bool:
    """Whether the base model in the same folder, or the one above, has the same numbers.

    One projection is compared: training moves every one of them.
    """
    probe = "blocks.0.self_attn.q.weight"
    stored = {layouts.canonical(name): name for name in tensors.entries}.get(probe)
    if stored is None:
        return False
    for folder in (file.parent, file.parent.parent):
        for base in sorted(folder.glob(f"{_BASE}*.safetensors")):
            try:
                other = SafetensorsFile(base)
            except WeightsError:
                continue
            entry = other.entries.get(probe)
            if entry is not None and entry.shape == tensors.entries[stored].shape:
                mine, theirs = tensors.read(stored), other.read(probe)
                return torch.equal(mine, theirs.to(mine.dtype))
    return False
