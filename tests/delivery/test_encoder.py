"""The encoders: one packet a picture, key frames only when asked, pictures that come back."""

import av
import numpy as np
import pytest

from streamer.delivery.encoder import CODECS, Codec, VideoEncoder
from streamer.errors import ConfigError

STEP = 90_000 // 16


def picture(number: int, width: int = 256, height: int = 160) -> av.VideoFrame:
    """A moving gradient."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    red = (x + 3 * number) % 256
    pixels = np.stack([red, (y * 255) // height, 255 - red], axis=-1).astype(np.uint8)
    frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p")
    frame.pts = number * STEP
    return frame


@pytest.mark.parametrize("codec", CODECS)
def test_each_picture_is_one_packet_with_its_own_time(codec: Codec) -> None:
    encoder = VideoEncoder(codec, 256, 160, 16)
    for number in range(20):
        packets = encoder.encode(picture(number), keyframe=False)
        assert [packet.pts for packet in packets] == [number * STEP]


@pytest.mark.parametrize("codec", CODECS)
def test_key_frames_come_first_and_then_on_request_only(codec: Codec) -> None:
    encoder = VideoEncoder(codec, 256, 160, 16)
    keys = []
    for number in range(60):
        # A hard cut must not make a key frame by itself.
        shown = picture(number if number < 30 else 5000 + number * 40)
        shown.pts = number * STEP
        keys += [packet.is_keyframe for packet in encoder.encode(shown, keyframe=number == 40)]
    assert [i for i, is_key in enumerate(keys) if is_key] == [0, 40]


@pytest.mark.parametrize("codec", CODECS)
def test_decoding_from_a_requested_key_frame_gives_the_picture_back(codec: Codec) -> None:
    encoder = VideoEncoder(codec, 256, 160, 16)
    decoder = av.CodecContext.create("h264" if codec == "H264" else "vp8", "r")
    for number in range(5):
        encoder.encode(picture(number), keyframe=False)
    decoded = [
        frame
        for number in range(5, 15)
        for packet in encoder.encode(picture(number), keyframe=number == 5)
        for frame in decoder.decode(packet)
    ]
    decoded += decoder.decode(None)
    assert len(decoded) == 10
    for number, frame in zip(range(5, 15), decoded, strict=True):
        wanted = picture(number).to_ndarray(format="gray").astype(float)
        noise = np.mean((frame.to_ndarray(format="gray") - wanted) ** 2)
        assert 10 * np.log10(255**2 / max(noise, 1e-9)) > 34


def test_h264_is_constrained_baseline() -> None:
    packet = VideoEncoder("H264", 256, 160, 16).encode(picture(0), keyframe=True)[0]
    unit = bytes(packet)
    parameters = unit[unit.index(b"\x00\x00\x01\x67") + 4 :]
    assert parameters[0] == 0x42
    assert parameters[1] & 0x40
    assert parameters[2] == 31


@pytest.mark.parametrize("codec", CODECS)
def test_bitrate_stays_near_the_limit_when_the_picture_is_noise(codec: Codec) -> None:
    encoder = VideoEncoder(codec, 256, 160, 16, bitrate_kbps=400)
    rng = np.random.default_rng(1)
    size = 0
    for number in range(64):
        pixels = rng.integers(0, 256, (160, 256, 3), np.uint8)
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p")
        frame.pts = number * STEP
        size += sum(packet.size for packet in encoder.encode(frame, keyframe=False))
    assert size * 8 / 1000 / 4 < 2.2 * 400


@pytest.mark.parametrize(("width", "height"), [(255, 160), (256, 161), (0, 160), (8, 8)])
def test_a_size_that_cannot_be_encoded_is_named(width: int, height: int) -> None:
    with pytest.raises(ConfigError, match=f"{width}x{height} pixels; .* even width and height"):
        VideoEncoder("VP8", width, height, 16)


def test_an_unknown_codec_is_named() -> None:
    with pytest.raises(ConfigError, match="codec is 'AV1'; known: H264, VP8"):
        VideoEncoder("AV1", 256, 160, 16)  # type: ignore[arg-type]
