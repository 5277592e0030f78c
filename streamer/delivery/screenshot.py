"""One picture as PNG, with the recipe that makes it again in its text chunk."""

from __future__ import annotations

import io
import json

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from streamer.delivery.planes import rgb

RECIPE_KEY = "streamer"
"""Keyword of the text chunk; its text is JSON."""


def png(pixels: NDArray[np.uint8], recipe: dict[str, object]) -> bytes:
    """A PNG file.  pixels: in either layout.  recipe: JSON values; blocks for some ms."""
    chunks = PngInfo()
    chunks.add_itxt(RECIPE_KEY, json.dumps(recipe, ensure_ascii=False))
    title = recipe.get("prompt")
    if isinstance(title, str):
        chunks.add_itxt("Title", title)
    file = io.BytesIO()
    Image.fromarray(rgb(pixels)).save(file, "png", pnginfo=chunks, compress_level=3)
    return file.getvalue()


def read_recipe(file: bytes) -> dict[str, object]:
    """What `png` wrote into a file.  Raises ValueError when there is none."""
    with Image.open(io.BytesIO(file)) as image:
        text = image.info.get(RECIPE_KEY)
    recipe = json.loads(text) if isinstance(text, str) else None
    if not isinstance(recipe, dict):
        raise ValueError("this picture carries no recipe of a stream")
    return recipe
