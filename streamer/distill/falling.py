"""What falls from the sky in every edition: rain and snow as tiles that repeat in both directions.

Tiles lie column by column like scenery's strips.  Lengths are in picture heights.
"""

from __future__ import annotations

import math
import random

import torch
from torch import Tensor

from streamer.distill.strips import cut

TILE_COLUMNS = 2.0  # the width of a tile, in picture heights


def _marks(height: int, count: int, seed: int, reach: tuple[float, float], slant: float) -> Tensor:
    """Soft ellipses scattered over a tile: [columns, H] in 0..1."""
    columns = round(TILE_COLUMNS * height)
    x = ((torch.arange(columns) + 0.5) / height)[:, None]
    y = ((torch.arange(height) + 0.5) / height)[None, :]
    chance = random.Random(seed)
    tile = torch.zeros(columns, height)
    side = math.ceil(math.sqrt(count / 2))
    for index in range(2 * side * side):
        cx = (index % (2 * side) + 0.15 + 0.7 * chance.random()) / side
        cy = (index // (2 * side) + 0.15 + 0.7 * chance.random()) / side
        scale = 0.75 + 0.5 * chance.random()
        dy = torch.remainder(y - cy + 0.5, 1.0) - 0.5
        dx = torch.remainder(x - cx + slant * dy + 1.0, TILE_COLUMNS) - 1.0
        distance = torch.sqrt((dx / (reach[0] * scale)) ** 2 + (dy / (reach[1] * scale)) ** 2)
        tile = torch.maximum(tile, ((1 - distance) * reach[0] * scale * height + 0.5).clamp(0, 1))
    return tile


class Sky:
    """Tiles of rain and snow on a device.  Immutable; owned by a Renderer."""

    def __init__(self, device: torch.device, height: int) -> None:
        self.height = height
        self.columns = round(TILE_COLUMNS * height)
        self.rain = _marks(height, 40, 3, (0.0075, 0.06), 0.15).to(device)
        self.near_snow = _marks(height, 16, 5, (0.021, 0.021), 0.0).to(device)
        self.far_snow = _marks(height, 44, 7, (0.012, 0.012), 0.0).to(device)

    def fall(self, tile: Tensor, speed: float, drift: Tensor, t: Tensor, width: int) -> Tensor:
        """How much each pixel is covered: [N, width, H].

        speed: picture heights per second downwards.  drift: [N] how far the tile has moved to the
        left.  t: [N] seconds.
        """
        sheet = cut(tile, None, drift * self.height, width, self.columns)
        down = torch.remainder(-t * speed, 1.0) * self.height
        whole = torch.floor(down)
        rows = torch.arange(self.height, device=t.device) + whole.long()[:, None]
        shape = (len(t), width, self.height)
        upper = sheet.gather(2, torch.remainder(rows, self.height)[:, None, :].expand(shape))
        lower = sheet.gather(2, torch.remainder(rows + 1, self.height)[:, None, :].expand(shape))
        return torch.lerp(upper, lower, (down - whole)[:, None, None])

    def raining(self, t: Tensor, camera: Tensor, width: int) -> Tensor:
        """Slanted streaks: [N, width, H].  They fall along their slant."""
        return self.fall(self.rain, 1.1, camera * 0.6 + 0.15 * 1.1 * t, t, width)

    def snowing(self, t: Tensor, camera: Tensor, width: int) -> Tensor:
        """Large near flakes over small far ones, swaying: [N, width, H]."""
        sway = 0.03 * torch.sin(0.9 * t)
        near = self.fall(self.near_snow, 0.30, camera * 0.8 + sway, t, width)
        far = self.fall(self.far_snow, 0.18, camera * 0.4 - sway, t, width)
        return torch.maximum(near, far * 0.85)
