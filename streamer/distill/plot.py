"""A plot of losses as a PNG."""

from __future__ import annotations

import math
from pathlib import Path

from PIL import Image, ImageDraw


def draw_losses(rows: list[dict[str, float]], path: Path) -> None:
    """A PNG of the loss over steps on a logarithmic axis: every step as a dot, a running mean as a
    line."""
    points = [(row["step"], math.log10(max(row["loss"], 1e-9))) for row in rows if "loss" in row]
    if len(points) < 2:
        return
    width, height, margin = 900, 420, 50
    low, high = min(y for _, y in points), max(y for _, y in points)
    first, last = points[0][0], points[-1][0]

    def place(step: float, value: float) -> tuple[float, float]:
        x = margin + (step - first) / max(1, last - first) * (width - 2 * margin)
        y = height - margin - (value - low) / max(1e-9, high - low) * (height - 2 * margin)
        return x, y

    image = Image.new("RGB", (width, height), "white")
    canvas = ImageDraw.Draw(image)
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        value = low + share * (high - low)
        y = place(first, value)[1]
        canvas.line((margin, y, width - margin, y), fill=(225, 225, 225))
        canvas.text((4, y - 6), f"{10**value:.3g}", fill="black")
    canvas.text((margin, height - 30), f"loss by step, {first:g} to {last:g}", fill="black")
    mean, line = points[0][1], []
    for step, value in points:
        canvas.point(place(step, value), fill=(150, 180, 230))
        mean += 0.05 * (value - mean)
        line.append(place(step, mean))
    canvas.line(line, fill=(20, 60, 160), width=2)
    image.save(path)
