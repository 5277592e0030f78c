"""Packets into files without encoding anything again: films that grow, clips, their captions.

A file that grows is fragmented: what has been written plays, also after a crash.  When it is
finished it becomes an ordinary MP4 with its chapters.  Calls block on the disk: not for the loop.
"""

from __future__ import annotations

import contextlib
import errno
import io
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import av

from streamer.delivery.encoder import TIME_BASE, Codec
from streamer.delivery.subscription import Packet
from streamer.errors import OutputError
from streamer.pacing import CLOCK_RATE

if TYPE_CHECKING:
    from av.container.core import Chapter

FRAGMENT_S = 1.0
"""A crash loses at most so much of a recording."""

SUFFIXES: dict[Codec, str] = {"H264": ".mp4", "VP8": ".webm"}
"""The container of each codec; FFmpeg has no VP8 in MP4."""

_TITLE_LIMIT = 250  # of a chapter's name, in characters; `chpl` has one byte for its length


@dataclass(frozen=True)
class Cue:
    """A prompt from its first frame on.  at_s: since the first frame of the file."""

    at_s: float
    text: str


class GrowingFile:
    """A fragmented MP4 of H.264 that is written packet by packet and plays at any time.

    Owner: one Recorder, in its thread.  first: a key frame, whose pts becomes time 0; it is not
    written yet.  tags: metadata of the file.  Raises OutputError when the file cannot be made;
    `add` and `close` raise it when the disk refuses, and what was written stays.
    """

    def __init__(self, path: Path, first: Packet, tags: dict[str, str]) -> None:
        self.path = path
        self.seconds = 0.0
        self.num_frames = 0
        try:
            with _naming(path):
                self._writer = _Writer(path, "H264", first, tags, _FRAGMENTED)
        except OutputError:
            _remove_empty(path)
            raise

    def add(self, packet: Packet) -> None:
        """Write a packet."""
        with _naming(self.path):
            self.seconds = self._writer.add(packet)
        self.num_frames += 1

    def close(self) -> None:
        """Write what is held back and close.  Idempotent."""
        with _naming(self.path):
            self.seconds = self._writer.close()

    def abandon(self) -> None:
        """Close after a failure; what was written stays.  Never raises for the disk."""
        self._writer.abandon()
        _remove_empty(self.path)


def finish(path: Path, cues: Sequence[Cue], tags: dict[str, str]) -> None:
    """Turn a fragmented MP4 into an ordinary one with a chapter for each cue, in place.

    Raises OutputError when there is no room for the second copy; the fragmented one is then kept.
    """
    whole = path.with_name(f".{path.name}.whole")
    try:
        with _naming(path):
            _remux(path, whole, cues, tags)
            whole.replace(path)
    finally:
        whole.unlink(missing_ok=True)


def write_clip(
    path: Path, codec: Codec, packets: Sequence[Packet], cues: Sequence[Cue], tags: dict[str, str]
) -> float:
    """Write packets, the first of them a key frame, as an ordinary file.  Returns its seconds.

    Raises OutputError; then no file is left.
    """
    part = path.with_name(f".{path.name}.part")
    seconds = 0.0
    try:
        with _naming(path):
            options = _ORDINARY if codec == "H264" else {}
            writer = _Writer(part, codec, packets[0], tags, options)
            try:
                for packet in packets:
                    seconds = writer.add(packet)
                writer.set_chapters(cues, seconds)
                seconds = writer.close()
            except BaseException:
                writer.abandon()
                raise
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return seconds


def webvtt(cues: Iterable[Cue], seconds: float) -> str:
    """The cues as a WebVTT file; each lasts until the next, the last until `seconds`."""
    shown = list(cues)
    ends = [cue.at_s for cue in shown[1:]]
    if shown:
        ends.append(max(seconds, shown[-1].at_s + 1))
    parts = ["WEBVTT\n"]
    for cue, end_s in zip(shown, ends, strict=True):
        text = cue.text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        line = " ".join(text.split())  # a blank line would end the cue
        parts.append(f"\n{_stamp(cue.at_s)} --> {_stamp(end_s)}\n{line}\n")
    return "".join(parts)


def template(codec: Codec, key_frame: Packet) -> av.VideoStream:
    """An input stream of which a muxer learns size and parameter sets of these packets.

    key_frame: with parameter sets in it, as a fresh decoder needs them.
    """
    if codec == "H264":
        source = av.open(io.BytesIO(bytes(key_frame)), format="h264")
    else:
        source = av.open(io.BytesIO(_ivf(bytes(key_frame))), format="ivf")
    return source.streams.video[0]


