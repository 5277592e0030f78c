"""The kernels that a model computes with on this machine, as its configuration asks."""

from __future__ import annotations

import logging

import torch
from streamer_kernels import Ops, load_ops

from streamer.config import Config, ModelSection
from streamer.errors import ConfigError
from streamer.models.transformer import TransformerConfig

log = logging.getLogger(__name__)

Chosen = tuple[tuple[str, str], ...]
"""Operations, joined by `+`, and the backend that serves them."""


def choose_operations(
    config: Config, model: ModelSection, device: torch.device, latent_size: tuple[int, int]
) -> tuple[Ops, Chosen]:
    """The operations for a model at its steady state, and who serves which.

    latent_size: rows and columns of the latents.
    Raises ConfigError for kernels that cannot run here.
    """
    if model.kernels == "torch" or (model.kernels == "auto" and device.type != "cuda"):
        return _told(load_ops("torch"), (("all", "torch"),))
    if model.kernels == "compile":
        return _told(load_ops("compile"), (("all", "torch-compile"),))
    if model.kernels == "triton":
        if device.type != "cuda":
            raise ConfigError(
                f"{config.name}: model.kernels is 'triton', which runs on CUDA devices; the device "
                f"is {device.type!r}; choose 'auto' or 'torch'"
            )
        try:
            return _told(load_ops("triton"), (("all", "triton"),))
        except ImportError as error:
            raise ConfigError(
                f"{config.name}: model.kernels is 'triton', which is not installed ({error}); "
                "pip install 'streamer[gpu]', or choose 'auto'"
            ) from error
    # Here, so that a machine without a GPU need not load what measures one.
    from streamer_kernels.choose import choose_ops
    from streamer_kernels.memory import default_path
    from streamer_kernels.workload import Shape

    section, sizes = config.stream, TransformerConfig.of(model.transformer)
    rows, columns = sizes.grid(*latent_size)
    tokens, frames = rows * columns, section.num_frame_per_block
    shape = Shape(
        num_heads=sizes.num_heads,
        head_width=sizes.head_width,
        ffn_width=sizes.ffn_width,
        num_frames=frames,
        num_queries=frames * tokens,
        num_valid=(section.window or 7 * frames) * tokens,
        num_sink=0 if section.absolute_positions else section.sink * tokens,
        picture=(4 * frames, section.height, section.width),
        ring=model.eight_bit_cache,
    )
    dtype = getattr(torch, model.transformer.dtype)
    ops, choices = choose_ops(shape, device, dtype=dtype, path=default_path())
    return _told(ops, tuple(("+".join(each.fields), each.name) for each in choices))


def _told(ops: Ops, chosen: Chosen) -> tuple[Ops, Chosen]:
    for operation, backend in chosen:
        log.info("event=operations_chosen op=%s backend=%s", operation, backend)
    return ops, chosen
