"""Sprites on stage: where a subject is at an absolute time, and how it is drawn into frames.

Frames here are [N, W, 3, H]: column by column, as scenery cuts them.  Lengths are in picture
heights.  Every motion is a closed formula of time.  Knows nothing of scenes or captions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from streamer.distill.atlas import CAST, SMALL_PLAN, load_atlas

SUBJECTS: tuple[str, ...] = (*(member.name for member in CAST), "none")
MOTIONS: tuple[str, ...] = (
    "rests", "moves left", "moves right", "bounces", "floats", "circles", "spins",
)  # fmt: skip
GROUND_Y = 0.90
# The side of the square a sprite is drawn into: it holds the largest one turned by 45 degrees.
PATCH = 0.82


@dataclass(frozen=True)
class Pose:
    """Where sprites stand: each [N].

    x, y: the middle.  turn: radians, clockwise.  heading: the way it faces, -1 left to 1 right.
    """

    x: Tensor
    y: Tensor
    turn: Tensor
    heading: Tensor

    def rows(self, which: Tensor) -> Pose:
        """Some of the poses."""
        return Pose(self.x[which], self.y[which], self.turn[which], self.heading[which])

    def towards(self, other: Pose, weight: Tensor) -> Pose:
        """The pose between this one (weight 0) and another (weight 1)."""
        return Pose(
            torch.lerp(self.x, other.x, weight),
            torch.lerp(self.y, other.y, weight),
            torch.lerp(self.turn, other.turn, weight),
            torch.lerp(self.heading, other.heading, weight),
        )


class Stage:
    """The cast as tables on a device, at one picture height.  Immutable; owned by a Renderer."""

    def __init__(self, device: torch.device, height: int) -> None:
        atlas = load_atlas(SMALL_PLAN)
        cell = max(8, round(0.58 * height))
        sprites = functional.interpolate(
            atlas.sprites, size=(cell, cell), mode="bilinear", antialias=True, align_corners=False
        )
        self.height = height
        self.sprites = torch.cat([sprites, torch.zeros_like(sprites[:1])]).to(device)
        self.size = torch.tensor([*(member.size for member in CAST), 0.3], device=device)
        self.facing = torch.tensor([*(member.facing for member in CAST), 0], device=device)
        self.flies = torch.tensor([*(member.flies for member in CAST), False], device=device)
        self.half_height = torch.cat([atlas.half_height, torch.zeros(1)]).to(device)

    def pose(self, subject: Tensor, motion: Tensor, t: Tensor, fate: Tensor, aspect: float) -> Pose:
        """Where each subject is.

        subject, motion: [N] class numbers.  t: [N] seconds.  fate: [N, 4], numbers in 0..1 that
        stay the same for a clip (the speed is used).  aspect: width over height.
        At t = 0 every motion begins in the middle, upright: a first picture that its text nearly
        settles can be drawn sharp in a few steps; what is open afterwards, the past settles.
        """
        pace = 0.95 + 0.1 * fate[:, 2]
        size = self.size[subject]
        standing = GROUND_Y - size * self.half_height[subject]
        still = torch.zeros_like(t)
        place = still + aspect / 2
        span = aspect + 1.1 * size
        forth = torch.remainder(0.24 * pace * t + place + 0.55 * size, span) - 0.55 * size
        aloft = torch.where(self.flies[subject], 0.44, standing)
        bob = aloft + 0.012 * torch.sin(4.0 * t)
        hop = torch.sin(2.2 * pace * t).abs()
        wheel = 1.2 * pace * t + math.pi / 2
        resting = torch.where(self.facing[subject] < 0, -1.0, 1.0)
        poses = (
            (place, standing, still, resting),
            (aspect - forth, bob, still, still - 1.0),
            (forth, bob, still, still + 1.0),
            (place, standing - 0.28 * hop, still, resting),
            (
                place + 0.07 * torch.sin(0.8 * pace * t),
                0.40 + 0.06 * torch.sin(1.6 * pace * t),
                0.10 * torch.sin(1.1 * t),
                resting,
            ),
            (
                aspect / 2 + 0.40 * torch.cos(wheel),
                0.47 + 0.20 * torch.sin(wheel),
                still,
                (-5.0 * torch.sin(wheel)).clamp(-1, 1),
            ),
            (place, 0.52 + still, 1.6 * pace * t, resting),
        )
        columns = [
            torch.stack([pose[i] for pose in poses]).gather(0, motion[None])[0] for i in range(4)
        ]
        return Pose(columns[0], columns[1], columns[2], columns[3])

    def draw(
        self, frames: Tensor, subject: Tensor, pose: Pose, presence: Tensor, light: Tensor
    ) -> None:
        """Draw one sprite with its shadow into every frame, in place.

        frames: [N, W, 3, H].  subject: [N].  presence: [N], 0 (absent) to 1; scales and fades.
        light: [N, 3], the colour of the light; what it lacks comes back in part as a pale sheen,
        so that dark sprites stand out from a dark night.
        """
        self._shade(frames, subject, pose, presence)
        num, width, _, height = frames.shape
        side = min(round(PATCH * height), width, height)
        steps = torch.arange(side, device=frames.device)
        left = (pose.x * height - side / 2).round().long().clamp(0, width - side)
        top = (pose.y * height - side / 2).round().long().clamp(0, height - side)
        columns, rows = left[:, None] + steps, top[:, None] + steps
        half = self.size[subject] * (0.35 + 0.65 * presence) / 2
        dx = (((columns + 0.5) / height - pose.x[:, None]) / half[:, None])[:, None, :]
        dy = (((rows + 0.5) / height - pose.y[:, None]) / half[:, None])[:, :, None]
        cos, sin = torch.cos(pose.turn)[:, None, None], torch.sin(pose.turn)[:, None, None]
        mirror = torch.where(self.facing[subject] == 0, 1.0, pose.heading * self.facing[subject])
        mirror = torch.where(mirror < 0, mirror.clamp(max=-0.2), mirror.clamp(min=0.2))
        grid = torch.stack(
            [(dx * cos + dy * sin) / mirror[:, None, None], dy * cos - dx * sin], dim=-1
        )
        patch = functional.grid_sample(self.sprites[subject], grid, align_corners=False)
        patch = patch * presence[:, None, None, None]
        lit, lift = light[:, :, None, None], 0.25 * (1 - light)[:, :, None, None]
        colour = patch[:, :3] * lit + patch[:, 3:] * lift
        clip = torch.arange(num, device=frames.device)[:, None, None]
        pixels = frames.permute(0, 1, 3, 2)
        place = (clip, columns[:, None, :], rows[:, :, None])
        behind = pixels[place]
        alpha = patch[:, 3, :, :, None]
        pixels[place] = torch.addcmul(colour.permute(0, 2, 3, 1), behind, 1 - alpha)

    def _shade(self, frames: Tensor, subject: Tensor, pose: Pose, presence: Tensor) -> None:
        """A soft elliptical shadow on the ground, fainter and smaller the higher the sprite is."""
        height = frames.shape[3]
        first = round((GROUND_Y - 0.08) * height)
        size = self.size[subject] * presence.clamp(min=0.05)
        rise = (GROUND_Y - size * self.half_height[subject] - pose.y).clamp(0, 0.5)
        reach = size * (0.40 - 0.25 * rise)
        x = (torch.arange(frames.shape[1], device=frames.device) + 0.5) / height
        y = (torch.arange(first, height, device=frames.device) + 0.5) / height
        across = torch.exp(-(((x - pose.x[:, None]) / reach[:, None]) ** 4))
        along = torch.exp(-(((y - GROUND_Y) / (0.22 * reach)[:, None]) ** 2))
        depth = 0.38 * presence * (1 - 1.2 * rise) * (subject < len(CAST))
        shadow = (across * depth[:, None])[:, :, None] * along[:, None, :]
        frames[..., first:] *= (1 - shadow)[:, :, None, :]
