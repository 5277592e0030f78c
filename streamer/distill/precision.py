"""What trainings compute in: float32, or matrix products in bfloat16."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


@contextmanager
def computing(device: torch.device, is_bf16: bool) -> Iterator[None]:
    """Inside, passes run in bfloat16 where that is safe, if asked for."""
    with attending(device, is_bf16):
        # Without the cache: a weight first cast in a pass without gradients would be found there by
        # a later pass that needs them.
        with torch.autocast(device.type, torch.bfloat16, enabled=is_bf16, cache_enabled=False):
            yield


@contextmanager
def attending(device: torch.device, is_bf16: bool) -> Iterator[None]:
    """Inside, attention is computed as in passes; for backward, where layers may run again."""
    with ExitStack() as stack:
        if is_bf16:
            stack.enter_context(warnings.catch_warnings())
            # That a norm of bfloat16 has float32 weights is meant.
            warnings.filterwarnings("ignore", message="Mismatch dtype between input and weight")
        if is_bf16 and device.type == "cpu":  # where the fused backward is the slow one
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        yield
