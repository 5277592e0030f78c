"""The scenery of the full edition as tables on a device: every place's strips, and its properties.

Lies column by column, as streamer.distill.strips cuts it.  Painted once for each picture height.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from streamer.distill.full.brush import PERIOD, Brush, hex_colour
from streamer.distill.full.places import FIRST_ROWS, PLACES
from streamer.distill.full.vocabulary import SCENES

NUM_LAYERS = 4
_MEDIA = ("ground", "water", "sea", "void")
_NO_WEATHER = frozenset(("underwater", "space", "moon"))


@dataclass(frozen=True)
class PlaceTables:
    """Properties of the places, in the order of SCENES: [P], but sky: [P, 3 heights, 3].

    open: 1 where there is weather.  sea: 1 under water.  afloat, airy: whether subjects lie in
    water, and have space all around.  casts: whether they cast shadows.  has_glow: lit windows.
    The others: see places.Place.
    """

    sky: Tensor
    own_sky: Tensor
    white: Tensor
    water: Tensor
    waterline: Tensor
    stars: Tensor
    medium: Tensor
    open: Tensor
    sea: Tensor
    afloat: Tensor
    airy: Tensor
    casts: Tensor
    has_glow: Tensor

    def to(self, device: torch.device) -> PlaceTables:
        """The same on a device."""
        return PlaceTables(*(column.to(device) for column in vars(self).values()))


class Scenery:
    """All strips on one device.  Immutable; owned by a painter.

    layers: a table [places * columns, 4 * rows] for each layer, premultiplied RGBA, whose rows
    begin at first_rows.  glow: [lit places * columns, rows of layer 1], how windows shine at night;
    glow_row: [places], which of them is a place's.  host: the properties on the CPU.
    """

    def __init__(self, device: torch.device, height: int) -> None:
        painted = _paint(height)
        self.columns = round(PERIOD * height)
        self.first_rows = tuple(round(first * height) for first in FIRST_ROWS)
        self.layers = tuple(layer.to(device) for layer in painted.layers)
        self.glow = painted.glow.to(device)
        rows = painted.glow_rows
        self.glow_row = torch.tensor([max(0, row) for row in rows], device=device)
        self.host = _tabulate(rows)
        self.places = self.host.to(device)
        lines = [place.waterline for place in PLACES.values() if place.water]
        self.first_water = round(min(lines) * height)


@dataclass(frozen=True)
class _Painted:
    layers: tuple[Tensor, ...]
    glow: Tensor
    glow_rows: tuple[int, ...]


@lru_cache(maxsize=1)
def _paint(height: int) -> _Painted:
    """Paint every place; kept, since renderers of one size often follow each other."""
    layers: list[list[Tensor]] = [[] for _ in range(NUM_LAYERS)]
    glows: list[Tensor] = []
    rows: list[int] = []
    for name in SCENES:
        brushes = [Brush(height, first) for first in FIRST_ROWS]
        PLACES[name].paint(*brushes)
        for layer, brush in zip(layers, brushes, strict=True):
            layer.append(brush.table().flatten(1))
        rows.append(len(glows) if brushes[1].has_glow else -1)
        if brushes[1].has_glow:
            glows.append(brushes[1].glow_table())
    return _Painted(tuple(torch.cat(layer) for layer in layers), torch.cat(glows), tuple(rows))


def _tabulate(glow_rows: tuple[int, ...]) -> PlaceTables:
    places = [PLACES[name] for name in SCENES]

    def flags(values: list[bool]) -> Tensor:
        return torch.tensor([float(value) for value in values])

    return PlaceTables(
        sky=torch.tensor([[hex_colour(colour) for colour in place.sky] for place in places]),
        own_sky=torch.tensor([place.own_sky for place in places]),
        white=torch.tensor([place.white for place in places]),
        water=torch.tensor([place.water for place in places]),
        waterline=torch.tensor([place.waterline for place in places]),
        stars=torch.tensor([place.stars for place in places]),
        medium=torch.tensor([_MEDIA.index(place.medium) for place in places]),
        open=flags([name not in _NO_WEATHER for name in SCENES]),
        sea=flags([place.medium == "sea" for place in places]),
        afloat=flags([place.medium == "water" for place in places]),
        airy=flags([place.medium in ("sea", "void") for place in places]),
        casts=flags([place.medium in ("ground", "sea") for place in places]),
        has_glow=flags([row >= 0 for row in glow_rows]),
    )
