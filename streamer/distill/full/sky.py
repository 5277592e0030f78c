"""The sky of the full edition: gradient, stars, sun and moon, clouds, aurora, rainbow, lightning.

Works on the upper part of frames, [N, W, 3, h], in place.  Lengths are in picture heights.
"""

from __future__ import annotations

import math
import random

import torch
from torch import Tensor

from streamer.distill.full import light
from streamer.distill.full.brush import Brush, hex_colour, spread
from streamer.distill.strips import cut

SKY_DEPTH = 0.70
"""What of the picture clouds and stars are drawn into; scenery hides the rest."""
_BOW = ("#e8505b", "#f9a03f", "#f9e04c", "#6fcf6a", "#4fa8e8", "#8a62d8")


def _clouds(height: int, count: int, seed: int, size: float, low: float) -> Tensor:
    """Clouds as alpha and brightness: [columns, 2 * h]."""
    brush = Brush(height)
    for x, r in spread(count, seed, 0.7):
        y = 0.16 + (low - 0.16) * ((r * 3) % 1)
        big = size * (0.7 + 0.5 * r)
        for dx, dy, share in ((-0.45, 0.03, 0.62), (0.42, 0.05, 0.55), (0.0, 0.0, 1.0)):
            brush.prop("cloud", x + dx * big, y + dy + 0.3 * big * share, big * share)
    table = brush.table(grain=0.0)
    depth = round(SKY_DEPTH * height)
    alpha = table[:, 3, :depth]
    bright = table[:, :3, :depth].mean(1) / alpha.clamp(min=1e-3)
    shade = ((bright - 0.62) / 0.34).clamp(0, 1)
    return torch.cat([alpha, shade * alpha], 1).contiguous()


def _stars(height: int) -> Tensor:
    """Stars of several sizes and colours: [columns, 3 * height]."""
    columns = round(4.8 * height)
    table = torch.zeros(columns, 3, height)
    chance = random.Random(59)
    y = torch.arange(height)[None, :] + 0.5
    for number in range(150):
        cx, cy = chance.random() * columns, chance.random() * height
        big = number % 12 == 0
        radius = (0.007 if big else 0.0032 + 0.002 * chance.random()) * height
        tint = torch.tensor(chance.choice(((1, 1, 1), (1, 0.93, 0.8), (0.82, 0.9, 1))))
        reach = math.ceil(8 * radius)
        near = torch.arange(math.floor(cx) - reach, math.floor(cx) + reach + 1)
        top, low = max(0, math.floor(cy) - reach), min(height, math.floor(cy) + reach + 1)
        dx, dy = (near[:, None] + 0.5 - cx).abs(), (y[:, top:low] - cy).abs()
        dot = torch.exp(-(dx.square() + dy.square()) / radius**2)
        if big:
            dot = dot + 0.35 * torch.exp(-dx / radius - 3 * dy / radius)
            dot = dot + 0.35 * torch.exp(-3 * dx / radius - dy / radius)
        shine = (dot.clamp(max=1) * (1.0 if big else 0.8))[:, None] * tint[None, :, None]
        table[torch.remainder(near, columns), :, top:low] += shine
    return table.clamp(0, 1).flatten(1).contiguous()


def _bolts(height: int) -> Tensor:
    """Bolts of lightning with a glow: [columns, h]."""
    brush = Brush(height)
    chance = random.Random(3)
    for x, _ in spread(8, 17, 0.5):
        at, y = x, 0.10
        while y < 0.62:
            to = at + (chance.random() - 0.5) * 0.14
            down = y + 0.05 + 0.05 * chance.random()
            half = 0.006
            brush.polygon(
                [(at - half, y), (at + half, y), (to + half, down), (to - half, down)], "#ffffff"
            )
            at, y = to, down
    sharp = brush.table(grain=0.0)[:, 3]
    brush.blur(0.02)
    soft = brush.table(grain=0.0)[:, 3]
    return (sharp + 1.2 * soft).clamp(0, 1)[:, : round(SKY_DEPTH * height)].contiguous()


