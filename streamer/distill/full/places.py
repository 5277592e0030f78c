"""The places of the full edition: who paints them, and what light, weather and subjects find there.

A painter gets four brushes, far to near, and paints a clear noon.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from streamer.distill.full.brush import Brush
from streamer.distill.full.land import (
    paint_desert,
    paint_farm,
    paint_forest,
    paint_jungle,
    paint_meadow,
    paint_mountains,
    paint_savanna,
    paint_snowfield,
)
from streamer.distill.full.shores import paint_beach, paint_lake, paint_ocean, paint_underwater
from streamer.distill.full.towns import paint_city, paint_moon, paint_space, paint_village

FIRST_ROWS: Final = (0.06, 0.14, 0.60, 0.78)
"""Where each strip begins; nothing is painted above."""


@dataclass(frozen=True)
class Place:
    """A place: its painter, and what light, weather and subjects find there.

    sky: its own sky from the top to the horizon, where it has one; own_sky: how much of it shows.
    white: how white snow lies.  water: how much the ground mirrors.  waterline: where that begins.
    stars: always seen.  medium: what a subject rests in: ground, water, sea (under water), void.
    """

    paint: Callable[[Brush, Brush, Brush, Brush], None]
    sky: tuple[str, str, str] = ("#000000", "#000000", "#000000")
    own_sky: float = 0.0
    white: float = 0.6
    water: float = 0.0
    waterline: float = 0.66
    stars: float = 0.0
    medium: str = "ground"


PLACES: Final[dict[str, Place]] = {
    "meadow": Place(paint_meadow, white=0.78),
    "farm": Place(paint_farm, white=0.75),
    "mountains": Place(paint_mountains, white=0.75),
    "desert": Place(paint_desert, white=0.6),
    "ocean": Place(paint_ocean, white=0.12, water=0.9, waterline=0.62, medium="water"),
    "underwater": Place(
        paint_underwater, ("#8fe6f5", "#35a8dc", "#1f6fb4"), 1.0, white=0.0, medium="sea"
    ),
    "beach": Place(paint_beach, white=0.45),
    "lake": Place(paint_lake, white=0.3, water=0.85, waterline=0.685, medium="water"),
    "city": Place(paint_city, white=0.55),
    "village": Place(paint_village, white=0.75),
    "forest": Place(paint_forest, white=0.65),
    "jungle": Place(paint_jungle, white=0.4),
    "snowfield": Place(paint_snowfield, white=0.6),
    "savanna": Place(paint_savanna, white=0.6),
    "space": Place(
        paint_space, ("#0b0d2e", "#151443", "#2a1a55"), 1.0, white=0.0, stars=1.0, medium="void"
    ),
    "moon": Place(paint_moon, ("#05060f", "#0a0c20", "#181a38"), 1.0, white=0.0, stars=1.0),
}
