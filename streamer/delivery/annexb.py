"""H.264 as encoders write it (Annex B, ITU-T H.264) and as MP4 holds it (ISO/IEC 14496-15)."""

from __future__ import annotations

import re

_START = re.compile(rb"\x00\x00\x01")
NAL_SPS = 7
NAL_PPS = 8


def nal_units(data: bytes) -> list[bytes]:
    """The NAL units of an Annex B byte stream, without start codes and padding."""
    starts = [match.end() for match in _START.finditer(data)]
    ends = [start - 3 for start in starts[1:]] + [len(data)]
    units = [data[start:end].rstrip(b"\x00") for start, end in zip(starts, ends, strict=True)]
    return [unit for unit in units if unit]


def nal_type(unit: bytes) -> int:
    """What a NAL unit is; see NAL_SPS and NAL_PPS."""
    return unit[0] & 0x1F


def length_prefixed(data: bytes) -> bytes:
    """An Annex B packet as an MP4 sample: four bytes of length before each unit."""
    return b"".join(len(unit).to_bytes(4, "big") + unit for unit in nal_units(data))


def codec_string(data: bytes) -> str:
    """The RFC 6381 name of an Annex B key frame, such as `avc1.42C01F`.

    Raises ValueError when it holds no sequence parameters.
    """
    for unit in nal_units(data):
        if nal_type(unit) == NAL_SPS:
            return f"avc1.{unit[1:4].hex().upper()}"
    raise ValueError("this packet holds no sequence parameters; it is no key frame")
