"""Places on land, each painted on four strips, far to near, as at a clear noon."""

from __future__ import annotations

from streamer.distill.full.brush import PERIOD, Brush, spread
from streamer.distill.full.strokes import bank, flowers, peak, tufts


def paint_meadow(far: Brush, middle: Brush, ground: Brush, near: Brush) -> None:
    """Green hills with round trees and wild flowers."""
    far.ridge(0.50, [(2, 0.05, 0.3), (5, 0.02, 1.1)], "#a8dcb4", "#8ccf9e", rim="#c3ebc4")
    far.ridge(0.57, [(3, 0.04, 2.0), (7, 0.012, 0.1)], "#8ad08a", "#6dbf76", rim="#a9e29c")
    line = middle.ridge(0.64, [(2, 0.045, 2.0), (5, 0.022, 0.4)], "#7fce62", "#55b04f")
    for x, r in spread(9, 3):
        middle.prop("tree", x, line(x) + 0.02, 0.17 + 0.09 * r, fade=("#7fce9a", 0.12))
    middle.ridge(0.70, [(3, 0.02, 1.0)], "#79cf57", "#4fae4a", rim="#a5e27c", span=0.2)
    bank(ground, 0.765, "#93de58", "#4fae3c", "#b8f07c")
    for x, r in spread(16, 8, 0.9):
        ground.ellipse(x, 0.82 + 0.15 * r, 0.09, 0.008, "#7fd04c", alpha=0.7)
    flowers(ground, 26, 5, ("tulip", "blossom", "sunflower", "blossom", "rose"), 0.075)
    tufts(near, 22, 6, "#7bd24a", "#2f8a33")


def paint_farm(far: Brush, middle: Brush, ground: Brush, near: Brush) -> None:
    """Striped fields, a red barn, a fence and sheaves."""
    far.ridge(0.54, [(2, 0.035, 0.8), (4, 0.015, 2.1)], "#b6dc9a", "#9ccb84", rim="#d3efb4")
    far.ridge(0.59, [(3, 0.02, 0.1)], "#e6d27a", "#d6bd63", rim="#f4e59a")
    for i, (x, _) in enumerate(spread(3, 12, 0.3)):
        _barn(middle, x + 0.2, 0.68, 0.15 + 0.02 * i)
        middle.prop("tree", x + 0.52, 0.67, 0.20)
        middle.prop("garden house", x - 0.35, 0.675, 0.17, lit=True)
    middle.ridge(0.66, [(2, 0.012, 0.5)], "#d9c95c", "#b7a544", rim="#efe384")
    for row in range(4):
        y = 0.675 + 0.022 * row
        middle.ridge(y + 0.008, [(2, 0.012, 0.5)], "#c2b04a", "#d9c95c", span=0.02)
    bank(ground, 0.77, "#a7d65a", "#6fae3f", "#c9ee84", 2.0)
    for x, _ in spread(44, 1, 0.0):
        ground.box(x, 0.735, 0.006, 0.80, "#f2e2c4", "#cdb083")
    for y in (0.748, 0.772):
        ground.box(PERIOD / 2, y, PERIOD / 2, y + 0.008, "#f2e2c4", "#d8bd92")
    for x, r in spread(15, 9, 0.9):
        ground.prop("rice", x, 0.86 + 0.12 * r, 0.06 + 0.06 * r)
    tufts(near, 18, 7, "#e6cf5e", "#8f9a35", 0.09)


def _barn(brush: Brush, x: float, foot: float, size: float) -> None:
    brush.box(x, foot - size * 0.55, size * 0.5, foot, "#d9534a", "#b23b38")
    brush.polygon(
        [(x - size * 0.56, foot - size * 0.52), (x - size * 0.34, foot - size * 0.86),
         (x, foot - size), (x + size * 0.34, foot - size * 0.86),
         (x + size * 0.56, foot - size * 0.52)],
        "#7a3540", "#5c2833",
    )  # fmt: skip
    brush.box(x, foot - size * 0.36, size * 0.16, foot, "#f6ead2", "#e2cfae")
    brush.box(x, foot - size * 0.33, size * 0.13, foot, "#a83a38", "#8f2f30")
    brush.box(x, foot - size * 0.74, size * 0.08, foot - size * 0.60, "#fff3c9")
    brush.light(x, foot - size * 0.74, size * 0.08, foot - size * 0.60)


