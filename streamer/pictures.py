"""Pictures that somebody brings: a file or bytes, cut and scaled to the size of a stream.

Reads whatever the bundled FFmpeg reads.  Nothing is guessed from a name, and nothing is written.
No torch here: the worker makes latents of what this gives.
"""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from numpy.typing import NDArray

from streamer.config import Config, StreamSection
from streamer.errors import MediaTypeError, PictureError
from streamer.stream import MOST_OPENING_FRAMES

MAX_PIXELS = 64_000_000
"""Larger pictures are refused before they are decoded."""

PICTURES_PER_LATENT = 4
"""The most pictures that a latent frame of any model stands for."""

READ_FROM_OTHERS = ",".join(
    (
        *("png_pipe", "apng", "jpeg_pipe", "mjpeg", "webp_pipe", "gif", "bmp_pipe"),
        *("tiff_pipe", "jpegxl_pipe", "jpegxl_anim", "mov", "matroska", "avi", "mpegts", "mpeg"),
        *("ogg", "flv", "m4v", "h264", "hevc", "ivf", "yuv4mpegpipe"),
    )
)
"""FFmpeg's readers that bytes are given to.  Others follow names in a file to more files, of this
machine or of the network: a playlist that somebody sends must not choose what is opened here."""

Source = Path | bytes


def can_begin_with_pictures(config: Config) -> bool:
    """Whether streams of this configuration can go on from pictures: only a model encodes them."""
    return config.model is not None


def read_opening(
    section: StreamSection, image: Source | None, video: Source | None
) -> NDArray[np.uint8] | None:
    """The pictures a stream goes on from: an image, the end of a clip, or None without either.

    Raises PictureError for both at once, and when a file cannot be read.
    """
    if image is not None and video is not None:
        raise PictureError("a stream begins with an image or with a video, not with both")
    if image is not None:
        return read_image(image, section.width, section.height)
    if video is not None:
        return read_end(section, video)
    return None


def reader_of(content_type: str) -> Callable[[StreamSection, bytes], NDArray[np.uint8]]:
    """How a file of this content type is read: the whole picture, or the end of a clip.

    Raises MediaTypeError for other types.
    """
    kind = content_type.partition("/")[0].strip().lower()
    if kind == "image":
        return lambda section, data: read_image(data, section.width, section.height)
    if kind == "video":
        return lambda section, data: read_end(section, data)
    raise MediaTypeError(
        f"Content-Type is {content_type or 'missing'!r}; expected image/... or video/..., the kind "
        "of the file in the body"
    )


def read_end(section: StreamSection, video: Source) -> NDArray[np.uint8]:
    """As much of a clip's end as the window of a stream holds.  Raises PictureError."""
    most = PICTURES_PER_LATENT * (section.window or MOST_OPENING_FRAMES) + 1
    return read_clip_end(video, section.width, section.height, section.fps, most)


def read_image(source: Source, width: int, height: int) -> NDArray[np.uint8]:
    """One picture, uint8 [1, H, W, 3]: scaled to cover width x height, its middle kept.

    Raises PictureError when it cannot be read.
    """
    with _opened(source) as container:
        for frame in _frames(container, source):
            return fit(frame, width, height)[None]
    raise PictureError(f"{_name(source)}: holds no picture")


def read_clip_end(
    source: Source, width: int, height: int, fps: int, most: int
) -> NDArray[np.uint8]:
    """The last pictures of a clip at `fps`, at most `most`: uint8 [T, H, W, 3], cut as an image.

    A clip of another rate gives the pictures that are on screen at the times of ours.
    Raises PictureError when it cannot be read.
    """
    wanted_s = most / fps
    held: deque[tuple[float, av.VideoFrame]] = deque()
    with _opened(source) as container:
        _skip_to_end(container, wanted_s + 2.0)
        for frame in _frames(container, source):
            time_s = frame.time if frame.time is not None else (held[-1][0] if held else 0.0)
            held.append((time_s, frame))
            while len(held) > 1 and held[1][0] < time_s - wanted_s:
                held.popleft()
    if not held:
        raise PictureError(f"{_name(source)}: holds no picture")
    times = np.array([time_s for time_s, _ in held])
    count = min(most, int((times[-1] - times[0]) * fps + 1e-6) + 1)
    # The picture on screen at a time is the last one that is due by then.
    due = times[-1] - np.arange(count - 1, -1, -1) / fps
    chosen = np.searchsorted(times, due + 1e-6, side="right") - 1
    return np.stack([fit(held[max(0, int(index))][1], width, height) for index in chosen])


def fit(frame: av.VideoFrame, width: int, height: int) -> NDArray[np.uint8]:
    """A picture turned upright, scaled to cover width x height, its middle kept: [H, W, 3]."""
    turns = round((frame.rotation or 0) / 90) % 4
    across, down = (height, width) if turns % 2 else (width, height)
    scale = max(across / frame.width, down / frame.height)
    scaled = frame.reformat(
        width=max(across, round(frame.width * scale)),
        height=max(down, round(frame.height * scale)),
        format="rgb24",
        interpolation="LANCZOS",
    )
    pixels: NDArray[np.uint8] = scaled.to_ndarray()  # type: ignore[assignment]
    top, left = (pixels.shape[0] - down) // 2, (pixels.shape[1] - across) // 2
    cut: NDArray[np.uint8] = pixels[top : top + down, left : left + across]
    return np.ascontiguousarray(np.rot90(cut, turns))


def _opened(source: Source) -> InputContainer:
    try:
        if isinstance(source, bytes):
            only = {"format_whitelist": READ_FROM_OTHERS}
            container = av.open(io.BytesIO(source), "r", options=only)
        else:
            container = av.open(str(source), "r")
    except (av.FFmpegError, OSError, ValueError) as error:
        raise PictureError(f"{_name(source)}: cannot be read: {_reason(error)}") from error
    if not container.streams.video:
        container.close()
        raise PictureError(f"{_name(source)}: holds no picture, only other things; choose another")
    stream = container.streams.video[0]
    if stream.width * stream.height > MAX_PIXELS:
        size = f"{stream.width}x{stream.height}"
        container.close()
        raise PictureError(
            f"{_name(source)}: is {size}, at most {MAX_PIXELS // 1_000_000} megapixels are read; "
            "make it smaller"
        )
    return container


def _skip_to_end(container: InputContainer, seconds: float) -> None:
    """Jump to a key frame before the last seconds, where the file knows how long it is."""
    if container.duration is not None and container.duration > seconds * av.time_base:
        start = container.start_time or 0
        container.seek(start + container.duration - int(seconds * av.time_base))


def _frames(container: InputContainer, source: Source) -> Iterator[av.VideoFrame]:
    try:
        yield from container.decode(video=0)
    except (av.FFmpegError, OSError) as error:
        raise PictureError(
            f"{_name(source)}: damaged, or of a kind that is not read: {_reason(error)}"
        ) from error


def _name(source: Source) -> str:
    return "the picture" if isinstance(source, bytes) else str(source)


def _reason(error: Exception) -> str:
    if isinstance(error, av.error.InvalidDataError):
        return "it is neither a picture nor a clip, or damaged"
    strerror = getattr(error, "strerror", None)
    return str(strerror or error)
