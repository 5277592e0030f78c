"""Draws: the chance numbers of a step, made where they are used, and what a step sends there.

A step is settled by one generator on the CPU, so that it repeats itself anywhere.  Noise for a GPU
is made on the GPU, by a generator that is seeded from that one: a hundred million normal numbers a
second is what a CPU core makes, and a large batch would wait for them.  Nothing here waits for the
device, so the host runs ahead of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def draw_noise(
    shape: Sequence[int], generator: torch.Generator, device: torch.device | str
) -> Tensor:
    """Normal numbers, float32, on a device.

    generator: on the CPU.  On a GPU the numbers differ from the CPU's, but are the same each time.
    """
    device = torch.device(device)
    if device.type != "cuda":
        return torch.randn(*shape, generator=generator).to(device)
    own = torch.Generator(device)
    own.manual_seed(int(torch.randint(1 << 62, (), generator=generator)))
    return torch.randn(*shape, generator=own, device=device)


def send(tensor: Tensor, device: torch.device | str) -> Tensor:
    """A tensor on a device.  From the host to a GPU it goes by pinned memory, without waiting."""
    device = torch.device(device)
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