def paint_mountains(far: Brush, middle: Brush, ground: Brush, near: Brush) -> None:
    """Peaks with caps of snow above foothills and firs."""
    for x, r in sorted(spread(9, 11, 0.6), key=lambda place: place[1]):
        peak(far, x, 0.36 - 0.20 * r, 0.34 + 0.14 * r, r)
    far.ridge(0.66, [(3, 0.03, 0.4), (7, 0.012, 1.0)], "#8aa5b4", "#7795a0")
    line = middle.ridge(
        0.68, [(4, 0.03, 1.0), (7, 0.018, 0.2)], "#6f9a86", "#557f6c", rim="#8fb89c"
    )
    for x, r in spread(26, 14, 0.8):
        middle.prop("fir", x, line(x) + 0.015, 0.10 + 0.07 * r, fade=("#5f8f86", 0.25))
    bank(ground, 0.775, "#a3bf86", "#6f9463", "#c6dca6", 1.0)
    for x, r in spread(11, 13, 0.8):
        ground.prop("rock", x, 0.84 + 0.14 * ((r * 5) % 1), 0.06 + 0.06 * r)
    flowers(ground, 10, 15, ("blossom", "herb"), 0.06)
    tufts(near, 12, 16, "#86a86a", "#496f45", 0.06)


def paint_desert(far: Brush, middle: Brush, ground: Brush, near: Brush) -> None:
    """Dunes with pyramids and cacti."""
    for x, r in spread(5, 17, 0.6):
        tip, half = 0.42 - 0.12 * r, 0.20 + 0.12 * r
        far.polygon([(x - half, 0.68), (x, tip), (x + half, 0.68)], "#f3cd8a", "#e6b574")
        far.polygon([(x, tip), (x + half, 0.68), (x + half * 0.2, 0.68)], "#cf9a5c", "#c48c50")
    far.ridge(0.60, [(3, 0.03, 0.6), (5, 0.012, 0.2)], "#f6d596", "#eabf7c", rim="#fde9b8")
    line = middle.ridge(0.68, [(2, 0.04, 0.0), (3, 0.02, 1.2)], "#f7c67c", "#e3a253", rim="#ffe0a4")
    for x, r in spread(8, 19, 0.6):
        middle.prop("cactus", x, line(x) + 0.025, 0.14 + 0.08 * r, mirrored=r > 0.5)
    ground.ridge(0.76, [(2, 0.022, 2.0)], "#ffdd94", "#efae5c", rim="#fff0c0", span=0.24)
    for y, phase in ((0.84, 0.0), (0.89, 2.0), (0.95, 4.0)):
        ground.ridge(y, [(3, 0.014, phase), (7, 0.004, phase)], "#f5c57c", "#efb060", rim="#ffe3a8")
    for x, r in spread(7, 21, 0.9):
        ground.prop("rock", x, 0.88 + 0.1 * r, 0.04 + 0.03 * r, fade=("#e0a060", 0.5))
    near.ridge(0.985, [(4, 0.012, 1.0)], "#f7c476", "#e2994a", rim="#ffe0a0")


def paint_forest(far: Brush, middle: Brush, ground: Brush, near: Brush) -> None:
    """Firs and leafy trees, row behind row, with mushrooms."""
    for x, r in spread(30, 41, 0.7):
        far.prop("fir", x, 0.67, 0.30 + 0.16 * r, fade=("#9fd0bc", 0.62))
    far.ridge(0.63, [(3, 0.01, 0.0)], "#8cc4a6", "#74b090")
    for x, r in spread(17, 43, 0.7):
        name = "fir" if r < 0.65 else "tree"
        middle.prop(name, x, 0.775, 0.40 + 0.20 * r, fade=("#2f6f58", 0.22))
    middle.ridge(0.745, [(4, 0.01, 0.0)], "#4c9a58", "#357d49", rim="#72bd6c")
    bank(ground, 0.785, "#6fae4a", "#3d7a36", "#93ca62", 0.4)
    for x, r in spread(14, 47, 0.8):
        names = ("mushroom", "herb", "mushroom", "shamrock", "log")
        ground.prop(names[int(r * 61) % 5], x, 0.85 + 0.13 * ((r * 3) % 1), 0.055 + 0.03 * r)
    tufts(near, 20, 48, "#4f9a44", "#1f5a2c", 0.08)


def paint_jungle(far: Brush, middle: Brush, ground: Brush, near: Brush) -> None:
    """Palms, ferns and bright flowers."""
    for x, r in spread(18, 51, 0.8):
        far.ellipse(x, 0.50 - 0.1 * r, 0.22, 0.16, "#8fd3a0", "#6cb98a")
    far.ridge(0.50, [(4, 0.03, 0.2), (9, 0.02, 1.2)], "#7cc492", "#5aa878")
    for x, r in spread(13, 53, 0.7):
        middle.prop("palm", x, 0.77, 0.42 + 0.18 * r, fade=("#3f9a6c", 0.18), mirrored=r > 0.5)
    for x, r in spread(16, 55, 0.7):
        middle.prop("tree", x, 0.80, 0.24 + 0.12 * r, fade=("#1f7a4c", 0.35))
    middle.ridge(0.735, [(5, 0.018, 0.0)], "#3f9f52", "#2a7f44", rim="#66c468")
    bank(ground, 0.79, "#5cb24a", "#2c7a3a", "#86d163", 1.4)
    flowers(ground, 14, 57, ("hibiscus", "herb", "hibiscus", "seedling"), 0.085)
    for x, r in spread(12, 59, 0.9):
        _frond(near, x, 0.09 + 0.05 * r, (r - 0.5) * 0.6)


