"""Pictures as RGB and as planes are the same pictures to encoders, files and screenshots."""

from __future__ import annotations

import io
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from streamer_kernels.i420 import to_i420

from streamer.delivery.planes import rgb, size_of, video_frame
from streamer.delivery.screenshot import png
from streamer.offline import ClipWriter

WIDTH, HEIGHT = 96, 64


def pictures(count: int = 3) -> NDArray[np.uint8]:
    """Smooth colours, so that a colour sample for four pixels loses little: [T, H, W, 3]."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    first = np.stack([255 * x / WIDTH, 255 * y / HEIGHT, 255 - 255 * x / WIDTH], axis=-1)
    return np.stack([np.roll(first, 8 * i, axis=0) for i in range(count)]).astype(np.uint8)


def planes(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return to_i420(torch.from_numpy(frames)).numpy()


def test_both_layouts_have_the_same_size():
    frames = pictures()
    assert size_of(frames[0]) == size_of(planes(frames)[0]) == (WIDTH, HEIGHT)


def test_the_encoder_gets_the_same_picture_from_both():
    frames = pictures()
    for picture, planar in zip(frames, planes(frames), strict=True):
        from_rgb, from_planes = video_frame(picture), video_frame(planar)
        for frame in (from_rgb, from_planes):
            assert (frame.format.name, frame.width, frame.height) == ("yuv420p", WIDTH, HEIGHT)
        assert np.array_equal(from_planes.to_ndarray(), planar)
        # Two converters, each right to a step or two except where colours jump, which they smooth
        # differently; a swapped plane would be off by a hundred.
        off = np.abs(from_rgb.to_ndarray().astype(int) - planar.astype(int))
        assert (off <= 2).mean() > 0.97
        assert off.max() < 20


def test_rgb_comes_back():
    frames = pictures()
    picture = frames[0]
    assert rgb(picture) is picture
    back = rgb(planes(frames)[0])
    assert back.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(back.astype(int) - frames[0].astype(int)).mean() < 4


def test_a_screenshot_of_planes_is_a_picture_in_colours():
    frames = pictures()
    seen = np.array(Image.open(io.BytesIO(png(planes(frames)[0], {}))))
    assert np.abs(seen.astype(int) - frames[0].astype(int)).mean() < 4


@pytest.mark.parametrize("is_planar", [False, True], ids=["rgb", "planes"])
def test_a_clip_is_written_from_both(tmp_path: Path, is_planar: bool):
    frames = pictures()
    with ClipWriter(tmp_path / "clip.mp4", WIDTH, HEIGHT, 16) as writer:
        writer.write(planes(frames) if is_planar else frames)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        shown = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(shown) == len(frames)
    assert np.abs(np.stack(shown).astype(int) - frames).mean() < 6
