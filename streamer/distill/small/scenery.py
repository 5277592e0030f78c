"""Scenery: the painted strips that scroll past the camera, drawn once per renderer.

A strip is a panorama that repeats every PERIOD picture heights.  Three strips make a scene: far,
middle and ground.  Strips lie in memory column by column, [columns, channels, rows], so that a
camera position is a run of rows of a table and scrolling costs a copy.

Lengths are in picture heights: x grows to the right, y downwards from 0 (top) to 1 (bottom).
Knows nothing of time of day, weather or subjects: colours here are those of a clear noon.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

SCENES: tuple[str, ...] = ("meadow", "mountains", "desert", "ocean", "city", "forest")
PERIOD = 4.8
NUM_LAYERS = 3

Colour = tuple[float, float, float]


def hex_colour(text: str) -> Colour:
    """ "#rrggbb" as three numbers in 0..1."""
    value = int(text[1:], 16)
    return (value >> 16) / 255.0, (value >> 8 & 255) / 255.0, (value & 255) / 255.0


class Strip:
    """A strip being painted: premultiplied RGBA [4, H, columns], on the CPU.

    Owned by the function that paints it.  Shapes are masks [H, columns] with soft edges one
    pixel wide; every shape wraps around the ends of the strip.
    """

    def __init__(self, height: int) -> None:
        self.height = height
        self.columns = round(PERIOD * height)
        self.pixels = torch.zeros(4, height, self.columns)
        self.x = ((torch.arange(self.columns) + 0.5) / height)[None, :]
        self.y = ((torch.arange(height) + 0.5) / height)[:, None]

    def paint(self, mask: Tensor, top: str, bottom: str | None = None, span: float = 0.3) -> None:
        """Cover the mask with a colour, or with a vertical gradient that starts where it starts.

        mask: [H, columns] in 0..1.  span: the height over which `top` turns into `bottom`.
        """
        mask = mask.expand(self.height, self.columns)
        first = torch.tensor(hex_colour(top))[:, None, None]
        last = torch.tensor(hex_colour(bottom or top))[:, None, None]
        start = torch.where(mask > 0.5, self.y, 2.0).amin(0, keepdim=True)
        colour = torch.lerp(first, last, ((self.y - start) / span).clamp(0, 1)[None])
        layer = torch.cat([colour, torch.ones(1, self.height, self.columns)])
        self.pixels = torch.lerp(self.pixels, layer, mask[None])

    def offset(self, x: float) -> Tensor:
        """Signed distance in x from a place on the strip, around the ends."""
        return torch.remainder(self.x - x + PERIOD / 2, PERIOD) - PERIOD / 2

    def ridge(self, base: float, waves: Sequence[tuple[int, float, float]]) -> Tensor:
        """A skyline [1, columns]: base minus sine waves of (cycles per strip, height, phase)."""
        angle = self.x * (2 * math.pi / PERIOD)
        return base - sum(
            (a * torch.sin(n * angle + p) for n, a, p in waves), torch.zeros_like(angle)
        )

    def below(self, top: Tensor | float) -> Tensor:
        """Everything under a skyline."""
        return ((self.y - top) * self.height + 0.5).clamp(0, 1)

    def ellipse(self, x: float, y: float, rx: float, ry: float) -> Tensor:
        """A filled ellipse."""
        distance = torch.sqrt((self.offset(x) / rx) ** 2 + ((self.y - y) / ry) ** 2)
        return ((1 - distance) * min(rx, ry) * self.height + 0.5).clamp(0, 1)

    def box(self, x: float, top: float, half: float, bottom: float) -> Tensor:
        """A rectangle from top to bottom, half units to either side of x."""
        side = ((half - self.offset(x).abs()) * self.height + 0.5).clamp(0, 1)
        return side * self.below(top) * (1 - self.below(bottom))

    def cone(self, x: float, top: float, half: float, bottom: float) -> Tensor:
        """A triangle with its tip at the top and half units to either side at the bottom."""
        reach = half * (self.y - top) / (bottom - top)
        side = ((reach - self.offset(x).abs()) * self.height * 0.8 + 0.5).clamp(0, 1)
        return side * self.below(top) * (1 - self.below(bottom))


@dataclass(frozen=True)
class Scenery:
    """All strips on one device, ready to be cut.

    layers: NUM_LAYERS tables [scenes * columns, 4 * H], premultiplied RGBA.
    windows: [columns, H], how brightly the city's windows shine at night; clouds: [columns, H].
    stars: [columns, H].  Immutable; shared by all clips of a renderer.
    """

    layers: tuple[Tensor, ...]
    windows: Tensor
    clouds: Tensor
    stars: Tensor
    columns: int


def spread(count: int, seed: int, jitter: float = 0.3) -> list[tuple[float, float]]:
    """Places around the strip, evenly spaced and then jittered, each with a number in 0..1."""
    chance = random.Random(seed)
    gap = PERIOD / count
    return [((i + jitter * (chance.random() - 0.5)) * gap, chance.random()) for i in range(count)]


def _round_tree(strip: Strip, x: float, foot: float, size: float) -> None:
    strip.paint(strip.box(x, foot - size * 0.5, size * 0.07, foot), "#8a5a3a")
    crown = strip.ellipse(x, foot - size * 0.68, size * 0.32, size * 0.34)
    strip.paint(crown, "#3f9e48", "#2b7f3f")


def _pine(strip: Strip, x: float, foot: float, size: float, top: str, bottom: str) -> None:
    strip.paint(strip.box(x, foot - size * 0.2, size * 0.05, foot), "#6d4630")
    for tier in (2, 1, 0):
        tip = foot - size * (0.55 + 0.225 * tier)
        tail = foot - size * (0.12 + 0.25 * tier)
        half = size * (0.25 - 0.05 * tier)
        strip.paint(strip.cone(x, tip, half, tail), top, bottom, size * 0.4)


def paint_meadow(height: int) -> list[Strip]:
    """Green hills with round trees and flowers."""
    far, middle, ground = Strip(height), Strip(height), Strip(height)
    far.paint(far.below(far.ridge(0.52, [(3, 0.06, 0.3), (5, 0.025, 1.1)])), "#8fce8a", "#6fbf78")
    skyline = middle.ridge(0.64, [(2, 0.05, 2.0), (5, 0.03, 0.4)])
    for x, r in spread(5, 3):
        foot = float(skyline[0, int(x / PERIOD * middle.columns) % middle.columns]) + 0.02
        _round_tree(middle, x, foot, 0.17 + 0.06 * r)
    middle.paint(middle.below(skyline), "#6cc25a", "#4fae4c")
    ground.paint(ground.below(ground.ridge(0.76, [(2, 0.015, 0.0)])), "#8edb52", "#57b53c")
    for x, r in spread(12, 5, 0.8):
        colour = ("#ffffff", "#ffd23f", "#ff8fb1")[int(r * 3)]
        ground.paint(ground.ellipse(x, 0.82 + 0.14 * ((r * 7) % 1), 0.016, 0.012), colour)
    return [far, middle, ground]


def paint_mountains(height: int) -> list[Strip]:
    """Grey-blue peaks with white caps above slate foothills."""
    far, middle, ground = Strip(height), Strip(height), Strip(height)
    for x, r in sorted(spread(7, 11, 0.5), key=lambda place: place[1]):
        tip, half = 0.34 - 0.18 * r, 0.36 + 0.14 * r
        shape = far.cone(x, tip, half, 0.82)
        far.paint(shape, "#8d97b8", "#66708f", 0.5)
        shade = (far.offset(x) * height * 0.5 + 0.5).clamp(0, 1)
        far.paint(shape * shade * 0.35, "#4d567a")
        zigzag = 0.03 * torch.sin(far.x * (2 * math.pi / PERIOD) * 48)
        far.paint(shape * (1 - far.below(tip + 0.13 + zigzag)), "#ffffff", "#e8eefc")
    ridge = middle.ridge(0.66, [(4, 0.035, 1.0), (7, 0.025, 0.2)])
    middle.paint(middle.below(ridge), "#6f7f96", "#566a80")
    ground.paint(ground.below(ground.ridge(0.77, [(3, 0.012, 1.0)])), "#8fa39a", "#62786f")
    for x, r in spread(7, 13, 0.7):
        y = 0.81 + 0.12 * ((r * 5) % 1)
        ground.paint(ground.ellipse(x, y, 0.035 + 0.02 * r, 0.022), "#b3bdc4", "#8a969f", 0.04)
    return [far, middle, ground]


def paint_desert(height: int) -> list[Strip]:
    """Sand dunes with pyramids and cacti."""
    far, middle, ground = Strip(height), Strip(height), Strip(height)
    for x, r in spread(4, 17, 0.4):
        shape = far.cone(x, 0.40 - 0.10 * r, 0.24 + 0.12 * r, 0.66)
        far.paint(shape, "#f0c27a", "#e0a860")
        shade = (far.offset(x) * height * 0.5 + 0.5).clamp(0, 1)
        far.paint(shape * shade * 0.5, "#b9793f")
    far.paint(far.below(far.ridge(0.60, [(3, 0.025, 0.6)])), "#f3c987", "#e6b26c")
    skyline = middle.ridge(0.69, [(2, 0.035, 0.0), (3, 0.02, 1.2)])
    for x, r in spread(5, 19, 0.5):
        foot, size = 0.74, 0.18 + 0.05 * r
        for dx, top in ((-0.052, 0.62), (0.052, 0.75)):
            middle.paint(middle.box(x + dx, foot - size * top, 0.014, foot - size * 0.4), "#3f9a5a")
            middle.paint(middle.ellipse(x + dx, foot - size * top, 0.014, 0.014), "#3f9a5a")
        middle.paint(middle.box(x, foot - size * 0.42, 0.06, foot - size * 0.32), "#3f9a5a")
        middle.paint(middle.box(x, foot - size, 0.022, foot), "#48a964", "#358a4e")
        middle.paint(middle.ellipse(x, foot - size, 0.022, 0.022), "#48a964")
    middle.paint(middle.below(skyline), "#f5b96a", "#e39b4b")
    ground.paint(ground.below(ground.ridge(0.77, [(2, 0.02, 2.0)])), "#ffd98a", "#f2b765")
    for y, phase in ((0.85, 0.0), (0.93, 2.0)):
        line = ground.ridge(y, [(5, 0.008, phase)])
        ground.paint(ground.below(line) * (1 - ground.below(line + 0.012)) * 0.5, "#e3a55a")
    return [far, middle, ground]


def paint_ocean(height: int) -> list[Strip]:
    """Blue water in three bands with islands on the horizon."""
    far, middle, ground = Strip(height), Strip(height), Strip(height)
    for x, r in spread(3, 23, 0.6):
        far.paint(far.ellipse(x, 0.60, 0.24 + 0.08 * r, 0.07 + 0.03 * r), "#5fb878", "#3f9a66")
    far.paint(far.below(0.58), "#2f8fd0", "#2479bd")
    waves = middle.ridge(0.70, [(14, 0.010, 0.0)])
    middle.paint(middle.below(waves), "#2b86cf", "#1f6fb8")
    middle.paint(middle.below(waves) * (1 - middle.below(waves + 0.014)) * 0.7, "#a8e0f5")
    crest = ground.ridge(0.82, [(10, 0.016, 0.0)])
    ground.paint(ground.below(crest), "#2aa3dc", "#1774bd", 0.2)
    ground.paint(ground.below(crest) * (1 - ground.below(crest + 0.018)), "#d8f5ff")
    line = ground.ridge(0.93, [(10, 0.012, 2.0)])
    ground.paint(ground.below(line) * (1 - ground.below(line + 0.012)) * 0.6, "#8fd8f2")
    return [far, middle, ground]


def paint_city(height: int, windows: Strip) -> list[Strip]:
    """Tall buildings above a road; `windows` receives the panes, as white on nothing."""
    far, middle, ground = Strip(height), Strip(height), Strip(height)
    for x, r in spread(16, 29, 0.4):
        far.paint(far.box(x, 0.50 - 0.26 * r, 0.13, 1.0), "#9fb0cc", "#b7c4da")
    colours = (
        ("#d9715f", "#c25c4c"),
        ("#5b8fb9", "#4a7aa3"),
        ("#e3b15b", "#cf9a46"),
        ("#7d6fa8", "#695b93"),
    )
    for index, (x, r) in enumerate(spread(13, 31, 0.1)):
        top, half = 0.58 - 0.30 * r, 0.155
        middle.paint(middle.box(x, top, half, 1.0), *colours[index % 4])
        row = top + 0.05
        while row < 0.74:
            for column in (-1, 0, 1):
                pane = middle.box(x + column * 0.095, row, 0.026, row + 0.045)
                middle.paint(pane, "#e8f4fb")
                windows.paint(pane, "#ffffff")
            row += 0.095
    ground.paint(ground.below(0.76), "#c9ccd3", "#b5b9c2")
    ground.paint(ground.below(0.81), "#5d6370", "#4a4f5b")
    for x, _ in spread(10, 37, 0.0):
        ground.paint(ground.box(x, 0.945, 0.11, 0.965), "#ffe27a")
    return [far, middle, ground]


def paint_forest(height: int) -> list[Strip]:
    """Tall dark pines, row behind row."""
    far, middle, ground = Strip(height), Strip(height), Strip(height)
    for x, r in spread(26, 41, 0.6):
        far.paint(far.cone(x, 0.30 - 0.12 * r, 0.14, 0.75), "#5f9c80", "#4a866c", 0.4)
    far.paint(far.below(0.66), "#4a866c")
    for x, r in spread(13, 43, 0.5):
        _pine(middle, x, 0.80, 0.56 + 0.14 * r, "#2f8050", "#1c5a3c")
    middle.paint(middle.below(middle.ridge(0.76, [(4, 0.01, 0.0)])), "#2a6b42", "#21583a")
    ground.paint(ground.below(ground.ridge(0.79, [(3, 0.010, 0.4)])), "#7a8b3c", "#55692f")
    for x, r in spread(7, 47, 0.6):
        y = 0.86 + 0.09 * ((r * 3) % 1)
        ground.paint(ground.box(x, y, 0.010, y + 0.03), "#f4ead8")
        ground.paint(ground.ellipse(x, y, 0.028, 0.018), "#e5484d")
    return [far, middle, ground]


def _paint_clouds(strip: Strip) -> None:
    for x, r in spread(6, 53, 0.5):
        y, size = 0.12 + 0.18 * ((r * 3) % 1), 0.7 + 0.4 * r
        for dx, dy, radius in ((-0.13, 0.02, 0.06), (0.0, -0.02, 0.09), (0.13, 0.01, 0.07)):
            distance = torch.sqrt(
                strip.offset(x + dx * size) ** 2 + ((strip.y - y - dy * size) * 1.35) ** 2
            )
            strip.paint(((radius * size - distance) / 0.03 + 0.5).clamp(0, 1), "#ffffff")


def _paint_stars(strip: Strip) -> None:
    for x, r in spread(34, 59, 0.9):
        y = 0.03 + 0.45 * ((r * 17) % 1)
        radius = 0.005 + 0.005 * ((r * 5) % 1)
        strip.paint(strip.ellipse(x, y, radius, radius), "#ffffff")


def _table(pixels: Tensor) -> Tensor:
    """[C, H, columns] as one row of C * H numbers for each column."""
    return pixels.permute(2, 0, 1).flatten(1).contiguous()


def paint_scenery(height: int, device: torch.device) -> Scenery:
    """Paint every strip at a picture height in pixels and move them to a device."""
    windows, clouds, stars = Strip(height), Strip(height), Strip(height)
    painters: tuple[Callable[[int], list[Strip]], ...] = (
        paint_meadow,
        paint_mountains,
        paint_desert,
        paint_ocean,
        lambda rows: paint_city(rows, windows),
        paint_forest,
    )
    scenes = [painter(height) for painter in painters]
    _paint_clouds(clouds)
    _paint_stars(stars)
    layers = tuple(
        torch.cat([_table(scene[layer].pixels) for scene in scenes]).to(device)
        for layer in range(NUM_LAYERS)
    )
    single = [_table(strip.pixels[3:]).to(device) for strip in (windows, clouds, stars)]
    return Scenery(layers, single[0], single[1], single[2], clouds.columns)
