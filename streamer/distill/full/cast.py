"""The cast of the full edition, as cast.json lists it, and the props of its scenery.

Knows nothing of pictures; streamer.distill.atlas builds and reads the sheet.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

_FILE: Final = Path(__file__).resolve().parents[2] / "assets" / "cast" / "cast.json"


@dataclass(frozen=True)
class Member:
    """One subject: its file in the package, what kind of thing it is, and how it is called.

    kind: a key of motions.TEMPERS.  size: longest side in picture heights.  facing: -1 looks left,
    0 neither, 1 looks right.  synonyms: nouns without article; rare: such as training never uses.
    """

    name: str
    code: str
    kind: str
    size: float
    facing: int
    synonyms: tuple[str, ...]
    rare: tuple[str, ...]


@cache
def load_members() -> tuple[Member, ...]:
    """The cast, in the order of the sheet."""
    entries = json.loads(_FILE.read_text(encoding="utf-8"))
    return tuple(
        Member(**{**entry, "synonyms": tuple(entry["synonyms"]), "rare": tuple(entry["rare"])})
        for entry in entries
    )


PROPS: Final = {
    f"prop {name}": code
    for name, code in {
        "fir": "1f332",
        "tree": "1f333",
        "palm": "1f334",
        "cottage": "1f3e0",
        "garden house": "1f3e1",
        "houses": "1f3d8-fe0f",
        "office": "1f3e2",
        "hotel": "1f3e8",
        "store": "1f3ec",
        "school": "1f3eb",
        "tower": "1f5fc",
        "church": "26ea",
        "castle": "1f3f0",
        "hut": "1f6d6",
        "snowy peak": "1f3d4-fe0f",
        "peak": "26f0-fe0f",
        "fuji": "1f5fb",
        "rock": "1faa8",
        "cactus": "1f335",
        "sunflower": "1f33b",
        "tulip": "1f337",
        "rose": "1f339",
        "blossom": "1f33c",
        "hibiscus": "1f33a",
        "mushroom": "1f344",
        "herb": "1f33f",
        "rice": "1f33e",
        "seedling": "1f331",
        "shamrock": "2618-fe0f",
        "lotus": "1fab7",
        "coral": "1fab8",
        "shell": "1f41a",
        "cloud": "2601-fe0f",
        "planet": "1fa90",
        "earth": "1f30d",
        "moon": "1f315",
        "wind leaf": "1f343",
        "maple leaf": "1f341",
        "fallen leaf": "1f342",
        "log": "1fab5",
        "umbrella": "26f1-fe0f",
        "tractor": "1f69c",
        "hospital": "1f3e5",
    }.items()
}
"""Sprites that only the scenery shows, after the members in the sheet."""