def _frond(near: Brush, x: float, tall: float, lean: float) -> None:
    for side in range(-3, 4):
        tip = (x + tall * (side * 0.28 + lean), 1.0 - tall * (1 - 0.09 * side * side))
        near.polygon([(x - 0.016, 1.02), tip, (x + 0.016, 1.02)], "#3fae57", "#14592f")


def paint_savanna(far: Brush, middle: Brush, ground: Brush, near: Brush) -> None:
    """Golden grass, flat-topped trees and a far table mountain."""
    for x, r in spread(3, 61, 0.6):
        far.polygon(
            [(x - 0.5, 0.66), (x - 0.28, 0.44 - 0.05 * r), (x + 0.25, 0.43 - 0.05 * r),
             (x + 0.5, 0.66)],
            "#c9b3c0", "#d8bfae",
        )  # fmt: skip
    far.ridge(0.61, [(3, 0.015, 0.6)], "#e9cf8a", "#ddbb72", rim="#f6e3a8")
    for x, r in spread(8, 63, 0.6):
        _acacia(middle, x, 0.70, 0.24 + 0.12 * r)
    middle.ridge(0.68, [(3, 0.015, 0.6), (7, 0.008, 0.2)], "#e3c162", "#c99f47", rim="#f6dc88")
    bank(ground, 0.77, "#f0cf6e", "#cf9c45", "#ffe894", 0.8)
    for x, r in spread(16, 65, 0.9):
        ground.prop("rice", x, 0.84 + 0.14 * r, 0.05 + 0.05 * r, fade=("#d7a546", 0.3))
    for x, r in spread(5, 66, 0.9):
        ground.prop("rock", x, 0.86 + 0.1 * r, 0.06, fade=("#b88a52", 0.4))
    tufts(near, 26, 67, "#e8c256", "#9a7430", 0.10)


def _acacia(brush: Brush, x: float, foot: float, size: float) -> None:
    brush.polygon(
        [(x - 0.012, foot), (x - 0.006, foot - size * 0.55), (x + 0.006, foot - size * 0.55),
         (x + 0.012, foot)], "#8a6242", "#5f4230",
    )  # fmt: skip
    for side in (-1, 1):
        brush.polygon(
            [(x - 0.006, foot - size * 0.5), (x + side * size * 0.36, foot - size * 0.78),
             (x + side * size * 0.38, foot - size * 0.76), (x + 0.006, foot - size * 0.42)],
            "#7d5a3e", "#6b4a34",
        )  # fmt: skip
    for dx, dy, half in ((-0.24, 0.76, 0.34), (0.26, 0.78, 0.30), (0.0, 0.88, 0.42)):
        brush.ellipse(
            x + dx * size, foot - dy * size, half * size, 0.10 * size, "#8fb04c", "#5d8238"
        )


def paint_snowfield(far: Brush, middle: Brush, ground: Brush, near: Brush) -> None:
    """Ice, snowdrifts, white firs and far blue peaks."""
    for x, r in sorted(spread(7, 71, 0.6), key=lambda place: place[1]):
        peak(far, x, 0.44 - 0.14 * r, 0.40, r)
    far.ridge(0.66, [(3, 0.02, 0.4)], "#d3e4f6", "#bcd5ee", rim="#eef6ff")
    line = middle.ridge(
        0.69, [(3, 0.03, 1.0), (6, 0.012, 0.2)], "#eaf4ff", "#c6ddf3", rim="#ffffff"
    )
    for x, r in spread(12, 74, 0.8):
        middle.prop("fir", x, line(x) + 0.015, 0.14 + 0.09 * r, fade=("#eef6ff", 0.55))
    for x, r in spread(6, 75, 0.8):
        _ice(middle, x, 0.745, 0.08 + 0.05 * r)
    bank(ground, 0.77, "#f8fcff", "#c9def4", "#ffffff", 0.3)
    for x, r in spread(10, 77, 0.9):
        ground.ellipse(x, 0.83 + 0.15 * r, 0.14, 0.014, "#dcebfa", "#cfe2f6")
    near.ridge(0.975, [(3, 0.02, 1.0), (5, 0.008, 0.0)], "#ffffff", "#d6e7f8", rim="#ffffff")


def _ice(brush: Brush, x: float, foot: float, size: float) -> None:
    brush.polygon(
        [(x - size, foot), (x - size * 0.5, foot - size * 0.9), (x + size * 0.1, foot - size * 0.6),
         (x + size * 0.5, foot - size), (x + size, foot)], "#c9ecff", "#8fcbee",
    )  # fmt: skip
    brush.polygon(
        [(x + size * 0.1, foot - size * 0.6), (x + size * 0.5, foot - size), (x + size, foot),
         (x + size * 0.3, foot)], "#9bd4f2", "#74b6e0",
    )  # fmt: skip
