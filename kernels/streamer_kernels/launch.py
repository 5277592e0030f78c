"""What every launch of a Triton kernel checks and knows.

Triton reads TRITON_INTERPRET when it is imported, for good: kernels then run on CPU tensors.
"""

from __future__ import annotations

from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

IS_INTERPRETED = bool(triton.knobs.runtime.interpret)
OPERANDS = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}
"""The element types that kernels read and write."""


def check_inputs(op: str, floats: dict[str, Tensor | None], *others: Tensor) -> None:
    """Raises for what no kernel may be given, named after the operation.

    floats: tensors by name; all must have the element type of the first.  None is skipped.
    others: tensors of any type that must lie on the same device.
    Raises RuntimeError when a gradient is wanted or the device is wrong, ValueError for mixed or
    unknown element types.
    """
    named = {name: tensor for name, tensor in floats.items() if tensor is not None}
    name, first = next(iter(named.items()))
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in named.values()):
        raise RuntimeError(
            f"the triton {op} has no backward pass; run it under torch.no_grad() or differentiate "
            "load_ops('torch')"
        )
    if first.device.type != "cuda" and not IS_INTERPRETED:
        raise RuntimeError(
            f"the triton {op} runs on CUDA devices, {name} is on {first.device}; use "
            "load_ops('torch'), or set TRITON_INTERPRET=1 before Python starts to interpret the "
            "kernel"
        )
    if first.dtype not in OPERANDS:
        raise ValueError(
            f"{name} is {first.dtype}, expected one of {', '.join(map(str, OPERANDS))}"
        )
    for other, tensor in named.items():
        if tensor.dtype != first.dtype or tensor.device != first.device:
            raise ValueError(
                f"{other} is {tensor.dtype} on {tensor.device}, {name} is {first.dtype} on "
                f"{first.device}"
            )
    if any(tensor.device != first.device for tensor in others):
        raise ValueError(f"all tensors of {op} must lie on {first.device}, where {name} is")


def check_shape(name: str, tensor: Tensor, expected: tuple[int, ...]) -> None:
    """Raises ValueError when a tensor has another shape than expected."""
    if tuple(tensor.shape) != expected:
        raise ValueError(f"{name} is {tuple(tensor.shape)}, expected {expected}")


def check_reach(name: str, tensor: Tensor) -> None:
    """Raises ValueError when the last dimension has gaps or a sample is too large for 32 bits."""
    if tensor.stride(-1) != 1:
        raise ValueError(
            f"{name} has strides {tensor.stride()}, the last one must be 1; call .contiguous()"
        )
    sizes, strides = tensor.shape[1:], tensor.stride()[1:]
    longest = sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
    if longest >= 2**31:
        raise ValueError(
            f"{name} spans {longest} elements in a sample, more than a 32-bit offset reaches"
        )


def power_of_two(size: int) -> int:
    """The next power of two, which is what a kernel can hold at once."""
    return max(1, 1 << (size - 1).bit_length())


def row_warps(size: int) -> int:
    """Warps for a program that holds a row of so many elements: 8 to 16 elements a thread.

    Chosen by compiling (`python -m streamer_kernels.check`): nothing spills.  Untuned.
    """
    return 1 if IS_INTERPRETED else min(16, max(1, power_of_two(size) // 512))


@cache
def num_processors(device: torch.device) -> int:
    """Streaming multiprocessors of a CUDA device; 1 elsewhere."""
    if device.type != "cuda":
        return 1
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


@cache
def capability(device: torch.device) -> int:
    """The compute capability of a CUDA device as in sm_90; 0 elsewhere."""
    if device.type != "cuda":
        return 0
    major, minor = torch.cuda.get_device_capability(device)
    return major * 10 + minor
