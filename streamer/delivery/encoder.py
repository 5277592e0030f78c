"""One video encoder, tuned for the least delay, with key frames on request only.

It runs in whatever thread calls it, one call at a time; it knows neither viewers nor the loop.
"""

from __future__ import annotations

import functools
import logging
from fractions import Fraction
from typing import Literal, get_args

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext
from av.video.frame import PictureType

from streamer.errors import ConfigError
from streamer.pacing import CLOCK_RATE

log = logging.getLogger(__name__)

Codec = Literal["H264", "VP8"]
CODECS: tuple[Codec, ...] = get_args(Codec)

H264Encoder = Literal["libx264", "h264_nvenc"]
H264_ENCODERS: tuple[H264Encoder, ...] = ("h264_nvenc", "libx264")
"""Encoders of H.264, the one to prefer first."""

TIME_BASE = Fraction(1, CLOCK_RATE)
_KEY_INTERVAL_S = 600  # a bound for broken receivers' sake; wanted key frames are asked for
_VBV_S = 0.5  # a key frame is at most half a second of bitrate, so that it leaves in one burst
_LEVEL_31_MACROBLOCKS = 3600
_RATE_STEP = 0.1  # smaller changes of the bitrate are not worth the trouble
_REOPEN_STEP = 0.3  # libvpx must be opened anew, which costs a key frame
_PROBE_PX = 256  # NVENC refuses pictures of less than 145 pixels


class VideoEncoder:
    """Pictures in, packets out, one for one, without look-ahead.

    Owner: a Line of the Broadcast.  width, height: even, in pixels.  bitrate_kbps: also the most
    that `set_bitrate` can ask for later.
    Raises ConfigError when codec, size, rate or bitrate cannot work.
    """

    def __init__(
        self,
        codec: Codec,
        width: int,
        height: int,
        fps: int,
        bitrate_kbps: int = 1200,
        *,
        h264: H264Encoder = "libx264",
    ) -> None:
        if codec not in CODECS:
            raise ConfigError(f"codec is {codec!r}; known: {', '.join(CODECS)}")
        check_picture(width, height, fps, bitrate_kbps)
        self.codec = codec
        self.width, self.height = width, height
        self.bitrate_kbps = self.max_kbps = bitrate_kbps
        self._fps = fps
        self._h264: H264Encoder = h264
        self._wanted_kbps = bitrate_kbps
        self._context = self._opened(bitrate_kbps)

    def encode(self, frame: av.VideoFrame, keyframe: bool) -> list[av.Packet[av.VideoStream]]:
        """The packets of one picture; as a key frame when asked.

        frame: yuv420p of the encoder's size, pts in 1/90000 s, strictly increasing from call to
        call.  The first packet of an encoder is always a key frame.
        """
        if self._wanted_kbps != self.bitrate_kbps:
            self._adopt_bitrate()
        frame.time_base = TIME_BASE
        frame.pict_type = PictureType.I if keyframe else PictureType.NONE
        return self._context.encode(frame)

    def set_bitrate(self, kbps: float) -> None:
        """Want another bitrate from the next picture on, at most the one it was made with.

        Small changes are ignored.  H.264 changes without a key frame; VP8 needs one.
        """
        wanted = max(1, min(self.max_kbps, round(kbps)))
        step = _REOPEN_STEP if self.codec == "VP8" else _RATE_STEP
        is_back = wanted == self.max_kbps != self.bitrate_kbps
        if is_back or abs(wanted - self.bitrate_kbps) > step * self.bitrate_kbps:
            self._wanted_kbps = wanted

    def _adopt_bitrate(self) -> None:
        self.bitrate_kbps = self._wanted_kbps
        if self.codec == "H264":
            self._context.bit_rate = self.bitrate_kbps * 1000
        else:
            self._context = self._opened(self.bitrate_kbps)

    def _opened(self, kbps: int) -> VideoCodecContext:
        width, height = self.width, self.height
        if self.codec == "VP8":
            context = _vp8(kbps)
        else:
            context = _x264(kbps) if self._h264 == "libx264" else _nvenc(kbps)
            if (width + 15) // 16 * ((height + 15) // 16) <= _LEVEL_31_MACROBLOCKS:
                context.options = {**context.options, "level": "3.1"}
        context.width, context.height, context.pix_fmt = width, height, "yuv420p"
        context.bit_rate = kbps * 1000
        context.framerate = Fraction(self._fps, 1)
        context.time_base = TIME_BASE
        context.gop_size = self._fps * _KEY_INTERVAL_S
        context.thread_count = 1
        return context


def check_picture(width: int, height: int, fps: int, bitrate_kbps: int) -> None:
    """Raise ConfigError when pictures of this size, rate and bitrate cannot be encoded."""
    if width < 16 or height < 16 or width % 2 or height % 2:
        raise ConfigError(
            f"the picture is {width}x{height} pixels; video with subsampled colour needs even "
            "width and height of at least 16"
        )
    if fps < 1 or bitrate_kbps < 1:
        raise ConfigError(f"fps is {fps} and bitrate_kbps is {bitrate_kbps}; both must be positive")


@functools.cache
def best_h264() -> H264Encoder:
    """The first of H264_ENCODERS that encodes a picture on this machine; tried once a process.

    A driver may list NVENC on a device that has none, so only a packet counts.
    Raises ConfigError when none does.
    """
    for name in H264_ENCODERS:
        if can_encode(name):
            log.info("h264 encoder chosen encoder=%s", name)
            return name
    raise ConfigError(f"no encoder of H.264 works here; tried: {', '.join(H264_ENCODERS)}")


def can_encode(name: H264Encoder) -> bool:
    """Whether this encoder of H.264 makes a packet of a picture here."""
    black = np.zeros((_PROBE_PX * 3 // 2, _PROBE_PX), np.uint8)
    frame = av.VideoFrame.from_ndarray(black, format="yuv420p")
    frame.pts = 0
    try:
        return bool(VideoEncoder("H264", _PROBE_PX, _PROBE_PX, 16, h264=name).encode(frame, True))
    except (av.FFmpegError, ValueError) as error:
        # PyAV raises ValueError for an encoder that was not built in.
        log.info("h264 encoder does not work encoder=%s reason=%s", name, error)
        return False


def _created(name: str) -> VideoCodecContext:
    context = av.CodecContext.create(name, "w")
    assert isinstance(context, VideoCodecContext)
    return context


def _x264(bitrate_kbps: int) -> VideoCodecContext:
    context = _created("libx264")
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


def _nvenc(bitrate_kbps: int) -> VideoCodecContext:
    context = _created("h264_nvenc")
    context.options = {
        "preset": "p3",
        "tune": "ull",
        "profile": "baseline",
        "rc": "cbr",
        "zerolatency": "1",
        "delay": "0",
        "forced-idr": "1",
        "no-scenecut": "1",
        "bf": "0",
        "maxrate": str(bitrate_kbps * 1000),
        "bufsize": str(round(bitrate_kbps * 1000 * _VBV_S)),
    }
    return context


def _vp8(bitrate_kbps: int) -> VideoCodecContext:
    context = _created("libvpx")
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
