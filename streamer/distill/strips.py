"""Cutting pictures out of strips: panoramas that lie column by column and repeat.

A camera position is a run of rows of a table, so that scrolling costs a copy.
"""

from __future__ import annotations

import torch
from torch import Tensor


def cut(
    table: Tensor, first_row: Tensor | None, left_px: Tensor, width: int, columns: int
) -> Tensor:
    """Cut a picture's width out of strips, between pixels by linear interpolation.

    table: [strips * columns, R].  first_row: [N] index of each frame's strip, or None for the
    first.  left_px: [N] camera positions in pixels, wrapped around.  Result: [N, width, R].
    """
    whole = torch.floor(left_px)
    part = (left_px - whole)[:, None, None]
    steps = torch.arange(width + 1, device=table.device)
    index = torch.remainder(whole.long()[:, None] + steps, columns)
    if first_row is not None:
        index = index + (first_row * columns)[:, None]
    picture = table.index_select(0, index.flatten()).view(len(left_px), width + 1, -1)
    return torch.lerp(picture[:, :-1], picture[:, 1:], part)
