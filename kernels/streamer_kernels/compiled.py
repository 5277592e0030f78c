"""The references through PyTorch's own compiler: what our kernels must beat to be worth having.

For benchmarks.  Compiling takes seconds an operation, at its first call with a new shape.
Attention is left to PyTorch's operator, which the compiler does not touch either.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from streamer_kernels import Ops, load_ops

COMPILED = (
    "rotate",
    "qk_norm_rope",
    "qk_norm_rope_write",
    "modulate",
    "gate_add",
    "gate_add_modulate",
    "gate_add_layer_norm",
    "linear_gelu",
    "quantise_rows",
    "gelu_quantise_rows",
    "to_i420",
)
"""Every operation besides attention."""


def compile_ops() -> Ops:
    """The references, compiled where there is something to fuse; nothing is compiled yet."""
    ops = load_ops("torch")
    compiled = {name: torch.compile(getattr(ops, name), dynamic=False) for name in COMPILED}
    return replace(ops, **compiled)
