"""Pictures from outside: cut to the size of a stream, the end of a clip at the stream's rate."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from streamer.config import StreamSection, load_config
from streamer.errors import PictureError
from streamer.pictures import can_begin_with_pictures, read_clip_end, read_image, read_opening

SECTION = StreamSection(width=64, height=64, fps=16, window=9, sink=3)


def save_png(path: Path, pixels: NDArray[np.uint8]) -> Path:
    with av.open(str(path), "w", format="image2") as container:
        stream = container.add_stream("png")
        stream.height, stream.width = pixels.shape[:2]
        stream.pix_fmt = "rgb24"
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def save_clip(path: Path, num_frames: int, fps: int) -> Path:
    """Grey pictures; picture i has the level 2 * i."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264rgb", rate=fps)
        stream.width = stream.height = 64
        stream.pix_fmt = "rgb24"
        stream.time_base = Fraction(1, fps)
        stream.codec_context.options = {"qp": "0", "g": "20"}
        for i in range(num_frames):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 2 * i, np.uint8), "rgb24")
            frame.pts = i
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def levels(pictures: NDArray[np.uint8]) -> list[int]:
    return [round(float(picture.mean()) / 2) for picture in pictures]


def test_an_image_covers_the_stream_and_keeps_its_middle(tmp_path: Path):
    pixels = np.zeros((128, 384, 3), np.uint8)
    pixels[:, 128:256] = (200, 100, 50)
    made = read_image(save_png(tmp_path / "wide.png", pixels), 64, 64)
    assert made.shape == (1, 64, 64, 3)
    assert np.abs(made[0, :, 4:60].astype(int) - (200, 100, 50)).max() <= 2
    tall = read_image(save_png(tmp_path / "tall.png", pixels.transpose(1, 0, 2).copy()), 96, 64)
    assert tall.shape == (1, 64, 96, 3)
    assert np.abs(tall[0, 4:60].astype(int) - (200, 100, 50)).max() <= 2


def test_bytes_are_read_like_a_file_and_small_pictures_grow(tmp_path: Path):
    path = save_png(tmp_path / "small.png", np.full((8, 10, 3), 77, np.uint8))
    made = read_image(path.read_bytes(), 64, 64)
    assert (made.shape, made.min(), made.max()) == ((1, 64, 64, 3), 77, 77)


@pytest.mark.parametrize(
    ("fps", "expected"),
    [(16, [95, 96, 97, 98, 99]), (32, [91, 93, 95, 97, 99]), (8, [97, 97, 98, 98, 99])],
)
def test_the_last_pictures_of_a_clip_come_at_the_streams_rate(
    tmp_path: Path, fps: int, expected: list[int]
):
    path = save_clip(tmp_path / "clip.mp4", 100, fps)
    assert levels(read_clip_end(path, 64, 64, 16, 5)) == expected


def test_a_clip_shorter_than_wanted_is_taken_whole(tmp_path: Path):
    path = save_clip(tmp_path / "clip.mp4", 7, 16)
    assert levels(read_clip_end(path, 64, 64, 16, 33)) == list(range(7))


def test_a_stream_takes_as_much_as_its_window_holds(tmp_path: Path):
    path = save_clip(tmp_path / "clip.mp4", 60, 16)
    made = read_opening(SECTION, None, path)
    assert made is not None
    assert levels(made) == list(range(60 - 37, 60))
    assert read_opening(SECTION, None, None) is None
    with pytest.raises(PictureError, match="not with both"):
        read_opening(SECTION, path, path)


def test_a_model_is_needed_to_begin_with_a_picture():
    assert can_begin_with_pictures(load_config("storybook"))
    assert not can_begin_with_pictures(load_config("pattern"))


def test_what_cannot_be_read_is_named(tmp_path: Path):
    nothing = tmp_path / "nothing.png"
    with pytest.raises(PictureError, match=r"nothing\.png: cannot be read"):
        read_image(nothing, 64, 64)
    nothing.write_bytes(b"not a picture at all")
    with pytest.raises(PictureError, match=r"nothing\.png"):
        read_image(nothing, 64, 64)
    sound = tmp_path / "sound.wav"
    with av.open(str(sound), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    with pytest.raises(PictureError, match="holds no picture"):
        read_clip_end(sound, 64, 64, 16, 5)
    whole = save_png(
        tmp_path / "half.png",
        np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8),
    )
    with pytest.raises(PictureError, match="the picture: "):
        read_image(whole.read_bytes()[:60], 64, 64)


@pytest.mark.parametrize(
    ("kind", "codec"),
    [
        *(("png", "png"), ("jpg", "mjpeg"), ("gif", "gif"), ("webp", "libwebp"), ("bmp", "bmp")),
        *(("mp4", "libx264"), ("mkv", "libx264"), ("webm", "libvpx"), ("ts", "libx264")),
    ],
)
def test_the_kinds_that_people_send_are_read_from_bytes(tmp_path: Path, kind: str, codec: str):
    path = tmp_path / f"sent.{kind}"
    with av.open(str(path), "w", format="image2" if kind in ("png", "jpg", "bmp") else None) as out:
        stream = out.add_stream(codec, rate=16)
        stream.width = stream.height = 64
        stream.pix_fmt = stream.codec_context.codec.video_formats[0].name
        frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 90, np.uint8), "rgb24")
        out.mux(stream.encode(frame.reformat(format=stream.pix_fmt)))
        out.mux(stream.encode(None))
    made = read_image(path.read_bytes(), 64, 64)
    assert abs(made.mean() - 90) <= 12, "some kinds know few colours"


@pytest.mark.parametrize(
    "playlist",
    [
        "ffconcat version 1.0\nfile clip.mp4\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:0.5,\nclip.ts\n#EXT-X-ENDLIST\n",
        "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
        "m=video 45678 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n",
    ],
)
def test_bytes_that_name_other_files_open_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, playlist: str
):
    save_clip(tmp_path / "clip.mp4", 8, 16)
    save_clip(tmp_path / "clip.ts", 8, 16)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PictureError, match="the picture: cannot be read"):
        read_image(playlist.encode(), 64, 64)
