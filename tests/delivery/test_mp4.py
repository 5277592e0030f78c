"""MP4 from the very packets: what plays, also after a crash, and what it says about itself."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import resource
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import av
import pytest

from streamer.delivery.annexb import length_prefixed
from streamer.delivery.encoder import CODECS, Codec
from streamer.delivery.fragments import fragment, initial_segment, mime_type
from streamer.delivery.mp4 import SUFFIXES, Cue, GrowingFile, finish, webvtt, write_clip
from streamer.errors import OutputError
from tests.delivery.packets import HEIGHT, STEP, WIDTH, packets

CUES = [Cue(0.0, "a red balloon"), Cue(1.5, "night falls,\n\nsnow")]
TAGS = {"title": "a red balloon", "streamer.seed": "7"}


def decoded(path: Path) -> list[av.VideoFrame]:
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


def add_all(file: GrowingFile, made: list[av.Packet]) -> None:
    for packet in made:
        file.add(packet)


def samples(path: Path) -> list[bytes]:
    """What the file holds for each frame, as the decoder is given it."""
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(video=0) if packet.size]


def test_a_recording_grows_into_an_ordinary_file_with_chapters(tmp_path: Path) -> None:
    path = tmp_path / "r.mp4"
    made = packets("H264", 48, start=900_000, keys=(0, 30))
    file = GrowingFile(path, made[0], TAGS)
    for packet in made:
        file.add(packet)
    file.close()
    file.close()
    assert file.seconds == pytest.approx(3.0, abs=0.01)
    finish(path, CUES, {**TAGS, "comment": "the script"})
    frames = decoded(path)
    assert len(frames) == 48
    assert (frames[0].width, frames[0].height) == (WIDTH, HEIGHT)
    assert [round(frame.pts * frame.time_base * 16) for frame in frames] == list(range(48))
    with av.open(str(path)) as container:
        titles = [chapter["metadata"]["title"] for chapter in container.chapters()]
        starts = [float(c["start"] * c["time_base"]) for c in container.chapters()]
        assert container.metadata["comment"] == "the script"
        assert container.metadata["streamer.seed"] == "7"
    assert titles == ["a red balloon", "night falls, snow"]
    assert starts == pytest.approx([0.0, 1.5], abs=0.001)
    head = path.read_bytes()
    assert head.index(b"moov") < head.index(b"mdat")  # it plays while it loads
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("codec", CODECS)
def test_the_packets_are_the_ones_that_were_sent(codec: Codec, tmp_path: Path) -> None:
    path, made = tmp_path / f"c{SUFFIXES[codec]}", packets(codec, 32)
    write_clip(path, codec, made, CUES, TAGS)
    held = length_prefixed if codec == "H264" else bytes
    assert samples(path) == [held(bytes(packet)) for packet in made]
    with av.open(str(path)) as container:
        titles = [chapter["metadata"]["title"] for chapter in container.chapters()]
        assert titles == ["a red balloon", "night falls, snow"]
        assert container.metadata["title"] == "a red balloon"


def test_what_was_written_before_a_crash_plays(tmp_path: Path) -> None:
    path, copy = tmp_path / "r.mp4", tmp_path / "crashed.mp4"
    made = packets("H264", 64)
    file = GrowingFile(path, made[0], TAGS)
    for packet in made[:50]:
        file.add(packet)
    shutil.copy(path, copy)  # as a process that is killed here leaves it
    file.close()
    assert len(decoded(copy)) >= 50 - 16 - 1
    with av.open(str(copy)) as container:
        assert container.metadata["streamer.seed"] == "7"


def test_a_clip_starts_at_zero_and_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "c.mp4"
    seconds = write_clip(path, "H264", packets("H264", 32, start=12_345), CUES, TAGS)
    assert seconds == pytest.approx(2.0, abs=0.01)
    frames = decoded(path)
    assert (len(frames), frames[0].pts) == (32, 0)


@pytest.fixture
def small_disk() -> Iterator[None]:
    """No file may become larger than 12 kB."""
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_is_one_clear_error_and_what_was_written_plays(
    tmp_path: Path, small_disk: None
) -> None:
    path = tmp_path / "r.mp4"
    made = packets("H264", 160)
    file = GrowingFile(path, made[0], TAGS)
    with pytest.raises(OutputError, match=r"^r\.mp4: cannot be written: File too large"):
        add_all(file, made)
    file.abandon()
    frames = 0
    with av.open(str(path)) as container, contextlib.suppress(av.FFmpegError):
        # The last frame is cut off in its middle; players stop there.
        for _ in container.decode(video=0):
            frames += 1
    assert frames > 10


def test_a_disk_without_room_is_told_with_the_way_out_and_leaves_no_empty_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "r.mp4"

    def full(file: str, *_: object, **__: object) -> None:
        Path(file).touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), file)

    first = packets("H264", 2)[0]
    monkeypatch.setattr("streamer.delivery.mp4._Writer", full)
    with pytest.raises(OutputError, match=r"^r\.mp4: .*the disk is full; free some .*--recordings"):
        GrowingFile(path, first, TAGS)
    assert not path.exists()


def test_a_clip_that_does_not_fit_leaves_nothing(tmp_path: Path, small_disk: None) -> None:
    with pytest.raises(OutputError, match="File too large"):
        write_clip(tmp_path / "c.mp4", "H264", packets("H264", 160), CUES, TAGS)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    first = packets("H264", 1)[0]
    with pytest.raises(OutputError, match=r"r\.mp4: cannot be written: No such file"):
        GrowingFile(tmp_path / "gone" / "r.mp4", first, TAGS)


def test_captions_have_one_cue_a_prompt() -> None:
    text = webvtt([*CUES, Cue(3601.25, "a <b> & c")], 3700)
    assert text.startswith("WEBVTT\n\n00:00:00.000 --> 00:00:01.500\na red balloon\n")
    assert "01:00:01.250 --> 01:01:40.000\na &lt;b&gt; &amp; c\n" in text
    cues = re.split(r"\n\n", text.strip())
    assert len(cues) == 4
    assert webvtt([], 5) == "WEBVTT\n"


# ---- fragments for MediaSource ------------------------------------------------------------------


def boxes(data: bytes) -> list[str]:
    found = []
    while data:
        size = int.from_bytes(data[:4], "big")
        found.append(data[4:8].decode())
        data = data[size:]
    return found


def test_fragments_after_their_initial_segment_are_a_film(tmp_path: Path) -> None:
    """Joined in the middle: the first fragment is a key frame, its time that of the stream."""
    made = packets("H264", 32, start=7_000_000, keys=(0, 16))[16:]
    parts = [fragment(packet, i + 1, STEP) for i, packet in enumerate(made)]
    assert [boxes(part) for part in parts] == [["moof", "mdat"]] * 16
    first = initial_segment(made[0])
    assert boxes(first) == ["ftyp", "moov"]
    path = tmp_path / "joined.mp4"
    path.write_bytes(first + b"".join(parts))
    frames = decoded(path)
    assert [frame.pts for frame in frames] == [packet.pts for packet in made]
    assert frames[0].time_base == made[0].time_base
    assert frames[0].key_frame


def test_the_mime_type_names_profile_and_level() -> None:
    key, delta = packets("H264", 2)
    assert re.fullmatch(r'video/mp4; codecs="avc1\.42C0[0-9A-F]{2}"', mime_type(key))
    with pytest.raises(ValueError, match="no key frame"):
        mime_type(delta)
