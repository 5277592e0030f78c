"""What the machine can do at best, measured: the yardstick for every time."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch

from streamer.engine.figures import process_peak_bytes
from streamer.engine.timeline import Timeline

REPEATS = 7


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a large square matrix product; its sums are kept in float32 on tensor cores."""
    size = 8192 if device.type == "cuda" else 768
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / _seconds(device, lambda: torch.matmul(a, b))


def copy_rate(device: torch.device) -> float:
    """Bytes a second that a copy within the device's memory reads and writes."""
    size = 2**30 if device.type == "cuda" else 2**25
    source = torch.zeros(size, device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    return 2 * size / _seconds(device, lambda: target.copy_(source))


def peak_bytes(device: torch.device) -> int:
    """The most memory so far: the device's on a GPU, the process's elsewhere."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return process_peak_bytes()


def forget_peak(device: torch.device) -> None:
    """Count memory anew: what was tried while loading is not what a stream takes."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def device_name(device: torch.device) -> str:
    """For people."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{threads} thread{'s' if threads > 1 else ''} of the processor"


def _seconds(device: torch.device, call: Callable[[], object]) -> float:
    """The median over some runs, behind two that do not count."""
    timeline = Timeline(device)
    for _ in range(2):
        call()
    spans = []
    for _ in range(REPEATS):
        first = timeline.mark()
        call()
        spans.append(timeline.milliseconds(first, timeline.mark()))
    return statistics.median(spans) / 1000
