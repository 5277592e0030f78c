"""A stream's pictures as encoders and people read them.

Pictures come in one of two layouts: uint8 [H, W, 3], RGB; or uint8 [3 H / 2, W], the planes Y, U
and V of yuv420p one after another, which is what a GPU hands over, since it is half as many bytes
and what encoders read.  Planes are BT.601 with limited range.
"""

from __future__ import annotations

import av
import numpy as np
from numpy.typing import NDArray


def size_of(pixels: NDArray[np.uint8]) -> tuple[int, int]:
    """Width and height of a picture in either layout."""
    height, width = pixels.shape[:2]
    return width, height if pixels.ndim == 3 else height * 2 // 3


def video_frame(pixels: NDArray[np.uint8]) -> av.VideoFrame:
    """A picture in either layout as yuv420p; planes are taken as they are."""
    if pixels.ndim == 2:
        return av.VideoFrame.from_ndarray(pixels, format="yuv420p")
    return av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p")


def rgb(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A picture in either layout as uint8 [H, W, 3]; RGB is taken as it is."""
    if pixels.ndim == 3:
        return pixels
    picture: NDArray[np.uint8] = video_frame(pixels).to_ndarray(format="rgb24")  # type: ignore[assignment]
    return picture
