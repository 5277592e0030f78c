"""Contact sheets: rows of pictures with words beside and numbers below, as one PNG.

Draws what it is given.  Knows nothing of models, prompts or streams.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from streamer.errors import OutputError

_LABEL_PX = 190
_LINE_PX = 14
_GAP_PX = 6
_TITLE_PX = 26
_FONT_PX = 12
_INK, _FAINT, _PAPER = (20, 24, 36), (96, 104, 124), (250, 250, 252)


@dataclass(frozen=True)
class Picture:
    """One picture, uint8 [H, W, 3], and the lines below it."""

    pixels: NDArray[np.uint8]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """Pictures that belong together, and the words at their left."""

    label: str
    pictures: tuple[Picture, ...]


def draw_sheet(path: Path, title: str, rows: Sequence[Row], width_px: int = 192) -> None:
    """Write a contact sheet; every picture is drawn `width_px` wide.

    Raises ValueError when there is no picture at all, OutputError when the file cannot be written.
    """
    pictures = [picture for row in rows for picture in row.pictures]
    if not pictures:
        raise ValueError("draw_sheet: no pictures; give at least one row with one")
    sizes = [picture.pixels.shape for picture in pictures]
    height_px = max(round(width_px * height / width) for height, width, _ in sizes)
    num_columns = max(len(row.pictures) for row in rows)
    num_notes = [max((len(p.notes) for p in row.pictures), default=0) for row in rows]
    heights = [height_px + _LINE_PX * notes + 2 * _GAP_PX for notes in num_notes]
    across = _LABEL_PX + num_columns * (width_px + _GAP_PX) + _GAP_PX
    sheet = Image.new("RGB", (across, _TITLE_PX + sum(heights)), _PAPER)
    canvas = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(_FONT_PX)
    canvas.text((_GAP_PX, _GAP_PX), title, fill=_INK, font=font)
    top = _TITLE_PX
    for row, height in zip(rows, heights, strict=True):
        _draw_label(canvas, row.label, top, height, font)
        for column, picture in enumerate(row.pictures):
            left = _LABEL_PX + column * (width_px + _GAP_PX)
            image = Image.fromarray(np.ascontiguousarray(picture.pixels))
            down = round(width_px * image.height / image.width)
            sheet.paste(image.resize((width_px, down), Image.Resampling.LANCZOS), (left, top))
            for number, note in enumerate(picture.notes):
                place = (left, top + height_px + 2 + number * _LINE_PX)
                canvas.text(place, note, fill=_FAINT, font=font)
        top += height
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(path, format="PNG")
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error


def _draw_label(
    canvas: ImageDraw.ImageDraw,
    label: str,
    top: int,
    height: int,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
    """Words at the left of a row, wrapped, as many lines as fit."""
    wrapped = [part for line in label.split("\n") for part in textwrap.wrap(line, 28) or [""]]
    for number, line in enumerate(wrapped[: max(1, height // (_LINE_PX + 1))]):
        canvas.text((_GAP_PX, top + number * (_LINE_PX + 1)), line, fill=_INK, font=font)
