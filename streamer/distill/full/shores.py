"""Places at, on and under water, painted as at a clear noon."""

from __future__ import annotations

from streamer.distill.full.brush import Brush, spread
from streamer.distill.full.strokes import bank, crests, peak, weed


def paint_ocean(far: Brush, middle: Brush, ground: Brush, near: Brush) -> None:
    """Open water with islands on the horizon."""
    for x, r in spread(4, 23, 0.7):
        far.ellipse(x, 0.63, 0.26 + 0.1 * r, 0.07 + 0.05 * r, "#8fcf9f", "#62ad86")
        far.prop("palm", x + 0.05, 0.605 - 0.03 * r, 0.13, fade=("#a8d8c0", 0.35))
    ground.veil(0.62, ("#3f9fe0", "#2172bb"), 0.70, 0.84)
    crests(ground, 70, 25, "#dff4ff", top=0.65)
    near.ridge(0.965, [(9, 0.012, 0.4), (4, 0.01, 0.0)], "#2f8fd6", "#1a5fa6", rim="#a5dcfa")


def paint_lake(far: Brush, middle: Brush, ground: Brush, near: Brush) -> None:
    """Still water before wooded shores and peaks."""
    for x, r in sorted(spread(6, 31, 0.6), key=lambda place: place[1]):
        peak(far, x, 0.36 - 0.14 * r, 0.42, r)
    far.ridge(0.60, [(2, 0.03, 0.5), (5, 0.015, 0.0)], "#8fc79a", "#74b486", rim="#addbb0")
    for x, r in spread(24, 33, 0.8):
        middle.prop("fir" if r < 0.6 else "tree", x, 0.675, 0.10 + 0.12 * r, fade=("#5f9f86", 0.2))
    middle.ridge(0.655, [(5, 0.006, 0.0)], "#74b95f", "#4f9a52", rim="#a0d982", span=0.05)
    ground.veil(0.685, ("#7cc4ec", "#3f92cf"), 0.42, 0.66)
    crests(ground, 24, 35, "#ffffff", top=0.72)
    for x, r in spread(9, 36, 0.9):
        ground.prop("lotus", x, 0.86 + 0.12 * r, 0.07 + 0.05 * r)
    for x, r in spread(14, 37, 0.9):
        for i in range(4):
            at = x + 0.016 * i
            near.polygon([(at - 0.005, 1.01), (at + 0.01 * (r - 0.5), 0.86 + 0.03 * i),
                          (at + 0.005, 1.01)], "#5fae4a", "#2c6f34")  # fmt: skip
            near.ellipse(at + 0.01 * (r - 0.5), 0.87 + 0.03 * i, 0.006, 0.020, "#9a6a3c", "#70482a")


def paint_beach(far: Brush, middle: Brush, ground: Brush, near: Brush) -> None:
    """Turquoise sea, palms, sand and shells."""
    for x, r in spread(3, 81, 0.7):
        far.ellipse(x, 0.63, 0.30, 0.06 + 0.04 * r, "#8fcfa8", "#5fae8c")
    far.ridge(0.62, [], "#56c5e8", "#2fa5d8", span=0.12)
    middle.ridge(0.70, [(7, 0.004, 0.0)], "#6fe0e0", "#a8f0e4", span=0.08)
    for x, r in spread(9, 82, 0.8):
        middle.ellipse(x, 0.665 + 0.02 * r, 0.10, 0.004, "#eafcff", alpha=0.8)
    for x, r in spread(6, 83, 0.7):
        middle.prop("palm", x, 0.795, 0.40 + 0.18 * r, mirrored=r > 0.5)
    ground.ridge(0.755, [(4, 0.012, 0.0), (9, 0.004, 0.0)], "#ffffff", "#f4fbff", span=0.02)
    ground.ridge(0.770, [(4, 0.012, 0.0), (9, 0.004, 0.0)], "#f0d79c", "#f7e2ae", span=0.06)
    ground.ridge(0.800, [(3, 0.012, 0.5)], "#ffe9b8", "#efc985", span=0.22)
    for x, _ in spread(5, 85, 0.7):
        ground.prop("umbrella", x, 0.83, 0.14)
    for x, r in spread(13, 86, 0.9):
        ground.prop("shell" if r < 0.7 else "coral", x, 0.88 + 0.1 * r, 0.035 + 0.03 * r)
    near.ridge(0.985, [(4, 0.012, 1.0)], "#ffe2a8", "#e8bd78", rim="#fff2cc")


def paint_underwater(far: Brush, middle: Brush, ground: Brush, near: Brush) -> None:
    """A reef: rocks, corals, weeds and sand."""
    far.ridge(0.52, [(3, 0.08, 0.3), (5, 0.04, 1.1)], "#3fa5d0", "#2f86b8")
    far.ridge(0.62, [(4, 0.06, 1.3), (7, 0.03, 0.2)], "#2f8fbe", "#2474a6")
    far.blur(0.006)
    line = middle.ridge(0.72, [(3, 0.06, 1.0), (7, 0.03, 0.2)], "#2a7d9f", "#1e5f86", rim="#4fb3c8")
    for x, r in spread(16, 91, 0.8):
        middle.prop("coral", x, line(x) + 0.02, 0.12 + 0.12 * r, fade=("#2f8fbe", 0.22),
                    mirrored=r > 0.5)  # fmt: skip
    for x, r in spread(14, 92, 0.8):
        weed(middle, x, line(x) + 0.02, 0.16 + 0.16 * r, "#3fae8c", "#1f6f6c")
    bank(ground, 0.80, "#e9dcae", "#b9a878", "#fff6cf", 1.2)
    for x, r in spread(16, 93, 0.9):
        names = ("shell", "coral", "rock", "coral")
        ground.prop(names[int(r * 83) % 4], x, 0.87 + 0.11 * r, 0.06 + 0.05 * r)
    for x, r in spread(11, 94, 0.9):
        weed(near, x, 1.02, 0.12 + 0.08 * r, "#39a06c", "#0f4f4c")
