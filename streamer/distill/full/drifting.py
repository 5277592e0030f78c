"""What drifts through the air or the water of the full edition: leaves, fireflies, bubbles.

Tiles that repeat in both directions, column by column like scenery's strips, [columns, C, H].
"""

from __future__ import annotations

import math
import random

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from streamer.distill.full.brush import lay_over, load_prop
from streamer.distill.strips import cut

TILE_COLUMNS = 2.0  # the width of a tile, in picture heights
_LEAVES = ("wind leaf", "maple leaf", "fallen leaf", "maple leaf")


def _scatter_props(height: int, count: int, seed: int, size: float) -> Tensor:
    """Small turned sprites all over a tile: premultiplied RGBA [columns, 4, H]."""
    scale = 2
    width, depth = round(TILE_COLUMNS * height) * scale, height * scale
    tile = Image.new("RGBA", (width, depth))
    chance = random.Random(seed)
    for number in range(count):
        image = load_prop(_LEAVES[number % len(_LEAVES)])
        side = size * (0.8 + 0.4 * chance.random()) * depth / max(image.size)
        wanted = (max(2, round(image.width * side)), max(2, round(image.height * side)))
        image = image.convert("RGBa").resize(wanted, Image.Resampling.LANCZOS).convert("RGBA")
        image = image.rotate(360 * chance.random(), Image.Resampling.BICUBIC, expand=True)
        x = round(width * (number + 0.8 * chance.random()) / count)
        y = round(depth * ((number * 0.618 + 0.2 * chance.random()) % 1))
        for dx in (-width, 0):
            for dy in (-depth, 0):
                lay_over(tile, image, (x % width + dx, y % depth + dy))
    small = np.asarray(tile.convert("RGBa").reduce(scale), dtype=np.float32) / 255
    return torch.from_numpy(small).permute(1, 2, 0).contiguous()


def _scatter_dots(height: int, count: int, seed: int, radius: float, *, is_ring: bool) -> Tensor:
    """Soft dots, or rings, all over a tile: [columns, 1, H] in 0..1."""
    columns = round(TILE_COLUMNS * height)
    chance = random.Random(seed)
    tile = torch.zeros(columns, height)
    for number in range(count):
        cx = TILE_COLUMNS * (number + 0.8 * chance.random()) / count
        cy = (number * 0.618 + 0.25 * chance.random()) % 1
        size = radius * (0.6 + 0.8 * chance.random())
        reach = math.ceil((6 * size if not is_ring else 1.5 * size) * height) + 2
        near = torch.arange(-reach, reach + 1)
        across, down = near + math.floor(cx * height), near + math.floor(cy * height)
        dx = ((across + 0.5) / height - cx)[:, None]
        dy = ((down + 0.5) / height - cy)[None, :]
        far = torch.sqrt(dx.square() + dy.square())
        if is_ring:
            edge = torch.exp(-(((far - size) * height / 1.1) ** 2)) * 0.8
            spot = torch.exp(-((dx + 0.4 * size) ** 2 + (dy + 0.4 * size) ** 2) / (0.3 * size) ** 2)
            dot = torch.maximum(edge, torch.maximum(spot, 0.18 * (far < size)))
        else:
            dot = torch.exp(-((far / (0.35 * size)) ** 2)) + 0.45 * torch.exp(-far / (0.8 * size))
        place = (torch.remainder(across, columns)[:, None], torch.remainder(down, height)[None])
        tile[place] = torch.maximum(tile[place], dot)
    return tile.clamp(0, 1)[:, None].contiguous()


def slide(tile: Tensor, right: Tensor, down: Tensor, width: int) -> Tensor:
    """A picture's width of a tile that has moved: [N, width, C, H].

    tile: [columns, C, H].  right, down: [N], in picture heights.
    """
    columns, channels, height = tile.shape
    sheet = cut(tile.flatten(1), None, -right * height, width, columns)
    sheet = sheet.view(len(right), width, channels, height)
    shift = torch.remainder(-down, 1.0) * height
    whole = torch.floor(shift)
    rows = torch.arange(height, device=tile.device) + whole.long()[:, None]
    upper = sheet.gather(3, torch.remainder(rows, height)[:, None, None].expand(sheet.shape))
    lower = sheet.gather(3, torch.remainder(rows + 1, height)[:, None, None].expand(sheet.shape))
    return torch.lerp(upper, lower, (shift - whole)[:, None, None, None])


class Drift:
    """Tiles on a device.  Immutable; owned by a painter."""

    def __init__(self, device: torch.device, height: int) -> None:
        self.near_leaves = _scatter_props(height, 9, 3, 0.075).to(device)
        self.far_leaves = _scatter_props(height, 16, 5, 0.042).to(device)
        self.glows = tuple(
            _scatter_dots(height, 13, seed, 0.045, is_ring=False).to(device) for seed in (7, 8)
        )
        self.bubbles = _scatter_dots(height, 15, 9, 0.018, is_ring=True).to(device)

    def leaves(self, t: Tensor, camera: Tensor, width: int) -> Tensor:
        """Falling leaves, premultiplied RGBA [N, width, 4, H]; they sway as they fall."""
        sway = 0.05 * torch.sin(1.3 * t)
        near = slide(self.near_leaves, 0.10 * t + sway - camera * 0.9, 0.20 * t, width)
        far = slide(self.far_leaves, 0.06 * t - sway - camera * 0.5, 0.12 * t, width)
        return near + far * (1 - near[:, :, 3:])

    def fireflies(self, t: Tensor, camera: Tensor, width: int) -> Tensor:
        """Glowing dots that wander and twinkle: [N, width, 1, H]."""
        total = torch.zeros(1, device=t.device)
        for number, tile in enumerate(self.glows):
            phase = 2.1 * number
            right = 0.05 * torch.sin(0.7 * t + phase) - camera * (0.5 + 0.3 * number)
            down = 0.06 * torch.sin(0.9 * t + 2 * phase) - 0.01 * t
            shine = 0.62 + 0.38 * torch.sin(2.3 * t + phase)
            total = total + slide(tile, right, down, width) * shine[:, None, None, None]
        return total

    def rising(self, t: Tensor, camera: Tensor, width: int) -> Tensor:
        """Bubbles on their way up: [N, width, 1, H]."""
        return slide(self.bubbles, 0.02 * torch.sin(1.9 * t) - camera * 0.7, -0.16 * t, width)
