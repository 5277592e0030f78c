"""Blueprint: what a training of the diffusion transformer takes from a model's configuration."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from pydantic import TypeAdapter
from safetensors import safe_open
from torch import Tensor

from streamer.config import Config, load_config
from streamer.distill.ranks import is_main, whole
from streamer.engine.parts import read_steps
from streamer.errors import ConfigError, WeightsError
from streamer.models.cache import RingLayout
from streamer.models.checkpoint import load_weights, save_weights
from streamer.models.sampler import DenoisingSteps
from streamer.models.transformer import CausalWanTransformer, TransformerConfig

UNLIMITED_FRAMES = 240
"""Latent frames that a rollout without a window (window 0) may have."""
_SIZES = TypeAdapter(TransformerConfig)
MAX_FILE_VALUES = 2**29
"""Numbers in one file of an export, a gigabyte of float16."""
TRANSFORMER_FILE = "transformer.safetensors"


@dataclass(frozen=True)
class Blueprint:
    """Sizes of the network, the window it streams over, its few steps.

    context_timestep: what the pass that writes history is told.  examples: texts to draw.
    """

    name: str
    transformer: TransformerConfig
    layout: RingLayout
    steps: DenoisingSteps
    context_timestep: float
    examples: tuple[str, ...]


def load_blueprint(source: str | None) -> Blueprint:
    """Read it from a shipped configuration or a file.

    Raises ConfigError for a configuration without a transformer.
    """
    return blueprint_of(load_config(source))


def blueprint_of(config: Config) -> Blueprint:
    """Take it from a configuration.  Raises ConfigError for one without a transformer."""
    if config.model is None:
        raise ConfigError(f"{config.name}: there is no transformer to train")
    stream = config.stream
    return Blueprint(
        config.name,
        TransformerConfig.of(config.model.transformer),
        RingLayout(
            stream.window or None,
            stream.sink,
            stream.num_frame_per_block,
            capacity=None if stream.window else UNLIMITED_FRAMES,
        ),
        read_steps(config.model),
        config.model.sampler.context_noise,
        tuple(config.examples),
    )


def new_transformer(sizes: TransformerConfig, seed: int) -> CausalWanTransformer:
    """A network with weights to train from, the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = CausalWanTransformer(sizes)
        network.initialise()
    return network


def transformer_files(folder: Path) -> list[Path]:
    """The file or files of an export's network.  Raises WeightsError when there is none."""
    paths = sorted(folder.glob("transformer*.safetensors"))
    if not paths:
        raise WeightsError(f"{folder}: holds no transformer*.safetensors; is it an export?")
    return paths


def read_transformer(folder: Path, sizes: TransformerConfig) -> CausalWanTransformer:
    """The network of an export.

    folder: holds transformer.safetensors, or several files transformer-*.safetensors.  sizes: used
    when the file does not tell its own.
    Raises WeightsError when there is none, or it does not fit.
    """
    paths = transformer_files(folder)
    with safe_open(paths[0], framework="pt") as file:
        told = (file.metadata() or {}).get("config")
    network = CausalWanTransformer(_SIZES.validate_json(told) if told else sizes)
    load_weights(network, paths)
    return network


def write_transformer(network: CausalWanTransformer, folder: Path) -> None:
    """Export a network for `read_transformer` and for serving, float16, with its sizes.

    All ranks take part; the main one writes, a file after the other, none above MAX_FILE_VALUES.
    """
    told = {"config": json.dumps(asdict(network.config))}
    files: list[dict[str, Tensor]] = [{}]
    room = MAX_FILE_VALUES
    for name, tensor in network.state_dict().items():
        if tensor.numel() > room and files[-1]:
            files.append({})
            room = MAX_FILE_VALUES
        files[-1][name] = tensor
        room -= tensor.numel()
    if is_main():
        folder.mkdir(parents=True, exist_ok=True)
    for number, tensors in enumerate(files, 1):
        parts = {name: whole(tensor) for name, tensor in tensors.items()}
        name = f"transformer-{number:02d}-of-{len(files):02d}.safetensors"
        if is_main():
            path = folder / (TRANSFORMER_FILE if len(files) == 1 else name)
            save_weights(parts, path, metadata=told)
