"""Writes a tiny transformer in each layout that real checkpoints come in."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from streamer.models.checkpoints.layouts import split_leaf, transformer_module_to_diffusers
from streamer.models.context import FullContext
from streamer.models.transformer import CausalWanTransformer, TransformerConfig

CONFIG = TransformerConfig(
    width=32,
    num_heads=2,
    ffn_width=48,
    num_layers=3,
    text_width=16,
    text_length=4,
    freq_width=16,
)
State = dict[str, Tensor]


def tiny(seed: int = 0, config: TransformerConfig = CONFIG) -> CausalWanTransformer:
    """A transformer with random weights: always the same for the same seed."""
    torch.manual_seed(seed)
    return CausalWanTransformer(config).requires_grad_(False)


def empty(config: TransformerConfig = CONFIG) -> CausalWanTransformer:
    """The same network without memory."""
    with torch.device("meta"):
        return CausalWanTransformer(config)


@torch.no_grad()
def output(model: CausalWanTransformer) -> Tensor:
    """What the network answers to fixed inputs."""
    generator = torch.Generator().manual_seed(5)
    latents = torch.randn(1, 2, 16, 4, 4, generator=generator)
    text = model.encode_text(torch.randn(1, 3, 16, generator=generator))
    return model(latents, torch.tensor([700.0]), text, FullContext())


def diffusers_names(state: State) -> State:
    """A state dictionary under diffusers' names."""
    renamed = {}
    for name, tensor in state.items():
        module, leaf = split_leaf(name)
        theirs = transformer_module_to_diffusers(module)
        assert theirs is not None, name
        renamed[theirs + leaf] = tensor
    return renamed


def wrapped(state: State, prefix: str = "model.") -> State:
    """The names that FSDP leaves behind: wrappers around the network and around each block."""
    renamed = {}
    for name, tensor in state.items():
        head, *rest = name.split(".")
        if head == "blocks":
            name = ".".join([head, rest[0], "_fsdp_wrapped_module", *rest[1:]])
        renamed[f"{prefix}_fsdp_wrapped_module.{name}"] = tensor
    return renamed


def prefixed(state: State, prefix: str = "model.") -> State:
    """Every name behind a prefix."""
    return {prefix + name: tensor for name, tensor in state.items()}


def write_shards(state: State, folder: Path, count: int = 3, *, index: bool = True) -> Path:
    """safetensors in shards, as Wan publishes the 14B."""
    folder.mkdir(parents=True, exist_ok=True)
    names = list(state)
    weight_map = {}
    for shard in range(count):
        file = f"diffusion_pytorch_model-{shard + 1:05}-of-{count:05}.safetensors"
        part = {name: state[name] for name in names[shard::count]}
        save_file(part, folder / file)
        weight_map |= dict.fromkeys(part, file)
    if index:
        text = json.dumps({"metadata": {}, "weight_map": weight_map})
        (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(text)
    return folder


def _pickle(tree: object, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(tree, path)
    return path


def _safetensors(state: State, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, path)
    return path


def _lightx2v_folder(state: State, folder: Path, name: str) -> Path:
    """LightX2V's way: the teacher's folder, and the causal model in it."""
    write_shards({key: tensor + 1 for key, tensor in state.items()}, folder)
    (folder / "config.json").write_text(json.dumps({"_class_name": "WanModel"}))
    if name.endswith(".safetensors"):
        _safetensors(state, folder / name)
    else:
        _pickle(state, folder / name)
    return folder


def _diffusers_folder(state: State, folder: Path) -> Path:
    write_shards(diffusers_names(state), folder / "transformer", 2)
    about = {"_class_name": "CausalWanTransformer3DModel"}
    (folder / "transformer" / "config.json").write_text(json.dumps(about))
    return folder


LAYOUTS: dict[str, Callable[[State, Path], Path]] = {
    "causal_model.pt": lambda s, d: _pickle(s, d / "causal_model.pt"),
    "causal_model.safetensors": lambda s, d: _safetensors(s, d / "causal_model.safetensors"),
    "causvid_models folder": lambda s, d: _lightx2v_folder(
        s, d / "Wan2.1-T2V-14B", "causvid_models/causal_model.pt"
    ),
    "causvid_model.pt beside the teacher": lambda s, d: _lightx2v_folder(
        s, d / "Wan2.1-T2V-14B", "causvid_model.pt"
    ),
    "CausVid model.pt": lambda s, d: _pickle(
        {"generator": prefixed(s), "critic": prefixed({k: t * 2 for k, t in s.items()})},
        d / "autoregressive_checkpoint" / "model.pt",
    ),
    "Self-Forcing generator_ema": lambda s, d: _pickle(
        {"generator": prefixed({k: t * 2 for k, t in s.items()}), "generator_ema": wrapped(s)},
        d / "self_forcing_dmd.pt",
    ),
    "Self-Forcing generator": lambda s, d: _pickle(
        {"generator": prefixed(s), "step": 600}, d / "checkpoints" / "self_forcing_dmd.pt"
    ),
    "Self-Forcing 14B": lambda s, d: _safetensors(
        prefixed(s), d / "self_forcing_dmd_14b.safetensors"
    ),
    "Self-Forcing 14B without prefix": lambda s, d: _safetensors(
        s, d / "self_forcing_dmd_14b.safetensors"
    ),
    "Krea": lambda s, d: _safetensors(prefixed(s), d / "krea-realtime-video-14b.safetensors"),
    "LongLive base": lambda s, d: _pickle(
        {"generator": wrapped(s, "")}, d / "models" / "longlive_base.pt"
    ),
    "compiled": lambda s, d: _pickle(prefixed(s, "_orig_mod."), d / "causal.pt"),
    "ComfyUI": lambda s, d: _safetensors(
        prefixed(s, "model.diffusion_model."), d / "causvid.safetensors"
    ),
    "diffusers folder": lambda s, d: _diffusers_folder(s, d / "causal"),
    "shards without index": lambda s, d: write_shards(s, d / "shards", index=False),
    "any name at all": lambda s, d: _safetensors(s, d / "xyz.bin"),
}
"""Layout -> writes a state dictionary into a folder and returns what a user would name."""
