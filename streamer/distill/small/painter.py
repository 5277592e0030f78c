"""The pictures of the small edition: strips, a sky, one subject, rain and snow.

A change is rendered as a morph: old scenery sinks, new scenery rises, light, weather and subject
turn into the new ones, and a new motion begins anew.  Lengths are in picture heights, colours in
0..1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from streamer.distill.falling import Sky
from streamer.distill.small.scenery import NUM_LAYERS, SCENES, hex_colour, paint_scenery
from streamer.distill.small.sprites import SUBJECTS, Stage
from streamer.distill.strips import cut
from streamer.distill.world import Shot

# One row for each time of day: sky from the top to the horizon, light, sun or moon.
_SKY = (
    ("#2f86e8", "#74b9f8", "#cdeafd"),
    ("#4b3a86", "#e0637a", "#ffb65c"),
    ("#070b2a", "#131c50", "#33407c"),
)
_LIGHT = ((1.0, 1.0, 1.0), (1.0, 0.72, 0.60), (0.34, 0.40, 0.72))
_ORB = ("#fff6c4", "#ffdf8a", "#f4f2dc")
_ORB_PLACE = ((0.20, 0.055, 0.30), (0.46, 0.085, 0.60), (0.17, 0.060, 0.22))  # y, radius, glow
_CLOUD = ("#ffffff", "#ffb3a0", "#3b4372")
# One row for each weather: how grey the sky, how dim the light, clouds, rain, snow.
_WEATHER = ((0.0, 1.0, 0.75, 0.0, 0.0), (0.80, 0.72, 0.30, 1.0, 0.0), (0.50, 0.95, 0.35, 0.0, 1.0))
_GREY = ((0.52, 0.57, 0.65), (0.86, 0.80, 0.84))  # what rain and snow turn a daylight sky to
_WHITENING = (0.74, 0.72, 0.66, 0.15, 0.50, 0.62)  # how white snow lies, one for each scene
_LAYER_SNOW = (0.70, 0.75, 1.15)
_SNOW_GLOW = 0.35  # lying snow is brighter than the light alone would make it
_PARALLAX = (0.15, 0.40, 1.0)
_HAZE = (0.26, 0.06, 0.0)
_PAN = 0.07  # fastest camera, picture heights per second
_PAN_EASE_S = 1.5  # how soon it comes near its speed
NUM_FATES = 9
"""Chance numbers of a clip."""


def _blend(frames: Tensor, colour: Tensor, cover: Tensor) -> None:
    """Lay a colour [N, 3] over frames [N, W, 3, h] where cover [N, W, h] says, in place."""
    frames.lerp_(colour[:, None, :, None], cover[:, :, None, :])


def _sink(picture: Tensor, by_px: Tensor) -> Tensor:
    """Move pictures [N, W, R, H] down by [N] pixels, repeating the (empty) top row."""
    height = picture.shape[3]
    whole = torch.floor(by_px)
    rows = torch.arange(height, device=picture.device) - whole.long()[:, None]
    near = picture.gather(3, rows.clamp(min=0)[:, None, None, :].expand(picture.shape))
    far = picture.gather(3, (rows - 1).clamp(min=0)[:, None, None, :].expand(picture.shape))
    return torch.lerp(near, far, (by_px - whole)[:, None, None, None])


def _camera(shot: Shot, time: Tensor) -> Tensor:
    """Where the camera is after [N] seconds, [N].  A quarter of all clips stand still.

    It always begins at the same place and at rest: scenery that its text settles is drawn sharp in
    a few steps.
    """
    side = shot.fate[:, 1] * 2 - 1
    speed = _PAN * torch.where(side.abs() < 0.25, torch.zeros_like(side), side)
    return speed * (time + _PAN_EASE_S * torch.expm1(time / -_PAN_EASE_S))


class SmallPainter:
    """Paints frames.  Holds strips, sprites and tables on one device; never changes after that."""

    num_fates = NUM_FATES

    def __init__(self, device: torch.device, height: int, width: int) -> None:
        self.device, self.height, self.width = device, height, width
        self.scenery = paint_scenery(height, self.device)
        self.stage = Stage(self.device, height)
        self.sky = Sky(self.device, height)
        self.sky_colour = self._table([[hex_colour(c) for c in row] for row in _SKY])
        self.light = self._table(_LIGHT)
        self.orb = self._table([hex_colour(c) for c in _ORB])
        self.orb_place = self._table(_ORB_PLACE)
        self.cloud = self._table([hex_colour(c) for c in _CLOUD])
        self.is_night = self._table([0.0, 0.0, 1.0])
        self.weather = self._table(_WEATHER)
        self.grey = self._table(_GREY)
        self.whitening = self._table(_WHITENING)
        self.has_windows = self._table([float(name == "city") for name in SCENES])
        self.x = (torch.arange(width, device=self.device) + 0.5) / height
        self.y = (torch.arange(height, device=self.device) + 0.5) / height

    def _table(self, values: Sequence[object]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=self.device)

    def prepare(self, shot: Shot) -> Callable[[slice], Tensor]:
        """What paints some of the shot's frames, [n, W, 3, H], colours about 0..1."""
        there = shot.to(self.device)
        return lambda which: self._paint(there.rows(which))

    def _paint(self, shot: Shot) -> Tensor:
        """All of a shot's frames, from the sky forward: [N, W, 3, H]."""
        grey, dim, cover, rain, snow = shot.mix(self.weather, 2).unbind(1)
        night = shot.mix(self.is_night, 1)
        daylight = shot.mix(self.light, 1)
        light = daylight * dim[:, None]
        fallen = light + _SNOW_GLOW * (1 - light)
        horizon = self._overcast(shot, daylight, grey, snow)
        frames = self._paint_sky(shot, horizon, grey, night, cover)
        settled = torch.where(shot.change < 1, shot.old[:, 0], shot.new[:, 0])
        is_old = (shot.change < 1) | (shot.old[:, 0] == shot.new[:, 0])
        camera = _camera(shot, torch.where(is_old, shot.t, shot.since))
        moving = (shot.change > 0) & (shot.change < 1) & (shot.old[:, 0] != shot.new[:, 0])
        between = moving.nonzero()[:, 0]
        for layer in range(NUM_LAYERS):
            haze = _HAZE[layer]
            white = snow * shot.mix(self.whitening, 0) * _LAYER_SNOW[layer]
            gain = light * ((1 - haze) * (1 - white))[:, None]
            bias = horizon[:, 2] * haze + fallen * ((1 - haze) * white)[:, None]
            leave = torch.where(moving, shot.change, torch.zeros_like(shot.change))
            self._lay(frames, camera, layer, settled, gain, bias, night, leave, is_leaving=True)
            if len(between):
                part = shot.rows(between)
                some = frames[between]
                self._lay(
                    some, _camera(part, part.since), layer, part.new[:, 0], gain[between],
                    bias[between], night[between], 1 - part.change, is_leaving=False,
                )  # fmt: skip
                frames[between] = some
        self._paint_subjects(frames, shot, 0.50 + 0.50 * light)
        self._paint_weather(frames, shot, rain, snow, daylight)
        return frames

    def _overcast(self, shot: Shot, daylight: Tensor, grey: Tensor, snow: Tensor) -> Tensor:
        """The sky's three colours under the weather: [N, 3 heights, 3]."""
        clear = shot.mix(self.sky_colour, 1)
        dull = torch.lerp(self.grey[0], self.grey[1], snow[:, None]) * daylight
        shades = torch.tensor([0.86, 0.96, 1.06], device=self.device)[None, :, None]
        return torch.lerp(clear, dull[:, None, :] * shades, grey[:, None, None])

    def _paint_sky(
        self, shot: Shot, sky: Tensor, grey: Tensor, night: Tensor, cover: Tensor
    ) -> Tensor:
        """Gradient, stars, sun or moon, clouds: [N, W, 3, H]."""
        up = (self.y / 0.64).clamp(0, 1)
        low = (up * 2).clamp(0, 1)[None, None, :]
        high = (up * 2 - 1).clamp(0, 1)[None, None, :]
        gradient = torch.lerp(sky[:, 0, :, None], sky[:, 1, :, None], low)
        gradient = torch.lerp(gradient, sky[:, 2, :, None], high)
        frames = gradient[:, None].expand(-1, self.width, -1, -1).contiguous()
        reach = round(0.66 * self.height)
        part = frames[..., :reach]
        camera = _camera(shot, shot.t)
        dark = (night * (1 - grey) > 0.01).nonzero()[:, 0]
        if len(dark):
            left = camera[dark] * (0.03 * self.height)
            stars = cut(self.scenery.stars, None, left, self.width, self.scenery.columns)
            shine = stars[..., :reach] * (night * (1 - grey))[dark, None, None]
            part[dark] += shine[:, :, None, :] * 0.9
        self._paint_orb(part, shot, grey, night)
        drift = (camera * 0.08 + 0.02 * shot.t) * self.height
        clouds = cut(self.scenery.clouds, None, drift, self.width, self.scenery.columns)
        clouds = clouds[..., :reach] * (cover * (1 - 0.55 * night))[:, None, None]
        colour = torch.lerp(shot.mix(self.cloud, 1), sky[:, 2] * 0.92, grey[:, None])
        _blend(part, colour, clouds)
        return frames

    def _paint_orb(self, part: Tensor, shot: Shot, grey: Tensor, night: Tensor) -> None:
        """The sun or the moon with its glow, into the upper part of frames, in place."""
        clear = (1 - 1.4 * grey).clamp(0, 1)
        seen = (clear > 0).nonzero()[:, 0]
        if not len(seen):
            return
        y, radius, glow = shot.mix(self.orb_place, 1)[seen].unbind(1)
        colour = shot.mix(self.orb, 1)[seen]
        x = torch.full_like(radius, 0.72 * self.width / self.height)
        across = (self.x - x[:, None])[:, :, None]
        along = (self.y[: part.shape[3]] - y[:, None])[:, None, :]
        distance = across.square() + along.square()
        halo = torch.exp(distance / -(0.05 + 0.08 * glow)[:, None, None])
        disc = ((radius[:, None, None] - distance.sqrt()) * self.height + 0.5).clamp(0, 1)
        bite = ((across - 0.4 * radius[:, None, None]).square() + (along + 0.015).square()).sqrt()
        bite = ((radius[:, None, None] * 0.9 - bite) * self.height + 0.5).clamp(0, 1)
        disc = disc * (1 - bite * night[seen, None, None])
        whole = len(seen) == len(part)
        target = part if whole else part[seen]
        halo = halo * (0.8 * glow * clear[seen])[:, None, None]
        target += colour[:, None, :, None] * halo[:, :, None] * (1 - target).clamp(min=0)
        _blend(target, colour, disc * clear[seen, None, None])
        if not whole:
            part[seen] = target

    def _lay(
        self, frames: Tensor, camera: Tensor, layer: int, scene: Tensor, gain: Tensor, bias: Tensor,
        night: Tensor, hidden: Tensor, *, is_leaving: bool,
    ) -> None:  # fmt: skip
        """Lay one strip over frames, in place.

        camera, scene: [N].  gain, bias: [N, 3], how light, haze and snow change its colours.
        hidden: [N], 0 (in place) to 1 (gone): far strips sink, the ground fades.
        """
        columns = self.scenery.columns
        left = camera * (_PARALLAX[layer] * self.height)
        strip = cut(self.scenery.layers[layer], scene, left, self.width, columns)
        strip = strip.view(len(scene), self.width, 4, self.height)
        shines = layer == 1 and bool((night * self.has_windows[scene]).any())
        panes = cut(self.scenery.windows, None, left, self.width, columns) if shines else None
        if bool((hidden > 0).any()):
            if layer < NUM_LAYERS - 1:
                strip = _sink(strip, hidden * (0.75 * self.height))
            elif not is_leaving:
                strip = strip * (1 - hidden)[:, None, None, None]
        alpha = strip[:, :, 3:]
        rest = bias[:, None, :, None] - frames
        frames.addcmul_(alpha, rest).addcmul_(strip[:, :, :3], gain[:, None, :, None])
        if panes is not None:
            shine = panes * (night * self.has_windows[scene] * (1 - hidden) ** 3)[:, None, None]
            _blend(frames, self._table([[1.0, 0.82, 0.38]]).expand(len(scene), 3), shine)

    def _paint_subjects(self, frames: Tensor, shot: Shot, light: Tensor) -> None:
        """The old subject shrinks away while the new one grows, on the way between their poses."""
        aspect = self.width / self.height
        fate = shot.fate[:, 4:8]
        old, new = shot.old[:, 3], shot.new[:, 3]
        absent = len(SUBJECTS) - 1
        first = torch.where(old == absent, new, old)
        last = torch.where(new == absent, old, new)
        before = self.stage.pose(first, shot.old[:, 4], shot.t, fate, aspect)
        goes_on = (first == last) & (shot.old[:, 4] == shot.new[:, 4])
        t = torch.where(goes_on, shot.t, shot.since)
        after = self.stage.pose(last, shot.new[:, 4], t, fate, aspect)
        pose = before.towards(after, shot.change)
        same = old == new
        leaving = torch.where(same, torch.ones_like(shot.change), 1 - shot.change)
        arriving = torch.where(same, torch.zeros_like(shot.change), shot.change)
        for subject, presence in ((old, leaving), (new, arriving)):
            seen = ((presence > 0) & (subject != absent)).nonzero()[:, 0]
            if not len(seen):
                continue
            some = frames if len(seen) == len(frames) else frames[seen]
            chosen = pose.rows(seen)
            self.stage.draw(some, subject[seen], chosen, presence[seen], light[seen])
            if some is not frames:
                frames[seen] = some

    def _paint_weather(
        self, frames: Tensor, shot: Shot, rain: Tensor, snow: Tensor, daylight: Tensor
    ) -> None:
        """Rain and snow in front of everything, in place."""
        camera = _camera(shot, shot.t) + 4.8 * shot.fate[:, 8]
        colour = 0.60 + 0.40 * daylight
        for amount, falling, strength in (
            (rain, self.sky.raining, 0.45),
            (snow, self.sky.snowing, 0.75),
        ):
            seen = (amount > 0).nonzero()[:, 0]
            if not len(seen):
                continue
            cover = falling(shot.t[seen], camera[seen], self.width)
            cover = cover * (amount[seen] * strength)[:, None, None]
            some = frames if len(seen) == len(frames) else frames[seen]
            _blend(some, colour[seen], cover)
            if some is not frames:
                frames[seen] = some
