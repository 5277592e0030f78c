"""Rotary tables: the angle of every token and channel pair, for positions without limit."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_BASE = 10000.0


def axis_channels(head_width: int) -> tuple[int, int, int]:
    """Channels of a head for time, row and column; time takes the rest (128 -> 44, 42, 42)."""
    space = 2 * (head_width // 6)
    return head_width - 2 * space, space, space


def _phases(positions: Tensor, channels: int) -> Tensor:
    """Cosine and sine of position * 10000^(-2i/channels): [P] -> [P, channels/2, 2], float64.

    RoPE, Su et al. 2021, arXiv:2104.09864, section 3.3.
    """
    exponents = torch.arange(0, channels, 2, dtype=torch.float64) / channels
    angles = positions.double()[:, None] * _BASE**-exponents
    return torch.stack([angles.cos(), angles.sin()], dim=-1)


def time_phases(frames: Sequence[int], head_width: int) -> Tensor:
    """The time part of the tables of some frames: [F, pairs of time, 2], float64 on the host."""
    return _phases(torch.tensor(frames, dtype=torch.int64), axis_channels(head_width)[0])


def space_phases(rows: int, columns: int, head_width: int) -> Tensor:
    """The part that all frames share: [rows * columns, other pairs, 2], float64 on the host."""
    _, row_channels, column_channels = axis_channels(head_width)
    of_rows = _phases(torch.arange(rows), row_channels)[:, None].expand(-1, columns, -1, -1)
    of_columns = _phases(torch.arange(columns), column_channels)[None].expand(rows, -1, -1, -1)
    return torch.cat([of_rows, of_columns], dim=2).flatten(0, 1)


def token_table(frames: Sequence[int], rows: int, columns: int, head_width: int) -> Tensor:
    """The table of some frames, ordered frame, row, column: [N, D/2, 2], float64 on the host."""
    time = time_phases(frames, head_width)[:, None].expand(-1, rows * columns, -1, -1)
    space = space_phases(rows, columns, head_width)[None].expand(len(frames), -1, -1, -1)
    return torch.cat([time, space], dim=2).flatten(0, 1)


def shift_table(num_frames: int, head_width: int) -> Tensor:
    """The rotation that moves a token by `num_frames` in time: [1, D/2, 2], float64 on the host."""
    table = torch.zeros(1, head_width // 2, 2, dtype=torch.float64)
    table[..., 0] = 1.0
    time = time_phases([num_frames], head_width)
    table[:, : time.shape[1]] = time
    return table


def table_dtype(dtype: torch.dtype) -> torch.dtype:
    """Tables are never kept in sixteen bits: float64 for float64 models, float32 for all others."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def sent(numbers: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Numbers of the host on a device; from pinned memory, so that the host need not wait."""
    numbers = numbers.to(dtype)
    if device.type == "cuda":
        numbers = numbers.pin_memory()
    return numbers.to(device, non_blocking=device.type == "cuda")
