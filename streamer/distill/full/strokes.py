"""What several places are painted with: grass, flowers, peaks, waves, weeds."""

from __future__ import annotations

import math

from streamer.distill.full.brush import Brush, spread


def tufts(near: Brush, count: int, seed: int, top: str, bottom: str, tall: float = 0.07) -> None:
    """Blades of grass along the lower edge."""
    for x, r in spread(count, seed, 0.9):
        for blade in range(5):
            lean = (blade - 2) * 0.010 + 0.01 * (r - 0.5)
            high = tall * (0.6 + 0.4 * ((r * (blade + 3) * 7) % 1))
            foot = x + (blade - 2) * 0.008
            near.polygon(
                [(foot - 0.006, 1.01), (foot + lean * 2, 1.0 - high), (foot + 0.006, 1.01)],
                top, bottom,
            )  # fmt: skip


def flowers(brush: Brush, count: int, seed: int, names: tuple[str, ...], size: float) -> None:
    """Flowers in the front half of the ground, larger towards the viewer."""
    for x, r in sorted(spread(count, seed, 0.9), key=lambda place: (place[1] * 7) % 1):
        y = 0.83 + 0.15 * ((r * 7) % 1)
        brush.prop(names[int(r * 97) % len(names)], x, y, size * (0.6 + 2.6 * (y - 0.83)))


def peak(far: Brush, x: float, tip: float, half: float, r: float) -> None:
    """A mountain with a lit side, a dark side and a cap of snow."""
    foot = 0.80
    far.polygon([(x - half, foot), (x, tip), (x + half, foot)], "#8f9cc4", "#a9b9cf")
    shade = [(x, tip), (x + half, foot), (x + half * 0.12, foot), (x + half * 0.10, tip + 0.20)]
    far.polygon(shade, "#66729f", "#8598b4")
    down = 0.13 + 0.04 * r
    share = down / (foot - tip)
    teeth = [(x, tip)]
    for i in range(7):
        at = x + half * share * (1 - i / 3)
        teeth.append((at, tip + down * (abs(1 - i / 3)) + (0.035 if i % 2 else 0.0) + 0.02))
    far.polygon(teeth, "#ffffff", "#eaf1ff")
    far.polygon(
        [(x, tip), (x + half * share, tip + down + 0.02),
         (x + half * share * 0.4, tip + down * 0.7),
         (x + 0.01, tip + down * 0.9)], "#d5e0f7", "#c9d6f0",
    )  # fmt: skip


def bank(brush: Brush, y: float, top: str, bottom: str, rim: str, seed: float = 0.0) -> None:
    """The near ground: a low skyline with a sunlit edge."""
    brush.ridge(y, [(2, 0.012, seed), (5, 0.006, seed + 1)], top, bottom, rim=rim, span=0.24)


def crests(ground: Brush, count: int, seed: int, colour: str, top: float = 0.69) -> None:
    """Short bright strokes, longer towards the viewer."""
    for x, r in spread(count, seed, 0.9):
        depth = (r * 11) % 1
        y = top + (0.985 - top) * depth
        half = 0.02 + 0.055 * depth
        ground.ellipse(x, y, half, 0.0025 + 0.003 * depth, colour, alpha=0.55)
        ground.ellipse(
            x + half * 0.8, y + 0.008, half * 0.6, 0.002 + 0.002 * depth, colour, alpha=0.4
        )


def weed(brush: Brush, x: float, foot: float, tall: float, top: str, bottom: str) -> None:
    """A swaying water plant."""
    steps = 12
    left, right = [], []
    for i in range(steps + 1):
        share = i / steps
        sway = 0.02 * math.sin(5 * share + 9 * x)
        half = 0.012 * (1 - share) + 0.002
        y = foot - tall * share
        left.append((x + sway - half, y))
        right.append((x + sway + half, y))
    brush.polygon([*left, *reversed(right)], top, bottom)
