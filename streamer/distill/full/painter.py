"""The pictures of the full edition, from the sky forward.

What a frame needs is decided on the host, for all frames of a call, before the first is painted:
while painting, nothing is read back from the device, and what no frame of a batch needs is left
out.

Frames are [N, W, 3, H].  Lengths are in picture heights, colours in 0..1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from streamer.distill.edition import Edition
from streamer.distill.falling import Sky
from streamer.distill.full import light
from streamer.distill.full.air import Air, breathe, shine_on
from streamer.distill.full.drifting import Drift
from streamer.distill.full.scenery import Scenery
from streamer.distill.full.sky import Heavens, light_tables
from streamer.distill.full.stage import Marks, Shine, Stage
from streamer.distill.full.staging import View, cast_actors, watch
from streamer.distill.full.vocabulary import CAMERAS
from streamer.distill.strips import cut
from streamer.distill.world import Shot

NUM_FATES = 24
"""Chance numbers of a clip."""
_PARALLAX = (0.15, 0.42, 1.0, 1.7)
_SINKING = (0.01, 0.035, 0.06, 0.22)
"""How far strips go down when the camera has risen."""
_SCENE, _TIME, _WEATHER = 0, 1, 2
_RISES = CAMERAS.index("rises")  # the zooms come after it


@dataclass(frozen=True)
class Needs:
    """What every frame needs, on the host, [N] each: 0 or 1; how many actors; reach: their size."""

    stars: NDArray[np.float32]
    orb: NDArray[np.float32]
    clouds: NDArray[np.float32]
    deck: NDArray[np.float32]
    rain: NDArray[np.float32]
    snow: NDArray[np.float32]
    storm: NDArray[np.float32]
    leaves: NDArray[np.float32]
    fireflies: NDArray[np.float32]
    aurora: NDArray[np.float32]
    rainbow: NDArray[np.float32]
    sea: NDArray[np.float32]
    water: NDArray[np.float32]
    glow: NDArray[np.float32]
    moving: NDArray[np.float32]
    sinking: NDArray[np.float32]
    zooming: NDArray[np.float32]
    actors: NDArray[np.float32]
    reach: NDArray[np.float32]

    def of(self, which: slice) -> dict[str, float]:
        """The most that any of some frames needs."""
        return {name: float(column[which].max()) for name, column in vars(self).items()}


class FullPainter:
    """Paints frames.  Holds all tables on one device; never changes after that."""

    num_fates = NUM_FATES

    def __init__(self, edition: Edition, device: torch.device, height: int, width: int) -> None:
        self.edition = edition
        self.device, self.height, self.width = device, height, width
        self.scenery = Scenery(device, height)
        self.stage = Stage(device, height)
        self.heavens = Heavens(device, height, width)
        self.falling = Sky(device, height)
        self.drift = Drift(device, height)
        self.tables = light_tables(device)
        self.x = (torch.arange(width, device=device) + 0.5) / height
        self.y = (torch.arange(height, device=device) + 0.5) / height
        self.lamp = torch.tensor([1.0, 0.80, 0.36], device=device)
        self.firefly = torch.tensor([0.95, 1.0, 0.45], device=device)

    # ---- before the first frame

    def prepare(self, shot: Shot) -> Callable[[slice], Tensor]:
        """What paints some of the shot's frames, [n, W, 3, H], colours about 0..1."""
        needs = self._find_needs(shot)
        there = shot.to(self.device)
        aspect = self.width / self.height
        view = watch(there, self.edition)
        places = self.scenery.places
        flash = self.heavens.flash(there.t, there.fate[:, 9])
        air = breathe(there, self.tables, places, flash)
        marks = cast_actors(there, self.edition, self.stage, self.scenery, aspect).sorted()
        shine = shine_on(there, air, self.tables, places)

        def paint(which: slice) -> Tensor:
            if which.start >= len(shot.t):
                return torch.empty(0, self.width, 3, self.height, device=self.device)
            return self._paint(
                there.rows(which), view.rows(which), air.rows(which), marks.rows(which),
                shine.rows(which), needs.of(which),
            )  # fmt: skip

        return paint

    def _find_needs(self, shot: Shot) -> Needs:
        """What is worth painting, found on the host from the class numbers alone."""

        def either(table: Tensor, attribute: int) -> Tensor:
            old, new = table[shot.old[:, attribute]], table[shot.new[:, attribute]]
            shape = (-1, *[1] * (old.dim() - 1))
            is_old, is_new = (shot.change < 1).view(shape), (shot.change > 0).view(shape)
            return torch.maximum(old * is_old, new * is_new)

        places = self.scenery.host
        weather = either(torch.tensor(light.WEATHER), _WEATHER)
        night = either(torch.tensor(light.NIGHT), _TIME)
        subjects = self.stage.sizes
        absent = self.edition.no_subject_number
        counts = [self._count(part, absent) for part in (shot.old, shot.new)]
        actors = counts[0] * (shot.change < 1) + counts[1] * (shot.change > 0)
        others = [torch.where(p[:, 7] > 0, p[:, 7] - 1, absent) for p in (shot.old, shot.new)]
        numbers = torch.stack([shot.old[:, 3], shot.new[:, 3], *others])
        cameras = torch.stack([shot.old[:, 8], shot.new[:, 8]])
        open_air = either(places.open, _SCENE) > 0
        found = {
            "stars": (night > 0) | (either(places.stars, _SCENE) > 0),
            "orb": open_air,
            "clouds": open_air & (weather[:, light.COVER] > 0),
            "deck": open_air & (weather[:, light.DECK] > 0),
            "rain": open_air & (weather[:, light.RAIN] > 0),
            "snow": open_air & (weather[:, light.SNOW] > 0),
            "storm": open_air & (weather[:, light.STORM] > 0),
            "leaves": open_air & (weather[:, light.LEAVES] > 0),
            "fireflies": open_air & (weather[:, light.FIREFLIES] > 0),
            "aurora": open_air & (weather[:, light.AURORA] > 0),
            "rainbow": open_air & (weather[:, light.RAINBOW] > 0),
            "sea": either(places.sea, _SCENE) > 0,
            "water": either(places.water, _SCENE) > 0,
            "glow": (night > 0) & (either(places.has_glow, _SCENE) > 0),
            "moving": (shot.change > 0) & (shot.change < 1) & (shot.old[:, 0] != shot.new[:, 0]),
            "sinking": (cameras == _RISES).any(0),
            "zooming": (cameras > _RISES).any(0),
            "actors": actors,
            "reach": subjects[numbers].amax(0),
        }
        return Needs(**{name: column.float().numpy() for name, column in found.items()})

    @staticmethod
    def _count(numbers: Tensor, absent: int) -> Tensor:
        """How many subjects a spec has, [N]."""
        there = (numbers[:, 3] != absent).long()
        return there * torch.where(numbers[:, 7] > 0, 2, 1 + numbers[:, 6])

    # ---- one batch of frames

    def _paint(
        self, shot: Shot, view: View, air: Air, marks: Marks, shine: Shine, needs: dict[str, float]
    ) -> Tensor:
        frames = self._paint_sky(shot, view, air, needs)
        for layer in range(2):
            self._lay_both(frames, shot, view, air, layer, needs)
        water = shot.mix(self.scenery.places.water, _SCENE) if needs["water"] else None
        if water is not None:
            self._mirror(frames, shot, water)
        self._lay_both(frames, shot, view, air, 2, needs)
        if needs["sea"]:
            self._add_rays(frames, shot, air)
        self._paint_cast(frames, shot, view, air, marks, shine, water, needs)
        self._lay_both(frames, shot, view, air, 3, needs)
        self._paint_weather(frames, shot, view, air, needs)
        return self._zoom(frames, view.zoom) if needs["zooming"] else frames

    def _paint_sky(self, shot: Shot, view: View, air: Air, needs: dict[str, float]) -> Tensor:
        heavens, tables = self.heavens, self.tables
        frames = heavens.gradient(air.sky)
        part = frames[..., : heavens.depth]
        if needs["stars"]:
            grey = air.weather[:, light.GREY] * air.open
            dark = torch.maximum(
                shot.mix(self.scenery.places.stars, _SCENE), air.night * (1 - grey) * air.open
            )
            heavens.add_stars(frames, view.x, dark, shot.t)
        if needs["aurora"]:
            strength = air.weather[:, light.AURORA] * air.open * (0.7 + 0.9 * air.night)
            heavens.add_aurora(part, strength, shot.t, view.x)
        if needs["orb"]:
            x = torch.full_like(view.x, 0.72 * self.width / self.height)
            place = shot.mix(tables["orb_place"], _TIME)
            colour = shot.mix(tables["orb"], _TIME)
            heavens.add_orb(part, x, place, colour, air.clear, air.night)
        grey = air.weather[:, light.GREY, None]
        lit = torch.lerp(shot.mix(tables["cloud_light"], _TIME), 0.98 * air.sky[:, 2], 0.8 * grey)
        shaded = torch.lerp(
            shot.mix(tables["cloud_shade"], _TIME), 0.86 * air.sky[:, 1], 0.8 * grey
        )
        drift = 0.08 * view.x
        if needs["deck"]:
            amount = air.weather[:, light.DECK] * air.open * 0.85
            heavens.add_clouds(part, heavens.deck, drift + 0.03 * shot.t, amount, lit, shaded)
        if needs["clouds"]:
            amount = air.weather[:, light.COVER] * air.open * (1 - 0.45 * air.night)
            heavens.add_clouds(part, heavens.fair, drift + 0.018 * shot.t, amount, lit, shaded)
        if needs["rainbow"]:
            strength = air.weather[:, light.RAINBOW] * air.open * (1 - 0.45 * air.night)
            middle = torch.full_like(view.x, 0.42 * self.width / self.height)
            heavens.add_rainbow(part, strength, middle)
        if needs["storm"]:
            heavens.add_bolt(part, air.flash, shot.t)
        return frames

    def _lay_both(
        self, frames: Tensor, shot: Shot, view: View, air: Air, layer: int, needs: dict[str, float]
    ) -> None:
        """Lay a strip of the old scenery, and of the new one where it is changing."""
        settled = torch.where(shot.change < 1, shot.old[:, _SCENE], shot.new[:, _SCENE])
        if not needs["moving"]:
            self._lay(frames, view.x, view, air, layer, settled, None, needs)
            return
        differs = (shot.old[:, _SCENE] != shot.new[:, _SCENE]) & (shot.change < 1)
        gone = torch.where(differs, shot.change, torch.zeros_like(shot.change))
        self._lay(frames, view.x, view, air, layer, settled, gone, needs)
        coming = torch.where(differs, 1 - shot.change, torch.ones_like(shot.change))
        self._lay(frames, view.after, view, air, layer, shot.new[:, _SCENE], coming, needs)

    def _lay(
        self, frames: Tensor, camera: Tensor, view: View, air: Air, layer: int, scene: Tensor,
        hidden: Tensor | None, needs: dict[str, float],
    ) -> None:  # fmt: skip
        """Lay one strip over frames, in place.

        camera, scene: [N].  hidden: [N], 0 (in place) to 1 (gone): far strips sink, near ones fade.
        """
        scenery = self.scenery
        first = scenery.first_rows[layer]
        part = frames[..., first:]
        left = camera * (_PARALLAX[layer] * self.height)
        strip = cut(scenery.layers[layer], scene, left, self.width, scenery.columns)
        strip = strip.view(len(scene), self.width, 4, self.height - first)
        down = torch.zeros_like(view.rise)
        if needs["sinking"]:
            down = view.rise * _SINKING[layer]
        if hidden is not None and layer < 2:
            down = down + 0.85 * hidden
        if hidden is not None and layer >= 2:
            strip = strip * (2 * (1 - hidden)).clamp(0, 1)[:, None, None, None]
        sinks = bool(needs["sinking"]) or (hidden is not None and layer < 2)
        if sinks:
            strip = _sink(strip, down * self.height)
        snow = air.weather[:, light.SNOW] * air.open
        white = snow * scenery.places.white[scene] * light.LAYER_SNOW[layer]
        haze = air.haze[:, layer]
        fallen = air.light + light.SNOW_GLOW * (1 - air.light)
        gain = air.light * ((1 - haze) * (1 - white))[:, None]
        bias = air.fog * haze[:, None] + fallen * ((1 - haze) * white)[:, None]
        alpha = strip[:, :, 3:]
        part.addcmul_(alpha, bias[:, None, :, None] - part)
        part.addcmul_(strip[:, :, :3], gain[:, None, :, None])
        if layer == 1 and needs["glow"]:
            panes = cut(scenery.glow, scenery.glow_row[scene], left, self.width, scenery.columns)
            panes = panes.view(len(scene), self.width, 1, self.height - first)
            if sinks:
                panes = _sink(panes, down * self.height)
            strength = air.night * scenery.places.has_glow[scene] * (1 - 0.6 * haze)
            part.lerp_(self.lamp[:, None], panes * strength[:, None, None, None])

    def _mirror(self, frames: Tensor, shot: Shot, water: Tensor) -> None:
        """Let the water show what lies above it, upside down and rippling, in place."""
        first = self.scenery.first_water
        line = shot.mix(self.scenery.places.waterline, _SCENE)[:, None]
        y = self.y[first:]
        depth = (y - line).clamp(min=0)
        ripple = (0.004 + 0.05 * depth) * torch.sin(70 * depth.sqrt() - 3.0 * shot.t[:, None])
        source = ((line - 1.25 * depth + ripple) * self.height).clamp(0, self.height - 1)
        rows = source.long()[:, None, None].expand(-1, self.width, 3, -1)
        seen = frames.gather(3, rows)
        cover = water[:, None] * ((y - line) * self.height + 0.5).clamp(0, 1)
        frames[..., first:].lerp_(seen, cover[:, None, None])

    def _add_rays(self, frames: Tensor, shot: Shot, air: Air) -> None:
        """Shafts of light from the surface of the sea, in place."""
        slant = self.x[:, None] + 0.45 * self.y[None, :]
        t = shot.t[:, None, None]
        waves = torch.sin(5.2 * slant + 0.35 * t) + torch.sin(8.7 * slant - 0.50 * t + 1.3)
        shafts = (waves * 0.5).clamp(min=0).square() * (1 - self.y).square()
        strength = 0.34 * shot.mix(self.scenery.places.sea, _SCENE)[:, None] * air.daylight
        frames += shafts[:, :, None] * strength[:, None, :, None]

    def _paint_cast(
        self, frames: Tensor, shot: Shot, view: View, air: Air, marks: Marks, shine: Shine,
        water: Tensor | None, needs: dict[str, float],
    ) -> None:  # fmt: skip
        casts = shot.mix(self.scenery.places.casts, _SCENE) * (0.45 + 0.55 * air.clear)
        slant = torch.full_like(casts, -0.28)  # away from the sun
        for number in range(int(needs["actors"])):
            actor = marks.actor(number)
            self.stage.shade(frames, actor, casts, slant)
            self.stage.draw(frames, actor, shine, needs["reach"], water, shot.t)

    def _paint_weather(
        self, frames: Tensor, shot: Shot, view: View, air: Air, needs: dict[str, float]
    ) -> None:
        """What falls and drifts in front of everything, in place."""
        camera = view.x + 4.8 * shot.fate[:, 10]
        colour = (0.60 + 0.40 * air.daylight)[:, None, :, None]
        weather = air.weather * air.open[:, None]
        if needs["rain"]:
            cover = self.falling.raining(shot.t, camera, self.width)
            frames.lerp_(colour, (cover * 0.55 * weather[:, light.RAIN, None, None])[:, :, None])
        if needs["snow"]:
            cover = self.falling.snowing(shot.t, camera, self.width)
            frames.lerp_(colour, (cover * 0.92 * weather[:, light.SNOW, None, None])[:, :, None])
        if needs["leaves"]:
            some = self.drift.leaves(shot.t, camera, self.width)
            some = some * weather[:, light.LEAVES, None, None, None]
            lit = (0.25 + 0.75 * air.light)[:, None, :, None]
            frames.mul_(1 - some[:, :, 3:]).addcmul_(some[:, :, :3], lit)
        if needs["fireflies"]:
            some = self.drift.fireflies(shot.t, camera, self.width)
            some = some * weather[:, light.FIREFLIES, None, None, None]
            frames += some * self.firefly[:, None]
        if needs["sea"]:
            some = self.drift.rising(shot.t, camera, self.width)
            strength = 0.75 * shot.mix(self.scenery.places.sea, _SCENE)
            frames.lerp_(0.55 + 0.45 * colour, some * strength[:, None, None, None])

    def _zoom(self, frames: Tensor, zoom: Tensor) -> Tensor:
        """Frames enlarged around a point below the middle."""
        grid_x = (self.x * (2 * self.height / self.width) - 1)[None, :] / zoom[:, None]
        grid_y = ((self.y - 0.64)[None, :] / zoom[:, None] + 0.64) * 2 - 1
        grid = torch.stack(
            [
                grid_y[:, None, :].expand(-1, self.width, -1),
                grid_x[:, :, None].expand(-1, -1, self.height),
            ],
            -1,
        )
        images = frames.permute(0, 2, 1, 3)  # [N, 3, W, H]
        larger = functional.grid_sample(
            images, grid, mode="bilinear", padding_mode="border", align_corners=False
        )
        return larger.permute(0, 2, 1, 3)


def _sink(picture: Tensor, by_px: Tensor) -> Tensor:
    """Move pictures [N, W, C, R] down by [N] pixels; above them is nothing."""
    whole = torch.floor(by_px)
    rows = torch.arange(picture.shape[3], device=picture.device) - whole.long()[:, None]

    def moved(rows: Tensor) -> Tensor:
        there = picture.gather(3, rows.clamp(min=0)[:, None, None].expand(picture.shape))
        return there * (rows >= 0)[:, None, None]

    return torch.lerp(moved(rows), moved(rows - 1), (by_px - whole)[:, None, None, None])
