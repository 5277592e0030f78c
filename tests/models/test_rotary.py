"""Rotary tables: which channels carry what, and positions without limit."""

from __future__ import annotations

import torch
from streamer_kernels.qk_norm_rope import rotate

from streamer.models.rotary import axis_channels, shift_table, time_phases, token_table


def test_channels_are_split_as_published() -> None:
    assert axis_channels(128) == (44, 42, 42)
    assert axis_channels(64) == (24, 20, 20)
    assert axis_channels(32) == (12, 10, 10)


def test_a_table_is_ordered_frame_row_column() -> None:
    table = token_table([5, 9], rows=2, columns=3, head_width=32)
    assert table.shape == (12, 16, 2)
    # Pair 0 of each axis turns by the position itself.
    frame, row, column = torch.atan2(table[..., 1], table[..., 0])[6 + 3 + 2, [0, 6, 11]]
    assert torch.allclose(torch.cos(frame), torch.cos(torch.tensor(9.0, dtype=torch.float64)))
    assert torch.allclose(row, torch.tensor(1.0, dtype=torch.float64))
    assert torch.allclose(column, torch.tensor(2.0, dtype=torch.float64))


def test_a_shift_moves_in_time_only() -> None:
    x = torch.randn(1, 6, 1, 32, dtype=torch.float64)
    here, there = (token_table([frame], 2, 3, 32) for frame in (7, 4))
    moved = rotate(rotate(x, here), shift_table(-3, 32))
    torch.testing.assert_close(moved, rotate(x, there), rtol=0, atol=1e-13)


def test_distances_keep_their_meaning_at_any_position() -> None:
    x, y = torch.randn(2, 1, 1, 1, 32, dtype=torch.float64)
    scores = []
    for start in (0, 10_000_000):
        one, other = (token_table([start + frame], 1, 1, 32) for frame in (2, 6))
        scores.append((rotate(x, one) * rotate(y, other)).sum())
    # An angle of 1e7 is rounded to 2e-9.
    torch.testing.assert_close(scores[0], scores[1], rtol=0, atol=1e-7)


def test_time_phases_are_computed_in_float64() -> None:
    phases = time_phases([1_000_003], 128)
    assert phases.dtype == torch.float64
    expected = torch.tensor(1_000_003 * 10000.0 ** (-2 / 44), dtype=torch.float64)
    torch.testing.assert_close(phases[0, 1, 1], expected.sin(), rtol=0, atol=1e-9)