class Heavens:
    """Tables of the sky on a device.  Immutable; owned by a painter."""

    def __init__(self, device: torch.device, height: int, width: int) -> None:
        self.height, self.width, self.device = height, width, device
        self.depth = round(SKY_DEPTH * height)
        self.columns = round(4.8 * height)
        self.x = (torch.arange(width, device=device) + 0.5) / height
        self.y = (torch.arange(height, device=device) + 0.5) / height
        self.fair = _clouds(height, 7, 53, 0.30, 0.38).to(device)
        self.deck = _clouds(height, 15, 57, 0.50, 0.30).to(device)
        self.star_table = _stars(height).to(device)
        self.bolts = _bolts(height).to(device)
        angle = torch.arange(self.columns) * (2 * math.pi / self.columns)
        curtains = torch.zeros(self.columns)
        for waves, strength, phase in (
            (3, 0.6, 0.4),
            (7, 0.5, 1.3),
            (13, 0.35, 2.2),
            (29, 0.2, 0.7),
        ):
            curtains += strength * torch.sin(waves * angle + phase)
        self.curtains = ((curtains + 0.6) / 1.8).clamp(0, 1)[:, None].to(device)
        self.green = torch.tensor([0.25, 0.95, 0.62], device=device)
        self.violet = torch.tensor([0.62, 0.35, 0.95], device=device)
        bow = torch.tensor([hex_colour(colour) for colour in _BOW])
        steps = torch.linspace(0, len(_BOW) - 1, 64)
        low = steps.long().clamp(max=len(_BOW) - 2)
        self.bow = torch.lerp(bow[low], bow[low + 1], (steps - low)[:, None]).to(device)

    def gradient(self, sky: Tensor) -> Tensor:
        """A fresh picture of the sky alone: [N, W, 3, H].  sky: [N, 3 heights, 3]."""
        up = (self.y / 0.66).clamp(0, 1)
        low = (up * 2).clamp(0, 1)[None, None, :]
        high = (up * 2 - 1).clamp(0, 1)[None, None, :]
        shades = torch.lerp(sky[:, 0, :, None], sky[:, 1, :, None], low)
        shades = torch.lerp(shades, sky[:, 2, :, None], high)
        return shades[:, None].expand(-1, self.width, -1, -1).contiguous()

    def add_stars(self, frames: Tensor, camera: Tensor, strength: Tensor, t: Tensor) -> None:
        """Twinkling stars over the whole height."""
        left = camera * (0.03 * self.height)
        stars = cut(self.star_table, None, left, self.width, self.columns)
        twinkle = 0.8 + 0.2 * torch.sin(1.7 * t[:, None] + 25 * self.x)
        shine = (strength[:, None] * twinkle)[:, :, None, None]
        frames += stars.view(len(t), self.width, 3, self.height) * shine

    def add_orb(
        self, part: Tensor, x: Tensor, place: Tensor, colour: Tensor, clear: Tensor, night: Tensor
    ) -> None:
        """The sun or the moon with its glow.  place: [N, 3], height, radius, glow."""
        y, radius, glow = place.unbind(1)
        across = (self.x - x[:, None])[:, :, None]
        along = (self.y[: part.shape[3]] - y[:, None])[:, None, :]
        distance = across.square() + along.square()
        halo = torch.exp(distance / -(0.04 + 0.09 * glow)[:, None, None])
        # A low sun lights the air along the horizon.
        belt = torch.exp(along.square() / -0.012) * torch.exp(across.square() / -0.9)
        halo = halo + 0.45 * belt * (glow > 0.4)[:, None, None]
        disc = ((radius[:, None, None] - distance.sqrt()) * self.height + 0.5).clamp(0, 1)
        bite = ((across - 0.4 * radius[:, None, None]).square() + (along + 0.015).square()).sqrt()
        bite = ((radius[:, None, None] * 0.9 - bite) * self.height + 0.5).clamp(0, 1)
        disc = disc * (1 - bite * night[:, None, None]) * clear[:, None, None]
        halo = halo * (0.8 * glow * clear)[:, None, None]
        part += colour[:, None, :, None] * halo[:, :, None] * (1 - part).clamp(min=0)
        part.lerp_(colour[:, None, :, None], disc[:, :, None])

    def add_clouds(
        self, part: Tensor, table: Tensor, left: Tensor, amount: Tensor, lit: Tensor, shaded: Tensor
    ) -> None:
        """One layer of clouds.  left: [N] in picture heights.  lit, shaded: [N, 3]."""
        depth = part.shape[3]
        clouds = cut(table, None, left * self.height, self.width, self.columns)
        clouds = clouds * amount[:, None, None]
        alpha, bright = clouds[:, :, None, :depth], clouds[:, :, None, depth:]
        gap = (lit - shaded)[:, None, :, None]
        rest = shaded[:, None, :, None] - part
        part.addcmul_(alpha, rest).addcmul_(bright, gap)

    def add_aurora(self, part: Tensor, strength: Tensor, t: Tensor, camera: Tensor) -> None:
        """Curtains of light that wave slowly."""
        height = self.height
        first = cut(
            self.curtains, None, (0.04 * t + 0.05 * camera) * height, self.width, self.columns
        )
        other = cut(self.curtains, None, (2.4 - 0.06 * t) * height, self.width, self.columns)
        band = (first * (0.35 + 0.65 * other))[:, :, 0]
        foot = 0.46 + 0.05 * torch.sin(3.1 * self.x + 0.5 * t[:, None]) - 0.08 * other[:, :, 0]
        above = foot[:, :, None] - self.y[: part.shape[3]]
        veil = torch.exp(-above.clamp(min=0) / 0.13) * torch.sigmoid(above * 70)
        veil = veil * (band * strength[:, None])[:, :, None]
        share = (above / 0.30).clamp(0, 1)[:, :, None]
        colour = torch.lerp(self.green[:, None], self.violet[:, None], share)
        part += colour * veil[:, :, None] * (1.25 - part).clamp(min=0)

    def add_rainbow(self, part: Tensor, strength: Tensor, x: Tensor) -> None:
        """An arc of colours."""
        across = (self.x - x[:, None])[:, :, None]
        along = (self.y[: part.shape[3]] - 0.68)[None, None, :]
        far = (across.square() + along.square()).sqrt()
        place = (0.57 - far) / 0.085
        cover = torch.sigmoid((0.5 - (place - 0.5).abs()) * 26) * (0.62 * strength)[:, None, None]
        bow = self.bow[(place.clamp(0, 1) * 63).long()].permute(0, 1, 3, 2)
        part.lerp_(bow, cover[:, :, None])

    def flash(self, t: Tensor, chance: Tensor) -> Tensor:
        """How bright lightning is, [N] in 0..1: a double flash every few seconds."""
        slot = torch.floor(t / 2.6)
        onset = 0.4 + 1.4 * torch.frac((slot + 7 * chance) * 0.618)
        since = t - 2.6 * slot - onset
        first = torch.exp(-since.clamp(min=0) / 0.10) * (since >= 0)
        again = torch.exp(-(since - 0.22).clamp(min=0) / 0.13) * (since >= 0.22)
        return torch.maximum(first, 0.8 * again)

    def add_bolt(self, part: Tensor, flash: Tensor, t: Tensor) -> None:
        """The bolt of a flash."""
        slot = torch.floor(t / 2.6)
        bolt = cut(
            self.bolts, None, torch.frac(slot * 0.383) * self.columns, self.width, self.columns
        )
        part += (bolt * flash[:, None, None])[:, :, None]


def light_tables(device: torch.device) -> dict[str, Tensor]:
    """The tables of streamer.distill.full.light on a device."""

    def colours(rows: tuple[str, ...]) -> Tensor:
        return torch.tensor([hex_colour(colour) for colour in rows], device=device)

    return {
        "sky": torch.stack([colours(row) for row in light.SKY]),
        "light": torch.tensor(light.LIGHT, device=device),
        "rim": torch.tensor(light.RIM, device=device),
        "orb": colours(light.ORB),
        "orb_place": torch.tensor(light.ORB_PLACE, device=device),
        "cloud_light": colours(light.CLOUD_LIGHT),
        "cloud_shade": colours(light.CLOUD_SHADE),
        "night": torch.tensor(light.NIGHT, device=device),
        "weather": torch.tensor(light.WEATHER, device=device),
        "dull": torch.tensor(light.DULL, device=device),
    }
