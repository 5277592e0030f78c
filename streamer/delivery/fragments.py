"""Fragmented MP4 of H.264 for MediaSource: an initial segment, then a fragment a frame.

FFmpeg writes the initial segment.  The fragments are written here, since FFmpeg would hold each
frame back until the next one tells its duration.  Layout: ISO/IEC 14496-12, 8.8.4 to 8.8.8.
"""

from __future__ import annotations

import io
import struct

import av

from streamer.delivery.annexb import codec_string, length_prefixed
from streamer.delivery.encoder import TIME_BASE
from streamer.delivery.mp4 import template
from streamer.delivery.subscription import Packet

_IS_SYNC = 0x02000000  # depends on no other sample
_NO_SYNC = 0x01010000  # depends on others, is no sync sample
_DEFAULT_BASE_IS_MOOF = 0x020000
_DATA_OFFSET, _DURATION, _SIZE, _FLAGS = 0x1, 0x100, 0x200, 0x400


def mime_type(key_frame: Packet) -> str:
    """What MediaSource.isTypeSupported wants to hear about these packets."""
    return f'video/mp4; codecs="{codec_string(bytes(key_frame))}"'


def initial_segment(key_frame: Packet) -> bytes:
    """The boxes `ftyp` and `moov`.  Its clock is the stream's: 90000 ticks a second."""
    written = io.BytesIO()
    options = {"movflags": "empty_moov+default_base_moof"}
    with av.open(written, "w", format="mp4", options=options) as container:
        stream = container.add_stream_from_template(template("H264", key_frame))
        stream.time_base = TIME_BASE
        container.start_encoding()
        return written.getvalue()


def fragment(packet: Packet, number: int, duration: int) -> bytes:
    """One frame as `moof` and `mdat`, at the time of its pts.

    number: counts the fragments from 1.  duration: until the next frame as far as is known, in
    1/90000 s; players bridge the difference.
    """
    assert packet.pts is not None
    sample = length_prefixed(bytes(packet))
    flags = _IS_SYNC if packet.is_keyframe else _NO_SYNC

    def moof(data_offset: int) -> bytes:
        assert packet.pts is not None
        tfhd = _box(b"tfhd", struct.pack(">II", _DEFAULT_BASE_IS_MOOF, 1))
        tfdt = _box(b"tfdt", struct.pack(">IQ", 1 << 24, packet.pts))
        tells = _DATA_OFFSET | _DURATION | _SIZE | _FLAGS
        run = struct.pack(">IIiIII", tells, 1, data_offset, duration, len(sample), flags)
        traf = _box(b"traf", tfhd + tfdt + _box(b"trun", run))
        return _box(b"moof", _box(b"mfhd", struct.pack(">II", 0, number)) + traf)

    return moof(len(moof(0)) + 8) + _box(b"mdat", sample)


def _box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), kind) + content
