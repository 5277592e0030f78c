"""Light and air of the full edition: from classes to colours, for all frames of a call at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from streamer.distill.full import light
from streamer.distill.full.scenery import PlaceTables
from streamer.distill.full.stage import Shine
from streamer.distill.world import Shot

_SCENE, _TIME, _WEATHER = 0, 1, 2


@dataclass(frozen=True)
class Air:
    """Light and air of every frame: [N, ...], on the device.

    weather: [N, 12], the columns of light.WEATHER.  night, flash: [N].  daylight, light: [N, 3],
    without and with the weather.  sky: [N, 3, 3], from the top to the horizon.  fog: [N, 3], its
    colour.  haze: [N, layers].  clear: [N], how much of sun and moon is seen.  open: [N], 0 where
    there is no weather.
    """

    weather: Tensor
    night: Tensor
    flash: Tensor
    daylight: Tensor
    light: Tensor
    sky: Tensor
    fog: Tensor
    haze: Tensor
    clear: Tensor
    open: Tensor

    def rows(self, which: slice) -> Air:
        """Some of the frames."""
        return Air(*(column[which] for column in vars(self).values()))


def breathe(shot: Shot, tables: Mapping[str, Tensor], places: PlaceTables, flash: Tensor) -> Air:
    """Light and air of every frame.  flash: [N], lightning if there were a storm."""
    weather = shot.mix(tables["weather"], _WEATHER)
    open_air = shot.mix(places.open, _SCENE)
    grey = weather[:, light.GREY] * open_air
    dim = torch.lerp(torch.ones_like(grey), weather[:, light.DIM], open_air)
    night = shot.mix(tables["night"], _TIME)
    daylight = shot.mix(tables["light"], _TIME)
    sea = shot.mix(places.sea, _SCENE)[:, None]
    daylight = torch.lerp(daylight, 0.28 + 0.72 * daylight, sea)
    starry = shot.mix(places.stars, _SCENE)[:, None]
    daylight = torch.lerp(daylight, 0.75 + 0.25 * daylight, starry)
    flash = flash * weather[:, light.STORM] * open_air
    dull, snowy, stormy = tables["dull"]
    shade = torch.lerp(dull, snowy, weather[:, light.SNOW, None])
    shade = torch.lerp(shade, stormy, weather[:, light.STORM, None]) * daylight
    shade = torch.lerp(shade, 0.84 * daylight, 0.8 * weather[:, light.FOG, None])
    stops = torch.tensor([0.84, 0.95, 1.07], device=shot.t.device)[None, :, None]
    sky = torch.lerp(shot.mix(tables["sky"], _TIME), shade[:, None] * stops, grey[:, None, None])
    own = shot.mix(places.own_sky, _SCENE)[:, None, None]
    tint = torch.lerp(daylight, torch.ones_like(daylight), starry)
    sky = torch.lerp(sky, shot.mix(places.sky, _SCENE) * tint[:, None], own)
    sky = sky + flash[:, None, None] * torch.tensor([0.42, 0.45, 0.60], device=shot.t.device)
    lit = daylight * dim[:, None] * (1 + 0.9 * flash[:, None])
    fog = torch.lerp(sky[:, 2], (0.82 * daylight).clamp(max=1), 0.55 * weather[:, light.FOG, None])
    foggy = (weather[:, light.FOG] * open_air)[:, None]
    airy = torch.maximum(open_air, shot.mix(places.sea, _SCENE))[:, None]
    haze_of_air = torch.tensor(light.HAZE, device=shot.t.device)
    haze_of_fog = torch.tensor(light.FOG_HAZE, device=shot.t.device)
    haze = torch.maximum(haze_of_air * airy, haze_of_fog * foggy)
    clear = (1 - 1.5 * grey).clamp(0, 1) * open_air * (1 - 0.8 * foggy[:, 0])
    return Air(weather, night, flash, daylight, lit, sky, fog, haze, clear, open_air)


def shine_on(shot: Shot, air: Air, tables: Mapping[str, Tensor], places: PlaceTables) -> Shine:
    """The light on the cast."""
    rim = shot.mix(tables["rim"], _TIME) * (0.25 + 0.75 * air.clear[:, None])
    fog = air.weather[:, light.FOG] * air.open
    sea = shot.mix(places.sea, _SCENE)
    thick = torch.stack([0.10 * fog + 0.06 * sea, 0.14 + 0.55 * fog + 0.30 * sea], 1)
    thick = thick * torch.maximum(air.open, sea)[:, None]
    return Shine(0.46 + 0.54 * air.light, rim, air.fog, thick)
