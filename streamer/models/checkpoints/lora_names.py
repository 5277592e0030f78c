"""Names in LoRA files: two small matrices, or a plain difference, for each changed module.

Known are PEFT's names (`lora_A`, `lora_B`), the older diffusers and kohya ones (`lora_down`,
`lora_up`, and dots written as underscores), and the differences that extracted Wan LoRAs carry for
norms and biases (`diff`, `diff_b`, `diff_m`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from streamer.models.checkpoints.layouts import canonical, transformer_module

Part = Literal["down", "up", "alpha", "diff", "diff_b", "diff_m"]

SUFFIXES: tuple[tuple[str, Part], ...] = (
    (".lora_A.default.weight", "down"),
    (".lora_B.default.weight", "up"),
    (".lora_A.weight", "down"),
    (".lora_B.weight", "up"),
    (".lora_down.weight", "down"),
    (".lora_up.weight", "up"),
    (".lora.down.weight", "down"),
    (".lora.up.weight", "up"),
    ("_lora.down.weight", "down"),
    ("_lora.up.weight", "up"),
    (".alpha", "alpha"),
    (".diff_b", "diff_b"),
    (".diff_m", "diff_m"),
    (".diff", "diff"),
)
PREFIXES = ("base_model.model.", "transformer.", "diffusion_model.", "model.", "unet.")
FLAT_PREFIXES = ("lora_unet_", "lora_transformer_")
"""kohya's: the module's dots are underscores behind these."""


def is_lora(names: Iterable[str]) -> bool:
    """Whether these are the names of a LoRA."""
    return any(is_half(name) for name in names)


def is_half(name: str) -> bool:
    """Whether this is one of the two small matrices."""
    split = split_part(name)
    return split is not None and split[1] in ("down", "up")


def split_part(name: str) -> tuple[str, Part] | None:
    """A name as the module that it changes, and what of it this is; None for other names."""
    for suffix, part in SUFFIXES:
        if name.endswith(suffix):
            return name.removesuffix(suffix), part
    return None


def target(module: str, modules: Mapping[str, str]) -> str | None:
    """The module of ours that a LoRA names; None when there is none.

    modules: our module names with dots written as underscores -> with dots.
    """
    for prefix in FLAT_PREFIXES:
        if module.startswith(prefix):
            flat = module.removeprefix(prefix)
            return modules.get(flat) or modules.get(_unflattened(flat, modules))
    name = module
    for prefix in PREFIXES:
        name = name.removeprefix(prefix)
    name = canonical(name) or name
    for candidate in (name, transformer_module(name)):
        if candidate is not None and candidate.replace(".", "_") in modules:
            return candidate
    return None


def _unflattened(flat: str, modules: Mapping[str, str]) -> str:
    """A diffusers name with underscores for dots, as ours with underscores for dots."""
    for ours in modules.values():
        theirs = _diffusers_name(ours)
        if theirs is not None and theirs.replace(".", "_") == flat:
            return ours.replace(".", "_")
    return ""


def _diffusers_name(ours: str) -> str | None:
    from streamer.models.checkpoints.layouts import transformer_module_to_diffusers

    return transformer_module_to_diffusers(ours)
