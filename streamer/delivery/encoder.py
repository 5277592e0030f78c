"""One video encoder, tuned for the least delay, with key frames on request only.

It runs in whatever thread calls it, one call at a time; it knows neither viewers nor the loop.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Literal, get_args

import av
from av.video.codeccontext import VideoCodecContext
from av.video.frame import PictureType

from streamer.errors import ConfigError
from streamer.pacing import CLOCK_RATE

Codec = Literal["H264", "VP8"]
CODECS: tuple[Codec, ...] = get_args(Codec)

TIME_BASE = Fraction(1, CLOCK_RATE)
_KEY_INTERVAL_S = 600  # a bound for broken receivers' sake; wanted key frames are asked for
_VBV_S = 0.5  # a key frame is at most half a second of bitrate, so that it leaves in one burst
_LEVEL_31_MACROBLOCKS = 3600


class VideoEncoder:
    """Pictures in, packets out, one for one, without look-ahead.

    Owner: Broadcast, one per codec in use.  width, height: even, in pixels.
    Raises ConfigError when codec, size, rate or bitrate cannot work.
    """

    def __init__(
        self, codec: Codec, width: int, height: int, fps: int, bitrate_kbps: int = 1200
    ) -> None:
        if codec not in CODECS:
            raise ConfigError(f"codec is {codec!r}; known: {', '.join(CODECS)}")
        check_picture(width, height, fps, bitrate_kbps)
        self.codec = codec
        self.width, self.height = width, height
        context = _h264(bitrate_kbps) if codec == "H264" else _vp8(bitrate_kbps)
        if codec == "H264" and (width + 15) // 16 * ((height + 15) // 16) <= _LEVEL_31_MACROBLOCKS:
            context.options = {**context.options, "level": "3.1"}
        context.width, context.height, context.pix_fmt = width, height, "yuv420p"
        context.bit_rate = bitrate_kbps * 1000
        context.framerate = Fraction(fps, 1)
        context.time_base = TIME_BASE
        context.gop_size = fps * _KEY_INTERVAL_S
        context.thread_count = 1
        self._context = context

    def encode(self, frame: av.VideoFrame, keyframe: bool) -> list[av.Packet[av.VideoStream]]:
        """The packets of one picture; as a key frame when asked.

        frame: yuv420p of the encoder's size, pts in 1/90000 s, strictly increasing from call to
        call.  The first packet of an encoder is always a key frame.
        """
        frame.time_base = TIME_BASE
        frame.pict_type = PictureType.I if keyframe else PictureType.NONE
        return self._context.encode(frame)


def check_picture(width: int, height: int, fps: int, bitrate_kbps: int) -> None:
    """Raise ConfigError when pictures of this size, rate and bitrate cannot be encoded."""
    if width < 16 or height < 16 or width % 2 or height % 2:
        raise ConfigError(
            f"the picture is {width}x{height} pixels; video with subsampled colour needs even "
            "width and height of at least 16"
        )
    if fps < 1 or bitrate_kbps < 1:
        raise ConfigError(f"fps is {fps} and bitrate_kbps is {bitrate_kbps}; both must be positive")


def _h264(bitrate_kbps: int) -> VideoCodecContext:
    context = av.CodecContext.create("libx264", "w")
    assert isinstance(context, VideoCodecContext)
    context.qmin = 12  # finer than that nobody sees
    context.profile = "Baseline"  # what x264 writes under this name is Constrained Baseline
    context.options = {
        "preset": "veryfast",
        "tune": "zerolatency",
        "forced-idr": "1",
        "maxrate": str(bitrate_kbps * 1000),
        "bufsize": str(round(bitrate_kbps * 1000 * _VBV_S)),
        "x264-params": "scenecut=0",
    }
    return context


def _vp8(bitrate_kbps: int) -> VideoCodecContext:
    context = av.CodecContext.create("libvpx", "w")
    assert isinstance(context, VideoCodecContext)
    context.qmin, context.qmax = 2, 56
    context.options = {
        "deadline": "realtime",
        "cpu-used": "-6",
        "lag-in-frames": "0",
        "error-resilient": "1",
        "static-thresh": "1",
        "maxrate": str(bitrate_kbps * 1000),
        "bufsize": str(round(bitrate_kbps * 1000 * _VBV_S)),
        "undershoot-pct": "100",
        "overshoot-pct": "15",
    }
    return context
