"""Encoded packets for tests: a picture that moves, at 16 frames a second."""

from __future__ import annotations

import av
import numpy as np

from streamer.delivery.encoder import Codec, VideoEncoder
from streamer.pacing import TimedFrame

STEP = 90_000 // 16
WIDTH, HEIGHT = 128, 96


def pixels(number: int) -> np.ndarray:
    x, y = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    red = (x + 3 * number) % 256
    return np.stack([red, (y * 255) // HEIGHT, 255 - red], axis=-1).astype(np.uint8)


def frame(number: int, start: int = 0) -> TimedFrame:
    return TimedFrame(pixels(number), number, number // 12, "p", start + number * STEP)


def packets(
    codec: Codec, count: int, *, start: int = 0, keys: tuple[int, ...] = (0,)
) -> list[av.Packet]:
    """Packets of so many pictures, the first at pts `start`."""
    encoder = VideoEncoder(codec, WIDTH, HEIGHT, 16, 400)
    made: list[av.Packet] = []
    for number in range(count):
        picture = av.VideoFrame.from_ndarray(pixels(number), format="rgb24")
        picture = picture.reformat(format="yuv420p")
        picture.pts = start + number * STEP
        made += encoder.encode(picture, number in keys)
    return made
