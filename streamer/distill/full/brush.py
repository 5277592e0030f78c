"""The brush that paints scenery: shapes and sprites on a strip that repeats.

A strip is a panorama of PERIOD picture heights.  It is painted larger than it is kept, and reduced
in premultiplied colour, so that edges are smooth.  Lengths are in picture heights: x grows to the
right, y downwards from 0 (top of the picture) to 1 (bottom).  Colours are those of a clear noon.

Knows nothing of places, time of day or weather.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter
from torch import Tensor

from streamer.distill.atlas import AtlasPlan, find_atlas

PERIOD = 4.8
_OVERSIZE = 2
Point = tuple[float, float]
Wave = tuple[int, float, float]
"""Cycles per strip, height, phase."""


def hex_colour(text: str) -> tuple[float, float, float]:
    """ "#rrggbb" as three numbers in 0..1."""
    value = int(text[1:], 16)
    return (value >> 16) / 255.0, (value >> 8 & 255) / 255.0, (value & 255) / 255.0


def spread(count: int, seed: int, jitter: float = 0.5) -> list[tuple[float, float]]:
    """Places around the strip, evenly spaced and then jittered, each with a number in 0..1."""
    chance = random.Random(seed)
    gap = PERIOD / count
    return [((i + jitter * (chance.random() - 0.5)) * gap, chance.random()) for i in range(count)]


@cache
def _sheet() -> tuple[AtlasPlan, Image.Image]:
    plan = find_atlas("full")
    return plan, Image.open(plan.folder / f"{plan.stem}.webp").convert("RGBA")


@cache
def load_prop(name: str) -> Image.Image:
    """A prop of the atlas, cropped to what is visible."""
    plan, sheet = _sheet()
    index = plan.names.index(f"prop {name}")
    cell = plan.cell_px
    left, top = index % plan.columns * cell, index // plan.columns * cell
    image = sheet.crop((left, top, left + cell, top + cell))
    return image.crop(image.getchannel("A").point(lambda a: 255 * (a > 8)).getbbox())


class Brush:
    """A strip being painted, on the CPU.  Owned by the function that paints it.

    Every shape wraps around the ends of the strip.  first: the topmost row that is kept, as a share
    of the picture's height.
    """

    def __init__(self, height: int, first: float = 0.0) -> None:
        self.height = height
        self.first_row = round(first * height)
        self.columns = round(PERIOD * height)
        self.unit = height * _OVERSIZE
        size = (self.columns * _OVERSIZE, self.unit)
        self.image = Image.new("RGBA", size)
        self.glow = Image.new("L", size)
        self.has_glow = False

    # ---- shapes

    def _draw(
        self, x: float, half: float, top: float, bottom: float,
        shape: Callable[[ImageDraw.ImageDraw, float, float], None],
    ) -> list[tuple[Image.Image, tuple[int, int]]]:  # fmt: skip
        """A shape as masks with their places; more than one where it crosses an end."""
        u = self.unit
        left_px, top_px = math.floor((x - half) * u) - 1, max(0, math.floor(top * u) - 1)
        width, depth = math.ceil(2 * half * u) + 3, math.ceil(bottom * u) + 2 - top_px
        depth = min(depth, u - top_px)
        if depth <= 0 or width <= 0:
            return []
        mask = Image.new("L", (width, depth))
        shape(ImageDraw.Draw(mask), left_px, top_px)
        around = self.columns * _OVERSIZE
        start = left_px % around
        return [(mask, (place, top_px)) for place in (start, start - around) if place + width > 0]

    def _colour(
        self, masks: list[tuple[Image.Image, tuple[int, int]]], top: str, bottom: str | None,
        alpha: float,
    ) -> None:  # fmt: skip
        for mask, place in masks:
            fill = _gradient(mask.size, top, bottom or top)
            if alpha < 1:
                mask = mask.point(lambda value: round(value * alpha))
            _over(self.image, fill, mask, place)
            if self.has_glow:
                self.glow.paste(0, place, mask)

    def polygon(
        self, points: Sequence[Point], top: str, bottom: str | None = None, alpha: float = 1.0
    ) -> None:
        """A filled polygon; the colour runs from its top to its bottom."""
        xs, ys = [p[0] for p in points], [p[1] for p in points]
        middle, half = (min(xs) + max(xs)) / 2, (max(xs) - min(xs)) / 2
        u = self.unit

        def shape(draw: ImageDraw.ImageDraw, left: float, up: float) -> None:
            draw.polygon([(x * u - left, y * u - up) for x, y in points], fill=255)

        self._colour(self._draw(middle, half, min(ys), max(ys), shape), top, bottom, alpha)

    def ellipse(
        self, x: float, y: float, rx: float, ry: float, top: str, bottom: str | None = None,
        alpha: float = 1.0,
    ) -> None:  # fmt: skip
        """A filled ellipse around a point."""
        u = self.unit

        def shape(draw: ImageDraw.ImageDraw, left: float, up: float) -> None:
            box = ((x - rx) * u - left, (y - ry) * u - up, (x + rx) * u - left, (y + ry) * u - up)
            draw.ellipse(box, fill=255)

        self._colour(self._draw(x, rx, y - ry, y + ry, shape), top, bottom, alpha)

    def box(
        self, x: float, top: float, half: float, bottom: float, colour: str, low: str | None = None,
        alpha: float = 1.0,
    ) -> None:  # fmt: skip
        """A rectangle from top to bottom, half units to either side of x."""
        corners = [(x - half, top), (x + half, top), (x + half, bottom), (x - half, bottom)]
        self.polygon(corners, colour, low, alpha)

    def ridge(
        self, base: float, waves: Sequence[Wave], top: str, bottom: str, *, rim: str | None = None,
        span: float = 0.35,
    ) -> Callable[[float], float]:  # fmt: skip
        """Everything under a skyline of sine waves.  Returns its height at a place.

        rim: the colour of its sunlit edge.  span: the depth over which top turns into bottom.
        """

        def skyline(x: float) -> float:
            angle = x * 2 * math.pi / PERIOD
            return base - sum(a * math.sin(n * angle + p) for n, a, p in waves)

        if rim is not None:
            self._below(skyline, 0.0, _mix(rim, top), top, span)
            self._below(skyline, 0.004, rim, top, 0.02)
            self._below(skyline, 0.009, top, bottom, span)
        else:
            self._below(skyline, 0.0, top, bottom, span)
        return skyline

    def _below(
        self, skyline: Callable[[float], float], lower: float, top: str, bottom: str, span: float
    ) -> None:
        u, width = self.unit, self.image.width
        heights = [skyline(i / u) + lower for i in range(0, width + 1, 4)]
        points = [(4.0 * i, y * u) for i, y in enumerate(heights)]
        points.append((width + 4.0, heights[0] * u))
        mask = Image.new("L", self.image.size)
        ImageDraw.Draw(mask).polygon([*points, (width, u), (0, u)], fill=255)
        first = max(0, math.floor(min(heights) * u))
        fill = Image.new("RGB", self.image.size, bottom)
        fill.paste(_gradient((width, max(1, round(span * u))), top, bottom), (0, first))
        _over(self.image, fill, mask, (0, 0))
        if self.has_glow:
            self.glow.paste(0, (0, 0), mask)

    def veil(self, top: float, colours: tuple[str, str], thin: float, thick: float) -> None:
        """A sheet from `top` down that grows denser and changes its colour, as water does."""
        u, width = self.unit, self.image.width
        first = round(top * u)
        size = (width, u - first)
        share = np.linspace(thin, thick, size[1])[:, None]
        mask = Image.fromarray((255 * share).round().astype(np.uint8)).resize(size)
        _over(self.image, _gradient(size, *colours), mask, (0, first))

    def light(self, x: float, top: float, half: float, bottom: float) -> None:
        """A window that shines at night."""
        u = self.unit

        def shape(draw: ImageDraw.ImageDraw, left: float, up: float) -> None:
            box = ((x - half) * u - left, top * u - up, (x + half) * u - left, bottom * u - up)
            draw.rectangle(box, fill=255)

        self.has_glow = True
        for mask, place in self._draw(x, half, top, bottom, shape):
            self.glow.paste(255, place, mask)

    # ---- sprites

    def prop(
        self, name: str, x: float, foot: float, size: float, *, fade: tuple[str, float] = ("", 0.0),
        mirrored: bool = False, lit: bool = False, turn: float = 0.0,
    ) -> None:  # fmt: skip
        """A sprite that stands on `foot`, its longest side `size`.

        fade: a colour and how much of it, for what is far away.  lit: its blue windows shine at
        night.  turn: degrees, against the clock.
        """
        image = load_prop(name)
        scale = size * self.unit / max(image.size)
        wanted = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.convert("RGBa").resize(wanted, Image.Resampling.LANCZOS).convert("RGBA")
        if mirrored:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if turn:
            image = image.rotate(turn, Image.Resampling.BICUBIC, expand=True)
        alpha = image.getchannel("A")
        panes = _blue_parts(image, alpha) if lit else None
        if fade[1]:
            colour = Image.new("RGB", image.size, fade[0])
            image = Image.blend(image.convert("RGB"), colour, fade[1])
        left = round(x * self.unit - image.width / 2) % (self.columns * _OVERSIZE)
        top = round(foot * self.unit) - image.height
        for place in (left, left - self.columns * _OVERSIZE):
            _over(self.image, image.convert("RGB"), alpha, (place, top))
            if panes is not None:
                self.has_glow = True
            if self.has_glow:
                self.glow.paste(0, (place, top), alpha)
            if panes is not None:
                self.glow.paste(255, (place, top), panes)

    # ---- results

    def blur(self, radius: float) -> None:
        """Soften all that is painted; radius in picture heights."""
        soft = self.image.convert("RGBa").filter(ImageFilter.GaussianBlur(radius * self.unit))
        self.image = soft.convert("RGBA")

    def table(self, grain: float = 0.035) -> Tensor:
        """The strip as [columns, 4, rows], premultiplied RGBA, from first_row down.

        grain: how much the colours are mottled, as on watercolour paper.
        """
        small = np.asarray(self.image.convert("RGBa").reduce(_OVERSIZE), dtype=np.float32) / 255
        mottle = 1 + grain * _blotches(small.shape[0], small.shape[1])
        small[..., :3] = np.minimum(small[..., :3] * mottle[..., None], small[..., 3:])
        kept = torch.from_numpy(small[self.first_row :])
        return kept.permute(1, 2, 0).contiguous()

    def glow_table(self) -> Tensor:
        """How brightly each pixel shines at night: [columns, rows], with a soft halo."""
        halo = self.glow.filter(ImageFilter.GaussianBlur(0.012 * self.unit))
        both = ImageChops.lighter(self.glow, halo.point(lambda value: round(0.7 * value)))
        small = np.asarray(both.reduce(_OVERSIZE), dtype=np.float32) / 255
        return torch.from_numpy(small[self.first_row :]).T.contiguous()


def lay_over(image: Image.Image, layer: Image.Image, place: tuple[int, int]) -> None:
    """Lay an RGBA picture over another, cut off at its edges (Porter and Duff's `over`)."""
    left, top = place
    crop = (
        max(0, -left), max(0, -top), min(layer.width, image.width - left),
        min(layer.height, image.height - top),
    )  # fmt: skip
    if crop[2] > crop[0] and crop[3] > crop[1]:
        image.alpha_composite(layer.crop(crop), (max(0, left), max(0, top)))


def _over(image: Image.Image, fill: Image.Image, mask: Image.Image, place: tuple[int, int]) -> None:
    """Lay a colour with a mask over a picture."""
    layer = fill.convert("RGBA")
    layer.putalpha(mask)
    lay_over(image, layer, place)


def _gradient(size: tuple[int, int], top: str, bottom: str) -> Image.Image:
    """A vertical gradient."""
    if top == bottom:
        return Image.new("RGB", size, top)
    first, last = np.array(hex_colour(top)), np.array(hex_colour(bottom))
    share = np.linspace(0, 1, size[1])[:, None]
    column = (255 * (first + (last - first) * share)).round().astype(np.uint8)
    return Image.fromarray(column[:, None, :], "RGB").resize(size, Image.Resampling.NEAREST)


def _mix(first: str, last: str) -> str:
    """The colour between two."""
    pairs = zip(hex_colour(first), hex_colour(last), strict=True)
    return "#" + "".join(f"{round(127.5 * (a + b)):02x}" for a, b in pairs)


def _blue_parts(image: Image.Image, alpha: Image.Image) -> Image.Image:
    """Where a sprite is light blue, as windows are."""
    red, _, blue = (channel.point(list(range(256))) for channel in image.convert("RGB").split())
    bluish = ImageChops.subtract(blue, red).point(lambda value: 255 * (value > 40))
    return ImageChops.multiply(bluish, alpha)


@cache
def _blotches(height: int, width: int) -> NDArray[np.float32]:
    """Smooth noise that repeats across, about -1..1."""
    chance = np.random.default_rng(7)
    total = np.zeros((height, width), dtype=np.float32)
    for cells, weight in ((8, 0.5), (20, 0.5)):
        across = max(1, round(cells * width / height))
        coarse = chance.standard_normal((cells, across)).astype(np.float32)
        wrapped = np.concatenate([coarse[:, -1:], coarse, coarse[:, :1]], 1)
        picture = Image.fromarray(wrapped).resize(
            (round(width * (across + 2) / across), height), Image.Resampling.BICUBIC
        )
        start = round(width / across)
        total += weight * np.asarray(picture)[:, start : start + width]
    return total
