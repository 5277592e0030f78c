"""Towns, and places beyond the sky, painted as at a clear noon."""

from __future__ import annotations

from streamer.distill.full.brush import PERIOD, Brush, spread
from streamer.distill.full.strokes import bank, flowers, tufts


def paint_city(far: Brush, middle: Brush, ground: Brush, near: Brush) -> None:
    """Towers with windows, shops, a street."""
    for x, r in spread(26, 101, 0.6):
        far.box(x, 0.28 + 0.22 * r, 0.07 + 0.03 * ((r * 5) % 1), 0.8, "#b7c7e6", "#cfdcf2")
    for x, r in spread(14, 103, 0.4):
        _tower(middle, x, 0.30 + 0.24 * r, 0.105, r)
    for x, r in spread(11, 105, 0.6):
        name = ("store", "office", "school", "hotel", "hospital")[int(r * 71) % 5]
        middle.prop(name, x, 0.785, 0.20 + 0.04 * r, lit=True)
    middle.box(PERIOD / 2, 0.775, PERIOD / 2, 1.0, "#dfe3ea", "#c3c9d3")
    ground.box(PERIOD / 2, 0.772, PERIOD / 2, 0.80, "#e6e9ef", "#c9cfd9")
    for x, r in spread(12, 107, 0.5):
        ground.prop("tree", x, 0.795, 0.13 + 0.04 * r)
    ground.box(PERIOD / 2, 0.80, PERIOD / 2, 0.812, "#aab1bd")
    ground.box(PERIOD / 2, 0.812, PERIOD / 2, 1.0, "#6f7684", "#565c69")
    for x, _ in spread(12, 108, 0.0):
        ground.box(x, 0.893, 0.11, 0.905, "#ffe9a0")
    for x, _ in spread(6, 109, 0.3):
        near.box(x, 0.985, 0.30, 1.0, "#d9dee6", "#c3c9d3")


def _tower(middle: Brush, x: float, top: float, half: float, r: float) -> None:
    walls = (("#f2b8a0", "#dd8f7c"), ("#a9c4ec", "#7fa2d8"), ("#f6d79a", "#e0b572"),
             ("#c9b4e6", "#a48ccf"), ("#a8dcc8", "#7cbca6"))[int(r * 53) % 5]  # fmt: skip
    middle.box(x, top, half, 0.80, *walls)
    middle.box(x + half * 0.78, top, half * 0.22, 0.80, walls[1], alpha=0.7)
    middle.box(x, top - 0.012, half * 1.05, top + 0.004, walls[1])
    row = top + 0.035
    while row < 0.72:
        for column in (-0.6, -0.2, 0.2, 0.6):
            at = x + column * half
            middle.box(at, row, half * 0.13, row + 0.028, "#eaf6ff", "#bfe0f7")
            if (column * 7 + row * 31 + r * 13) % 1 < 0.7:
                middle.light(at, row, half * 0.13, row + 0.028)
        row += 0.058


def paint_village(far: Brush, middle: Brush, ground: Brush, near: Brush) -> None:
    """Cottages, a church and a castle on its hill."""
    line = far.ridge(0.52, [(2, 0.06, 0.3), (5, 0.02, 1.1)], "#a8dcb0", "#86c99a", rim="#c6edc6")
    for x in (0.9, 3.3):
        far.prop("castle", x, line(x) + 0.03, 0.26, fade=("#b6d9d6", 0.35))
    far.ridge(0.60, [(3, 0.03, 2.2)], "#8fd084", "#6fbd72", rim="#b0e59c")
    for x, r in spread(15, 111, 0.5):
        name = ("cottage", "garden house", "cottage", "houses", "church")[int(r * 67) % 5]
        middle.prop(name, x, 0.775, 0.20 + 0.06 * r, lit=True, mirrored=(r * 9) % 1 > 0.5)
    for x, r in spread(12, 113, 0.7):
        middle.prop("tree", x + 0.16, 0.775, 0.14 + 0.07 * r)
    middle.ridge(0.752, [(4, 0.006, 0.0)], "#84cf5e", "#58b04c", rim="#a8e67e")
    bank(ground, 0.785, "#93d85c", "#59b045", "#b6ee80", 0.9)
    ground.ridge(0.845, [(3, 0.008, 0.2)], "#f2dcae", "#dfc08a", rim="#fff0cc", span=0.1)
    ground.ridge(0.925, [(3, 0.008, 0.6)], "#84cf54", "#55a842", rim="#a9e67a")
    flowers(ground, 14, 115, ("tulip", "blossom", "rose"), 0.07)
    tufts(near, 14, 116, "#74cb4a", "#2f8a33", 0.06)


def paint_space(far: Brush, middle: Brush, ground: Brush, near: Brush) -> None:
    """Nebulae and planets; there is no ground."""
    for x, r in spread(9, 121, 0.9):
        colour = ("#8a4fd0", "#3f6fe0", "#d04f9a", "#2fa5b8")[int(r * 47) % 4]
        y = 0.2 + 0.6 * ((r * 5) % 1)
        far.ellipse(x, y, 0.42, 0.16 + 0.1 * r, colour, alpha=0.35)
    far.blur(0.09)
    for i, (name, x, y, size) in enumerate((
        ("planet", 0.30, 0.60, 0.36), ("earth", 1.75, 0.66, 0.26), ("moon", 2.75, 0.42, 0.17),
        ("planet", 3.55, 0.74, 0.20), ("moon", 4.35, 0.58, 0.24), ("planet", 1.15, 0.38, 0.15),
        ("moon", 2.25, 0.84, 0.13), ("earth", 3.15, 0.42, 0.15), ("planet", 3.95, 0.50, 0.24),
    )):  # fmt: skip
        middle.prop(name, x, y, size, turn=12.0 * i)


def paint_moon(far: Brush, middle: Brush, ground: Brush, near: Brush) -> None:
    """Grey craters below the earth."""
    for x in (0.8, 3.2):
        far.prop("earth", x, 0.40, 0.24, turn=20 * x)
    far.ridge(
        0.62,
        [(3, 0.05, 0.4), (7, 0.025, 1.0), (11, 0.01, 0.3)],
        "#9a9cb0",
        "#84879d",
        rim="#c3c5d6",
    )
    middle.ridge(0.70, [(2, 0.03, 1.4), (5, 0.02, 0.2)], "#a6a8ba", "#8b8ea2", rim="#cfd1df")
    bank(ground, 0.77, "#c9cad6", "#9496a8", "#e6e7ef", 0.6)
    for x, r in sorted(spread(13, 131, 0.9), key=lambda place: (place[1] * 7) % 1):
        y = 0.82 + 0.15 * ((r * 7) % 1)
        wide = (0.05 + 0.09 * r) * (0.5 + 2.5 * (y - 0.80))
        ground.ellipse(x, y, wide, wide * 0.26, "#e0e1ea", "#d3d4e0")
        ground.ellipse(x, y + wide * 0.03, wide * 0.86, wide * 0.20, "#7f8195", "#a9abbb")
    for x, r in spread(7, 133, 0.9):
        near.prop("rock", x, 1.02, 0.07 + 0.05 * r)
