"""The cast on stage: sprites with light, rim, haze and shadow, drawn into frames.

Frames are [N, W, 3, H]: column by column, as scenery is cut.  Lengths are in picture heights.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from streamer.distill.atlas import find_atlas, load_atlas
from streamer.distill.full.cast import load_members
from streamer.distill.full.motions import (
    FAR_GROUND,
    FARNESS,
    NEAR_GROUND,
    WATER_SINK,
    Pose,
    Tempers,
)

_CELL = 0.5
"""The side of a cell in picture heights, before scaling."""
_SHRUNK = 0.62
"""Below this scale a smoothed copy of the sprite is drawn, so that nothing flickers."""


@dataclass(frozen=True)
class Marks:
    """Sprites as they are drawn: [N, A] each, A actors.

    subject: number in the sheet.  x, y: the middle.  half: half the longest side.  z: 0 near to 1
    far.  turn: radians, clockwise.  mirror: -1..1.  wide, tall: scales.  alpha: 0..1.  ground: the
    height of the ground below.  rise: how high above it.
    """

    subject: Tensor
    x: Tensor
    y: Tensor
    half: Tensor
    z: Tensor
    turn: Tensor
    mirror: Tensor
    wide: Tensor
    tall: Tensor
    alpha: Tensor
    ground: Tensor
    rise: Tensor

    def rows(self, which: slice) -> Marks:
        """Some of the frames."""
        return Marks(*(column[which] for column in vars(self).values()))

    def actor(self, number: int) -> Marks:
        """One actor of every frame: [N] each."""
        return Marks(*(column[:, number] for column in vars(self).values()))

    def sorted(self) -> Marks:
        """Actors from the farthest to the nearest; those that are absent come last."""
        order = torch.where(self.alpha > 0, self.z, -9.0).argsort(dim=1, descending=True)
        return Marks(*(column.gather(1, order) for column in vars(self).values()))


@dataclass(frozen=True)
class Shine:
    """The light on the cast: light, rim, haze [N, 3]; thick [N, 2]: how much haze near and far."""

    light: Tensor
    rim: Tensor
    haze: Tensor
    thick: Tensor

    def rows(self, which: slice) -> Shine:
        """Some of the frames."""
        return Shine(*(column[which] for column in vars(self).values()))


class Stage:
    """The cast as tables on a device, at one picture height.  Immutable; owned by a painter."""

    def __init__(self, device: torch.device, height: int) -> None:
        members = load_members()
        atlas = load_atlas(find_atlas("full"))
        cell = max(8, round(_CELL * height))
        sprites = functional.interpolate(
            atlas.sprites[: len(members)], size=(cell, cell), mode="bilinear", antialias=True,
            align_corners=False,
        )  # fmt: skip
        sprites = torch.cat([sprites, _find_rims(sprites)], dim=1)
        smooth = functional.avg_pool2d(sprites, 3, 1, 1, count_include_pad=True)
        self.height = height
        self.sprites = torch.cat([sprites, smooth]).to(device)
        self.num_members = len(members)
        self.sizes = torch.tensor([*(m.size for m in members), 0.3])  # on the host
        self.size = self.sizes.to(device)
        self.facing = torch.tensor([*(float(m.facing) for m in members), 0.0]).to(device)
        low = atlas.half_height[: len(members)]
        self.low = torch.cat([low, low.new_zeros(1)]).to(device)
        tempers = Tempers.of([*(member.kind for member in members), "thing"])
        self.tempers = Tempers(*(column.to(device) for column in vars(tempers).values()))

    def place(self, subject: Tensor, pose: Pose, afloat: Tensor, airy: Tensor) -> Marks:
        """Where and how sprites are drawn.  subject and the pose's tensors: [N, A].

        afloat, airy: [N, 1], how much they lie in water, and have space above and below.
        """
        scale = 1 - FARNESS * pose.z
        size = self.size[subject] * scale
        ground = NEAR_GROUND + (FAR_GROUND - NEAR_GROUND) * pose.z
        stands = ground - size * self.low[subject] + WATER_SINK * size * afloat
        air = 0.42 + 0.05 * pose.z + 0.05 * airy
        y = torch.lerp(stands, air, pose.aloft) - pose.lift * (0.4 + 0.6 * scale)
        facing = self.facing[subject]
        mirror = torch.where(facing == 0, 1.0, pose.heading * facing)
        mirror = torch.where(mirror < 0, mirror.clamp(max=-0.2), mirror.clamp(min=0.2))
        return Marks(
            subject=subject,
            x=pose.x,
            y=y - 0.5 * pose.stretch * size * self.low[subject],
            half=size * (0.35 + 0.65 * pose.presence) / 2,
            z=pose.z,
            turn=pose.turn,
            mirror=mirror,
            wide=1 - 0.8 * pose.stretch,
            tall=1 + pose.stretch,
            alpha=torch.where(subject < self.num_members, pose.presence, 0.0),
            ground=ground,
            rise=(stands - y).clamp(min=0),
        )

    def draw(
        self, frames: Tensor, marks: Marks, shine: Shine, reach: float, water: Tensor | None,
        t: Tensor,
    ) -> None:  # fmt: skip
        """Draw one sprite into every frame, in place.

        frames: [N, W, 3, H].  reach: the longest side of all sprites here.  water: [N], how much
        the ground mirrors, or None where it nowhere does.
        """
        if water is not None:
            self._sprite(frames, marks, shine, reach, water, t, is_mirrored=True)
        self._sprite(frames, marks, shine, reach, water, t, is_mirrored=False)

    def _sprite(
        self, frames: Tensor, marks: Marks, shine: Shine, reach: float, water: Tensor | None,
        t: Tensor, *, is_mirrored: bool,
    ) -> None:  # fmt: skip
        num, width, _, height = frames.shape
        side = min(round(1.55 * reach * height), width, height)
        steps = torch.arange(side, device=frames.device)
        middle = 2 * marks.ground - marks.y if is_mirrored else marks.y
        left = (marks.x * height - side / 2).round().long().clamp(0, width - side)
        top = (middle * height - side / 2).round().long().clamp(0, height - side)
        columns, rows = left[:, None] + steps, top[:, None] + steps
        across, down = (columns + 0.5) / height, (rows + 0.5) / height
        dx = ((across - marks.x[:, None]) / marks.half[:, None])[:, None, :]
        dy = ((down - middle[:, None]) / marks.half[:, None])[:, :, None]
        if is_mirrored:
            dx = dx + 0.06 * torch.sin(90 * down + 5 * t[:, None])[:, :, None]
            dy = -dy
        cos, sin = torch.cos(marks.turn)[:, None, None], torch.sin(marks.turn)[:, None, None]
        scale_x = (marks.mirror * marks.wide)[:, None, None]
        grid = torch.stack(
            [(dx * cos + dy * sin) / scale_x, (dy * cos - dx * sin) / marks.tall[:, None, None]], -1
        )
        shrunk = (2 * marks.half / self.size[marks.subject] < _SHRUNK).long()
        number = marks.subject.clamp(max=self.num_members - 1) + shrunk * self.num_members
        patch = functional.grid_sample(self.sprites[number], grid, align_corners=False)
        shown = marks.alpha[:, None]
        if water is not None:
            below = ((down - marks.ground[:, None]) * height / 2 + 0.5).clamp(0, 1)
            if is_mirrored:
                fade = (1 - (down - marks.ground[:, None]) / 0.30).clamp(0, 1)
                shown = shown * below * fade * (0.42 * water)[:, None]
            else:
                shown = shown * (1 - 0.75 * below * (water * (marks.rise < 0.1))[:, None])
        patch = patch * shown[:, None, :, None]
        alpha = patch[:, 3:4]
        thick = torch.lerp(shine.thick[:, 0], shine.thick[:, 1], marks.z.clamp(0, 1))
        clear = (1 - thick)[:, None, None, None]
        light = shine.light[:, :, None, None]
        colour = patch[:, :3] * light + alpha * (0.16 * (1 - light))
        colour = colour + patch[:, 4:5] * shine.rim[:, :, None, None]
        colour = colour * clear + alpha * (1 - clear) * shine.haze[:, :, None, None]
        clip = torch.arange(num, device=frames.device)[:, None, None]
        pixels = frames.permute(0, 1, 3, 2)
        place = (clip, columns[:, None, :], rows[:, :, None])
        behind = pixels[place]
        pixels[place] = torch.addcmul(
            colour.permute(0, 2, 3, 1), behind, 1 - alpha[:, 0, :, :, None]
        )

    def shade(self, frames: Tensor, marks: Marks, strength: Tensor, slant: Tensor) -> None:
        """A soft shadow on the ground, fainter and smaller the higher the sprite is, in place.

        strength: [N], 0 where nothing casts one.  slant: [N], how far it falls to the side.
        """
        height = frames.shape[3]
        first = round((FAR_GROUND - 0.04) * height)
        rise = marks.rise.clamp(max=0.5)
        reach = 2 * marks.half * (0.42 - 0.25 * rise) + 1e-3
        x = (torch.arange(frames.shape[1], device=frames.device) + 0.5) / height
        y = (torch.arange(first, height, device=frames.device) + 0.5) / height
        middle = marks.x + slant * (marks.half + rise)
        across = torch.exp(-(((x - middle[:, None]) / reach[:, None]) ** 4))
        along = torch.exp(-(((y - marks.ground[:, None] + 0.004) / (0.20 * reach)[:, None]) ** 2))
        depth = 0.42 * marks.alpha * strength * (1 - 1.4 * rise)
        shadow = (across * depth[:, None])[:, :, None] * along[:, None, :]
        frames[..., first:] *= (1 - shadow)[:, :, None, :]


def _find_rims(sprites: Tensor) -> Tensor:
    """Where sprites catch the light from above, left and right: [S, 1, c, c] in 0..1."""
    alpha = sprites[:, 3:]
    size = alpha.shape[-1]
    by = max(1, round(0.025 * size))
    padded = functional.pad(alpha, (by, by, by, 0))
    shifted = padded[:, :, :size, :size] * padded[:, :, :size, 2 * by :]
    rim = alpha * (1 - shifted)
    return functional.avg_pool2d(rim, 3, 1, 1) * alpha