_ORDINARY = {"movflags": "faststart+use_metadata_tags"}
_FRAGMENTED = {
    "movflags": "empty_moov+default_base_moof+frag_keyframe+use_metadata_tags",
    "frag_duration": str(round(FRAGMENT_S * 1_000_000)),
    "flush_packets": "1",
}


class _Writer:
    """One file of one video, through FFmpeg.  The pts of `first` is its time 0."""

    def __init__(
        self,
        path: Path,
        codec: Codec,
        first: Packet,
        tags: dict[str, str],
        options: dict[str, str],
    ) -> None:
        kind = SUFFIXES[codec].removeprefix(".")
        self._container = av.open(str(path), "w", format=kind, options=options)
        self._container.metadata.update(tags)
        self._template = template(codec, first)
        self._stream = self._container.add_stream_from_template(self._template)
        self._stream.time_base = TIME_BASE
        self._container.start_encoding()
        assert first.pts is not None
        self._origin = first.pts
        self._held: Packet | None = None
        self._step = CLOCK_RATE // 24
        self._end = 0
        self._is_open = True

    def add(self, packet: Packet) -> float:
        """Write the packet before this one, whose duration is known now.  Returns the seconds."""
        held, self._held = self._held, packet
        if held is not None:
            assert held.pts is not None
            assert packet.pts is not None
            self._step = packet.pts - held.pts
            self._write(held)
        return (self._end + self._step) / CLOCK_RATE

    def set_chapters(self, cues: Sequence[Cue], seconds: float) -> None:
        """Name parts of the file; before `close`."""
        self._container.set_chapters(_chapters(cues, seconds))

    def close(self) -> float:
        """Write the last packet and the end.  Returns the seconds.  Idempotent."""
        if self._is_open:
            self._is_open = False
            if self._held is not None:
                self._write(self._held)
            self._container.close()
        return self._end / CLOCK_RATE

    def abandon(self) -> None:
        """Write no more; the file stays as it is."""
        self._is_open = False
        with contextlib.suppress(OSError):
            self._container.close()

    def _write(self, packet: Packet) -> None:
        assert packet.pts is not None
        copy = av.Packet(bytes(packet))
        copy.pts = copy.dts = packet.pts - self._origin
        copy.duration = self._step
        copy.time_base = TIME_BASE
        copy.is_keyframe = packet.is_keyframe
        copy.stream = self._stream
        self._container.mux(copy)
        self._end = packet.pts - self._origin + self._step


def _remux(source: Path, target: Path, cues: Sequence[Cue], tags: dict[str, str]) -> None:
    with av.open(str(source)) as given:
        video = given.streams.video[0]
        with av.open(str(target), "w", format="mp4", options=_ORDINARY) as made:
            made.metadata.update(tags)
            stream = made.add_stream_from_template(video)
            seconds = 0.0
            for packet in given.demux(video):
                if packet.dts is None:  # the demuxer's sign of the end
                    continue
                assert packet.pts is not None
                assert packet.time_base is not None
                seconds = float((packet.pts + (packet.duration or 0)) * packet.time_base)
                packet.stream = stream
                made.mux(packet)
            made.set_chapters(_chapters(cues, seconds))


def _chapters(cues: Sequence[Cue], seconds: float) -> list[Chapter]:
    ends = [*(cue.at_s for cue in cues[1:]), seconds][: len(cues)]
    return [
        {
            "id": number,
            "start": round(cue.at_s * 1000),
            "end": max(round(end_s * 1000), round(cue.at_s * 1000) + 1),
            "time_base": Fraction(1, 1000),
            "metadata": {"title": " ".join(cue.text.split())[:_TITLE_LIMIT]},
        }
        for number, (cue, end_s) in enumerate(zip(cues, ends, strict=True))
    ]


def _ivf(frame: bytes) -> bytes:
    """One VP8 key frame as an IVF file: FFmpeg reads its size there (RFC 6386, section 9.1)."""
    width, height = (int.from_bytes(frame[at : at + 2], "little") & 0x3FFF for at in (6, 8))
    header = struct.pack("<4sHH4sHHIIII", b"DKIF", 0, 32, b"VP80", width, height, 30, 1, 1, 0)
    return header + struct.pack("<IQ", len(frame), 0) + frame


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Say which file the disk refused, and why."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno == errno.ENOSPC:
            reason = "the disk is full; free some of it, or choose another folder (--recordings)"
        raise OutputError(f"{path.name}: cannot be written: {reason}") from error


def _remove_empty(path: Path) -> None:
    """A file that holds nothing only looks like a recording."""
    with contextlib.suppress(OSError):
        if path.stat().st_size == 0:
            path.unlink()


def _stamp(seconds: float) -> str:
    ms = round(seconds * 1000)
    return f"{ms // 3_600_000:02}:{ms // 60_000 % 60:02}:{ms // 1000 % 60:02}.{ms % 1000:03}"
