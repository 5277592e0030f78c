"""Recordings of a broadcast: the same packets, no encoder of their own, no harm to the stream."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import av
import pytest

from streamer.delivery.fanout import Broadcast, PacketTrack
from streamer.delivery.recorder import Recorder, save_last
from streamer.delivery.rewind import KEY_EVERY_S, Rewind
from streamer.delivery.screenshot import png, read_recipe
from streamer.errors import OutputError, StreamStateError
from tests.delivery.packets import HEIGHT, STEP, WIDTH, frame, packets, pixels
from tests.delivery.test_fanout import Clock, joined

SCRIPT = '{"type": "spec"}\n'


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def broadcast(clock: Clock, never_idle: None) -> AsyncIterator[Broadcast]:
    made = Broadcast(WIDTH, HEIGHT, 16, 400, rewind_s=30, clock=clock)
    yield made
    await made.close()


def recorder(path: Path, broadcast: Broadcast, **more: object) -> Recorder:
    return Recorder(
        path,
        broadcast,
        tags=lambda: {"title": "t"},
        script=lambda: SCRIPT,
        **more,  # type: ignore[arg-type]
    )


async def show(broadcast: Broadcast, clock: Clock, numbers: range, *readers: PacketTrack) -> None:
    for number in numbers:
        await broadcast.push(frame(number))
        for reader in readers:
            await asyncio.wait_for(reader.recv(), 10)
        await asyncio.sleep(0.001)
        clock.now += 1 / 16


async def test_a_recording_takes_the_packets_that_are_sent_and_no_second_encoder(
    broadcast: Broadcast, clock: Clock, tmp_path: Path
) -> None:
    viewer, first = await joined(broadcast)
    await broadcast.push(frame(0))
    sent = [await first]
    clock.now += 1
    path = tmp_path / "r.mp4"
    made = recorder(path, broadcast, cues=[(0, "red")])
    made.begin()
    for number in range(16, 64):
        await broadcast.push(frame(number))
        sent.append(await viewer.recv())
        clock.now += 1 / 16
        if number == 40:
            made.note_prompt(40 * STEP, "blue")
    assert len(broadcast.renditions) == 1
    await made.stop()
    assert made.state == "finished"
    assert made.seconds == pytest.approx(3.0, abs=0.01)
    with av.open(str(path)) as container:
        chapters = [
            (c["metadata"]["title"], float(c["start"] * c["time_base"]))
            for c in container.chapters()
        ]
        held = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    assert chapters == [("red", 0.0), ("blue", pytest.approx(1.5, abs=0.01))]
    from streamer.delivery.annexb import length_prefixed

    assert held[1:] == [length_prefixed(bytes(packet)) for packet in sent[2:]]
    captions = path.with_suffix(".vtt").read_text()
    assert captions.count("-->") == 2
    assert path.with_suffix(".jsonl").read_text() == SCRIPT
    assert sorted(os.listdir(tmp_path)) == ["r.jsonl", "r.mp4", "r.vtt"]


async def test_a_recording_without_viewers_starts_the_encoder_and_ends_it(
    broadcast: Broadcast, clock: Clock, tmp_path: Path
) -> None:
    made = recorder(tmp_path / "r.mp4", broadcast)
    made.begin()
    await show(broadcast, clock, range(32))
    assert broadcast.codecs == ("H264",)
    await made.stop()
    assert broadcast.codecs == ()
    assert made.state == "finished"


async def test_where_only_vp8_is_sent_the_last_seconds_are_a_webm(
    broadcast: Broadcast, clock: Clock, tmp_path: Path
) -> None:
    viewer, first = await joined(broadcast, "VP8")
    await broadcast.push(frame(0))
    await first
    await show(broadcast, clock, range(1, 33), viewer)
    path, length = await save_last(
        tmp_path / "c.mp4", broadcast, 30, prompts=[(0, "red")], tags={}, script=SCRIPT
    )
    assert broadcast.codecs == ("VP8",)
    assert (path.name, length) == ("c.webm", pytest.approx(33 / 16, abs=0.1))
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.name in ("vp8", "libvpx")
        assert len(list(container.decode(video=0))) == 33


async def test_a_disk_that_refuses_ends_the_recording_and_not_the_stream(
    broadcast: Broadcast, clock: Clock, tmp_path: Path
) -> None:
    viewer, first = await joined(broadcast)
    told: list[str] = []
    made = recorder(
        tmp_path / "gone" / "r.mp4", broadcast, on_changed=lambda: told.append(made.state)
    )
    made.begin()
    await broadcast.push(frame(0))
    await first
    await show(broadcast, clock, range(1, 20), viewer)
    await made.stop()
    assert told == ["failed"]
    assert "r.mp4: cannot be written: No such file" in made.detail
    await show(broadcast, clock, range(20, 30), viewer)
    assert broadcast.num_viewers == 1


async def test_captions_that_cannot_be_written_for_a_while_cost_the_recording_nothing(
    broadcast: Broadcast,
    clock: Clock,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    made = recorder(tmp_path / "r.mp4", broadcast, cues=[(0, "red")])
    made.begin()
    await show(broadcast, clock, range(16))

    def full(path: Path, captions: str, script: str) -> None:
        raise OutputError("r.vtt: cannot be written: No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr("streamer.delivery.recorder.write_companions", full)
        made.note_prompt(8 * STEP, "blue")
        async with asyncio.timeout(5):
            while "captions not written" not in caplog.text:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    await show(broadcast, clock, range(16, 32))
    await made.stop()
    assert (made.state, made.detail) == ("finished", "")
    assert (tmp_path / "r.vtt").read_text().count("-->") == 2


async def test_a_clip_whose_captions_do_not_fit_leaves_no_film(
    broadcast: Broadcast, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    viewer, first = await joined(broadcast)
    await broadcast.push(frame(0))
    await first
    await show(broadcast, clock, range(1, 20), viewer)
    (tmp_path / "c.vtt").mkdir()  # what is in the way of a file
    with pytest.raises(OutputError, match=r"c\.vtt: cannot be written"):
        await save_last(
            tmp_path / "c.mp4", broadcast, 30, prompts=[(0, "red")], tags={}, script=SCRIPT
        )
    assert os.listdir(tmp_path) == ["c.vtt"]


async def test_a_stream_that_ends_finishes_its_recording(
    broadcast: Broadcast, clock: Clock, tmp_path: Path
) -> None:
    made = recorder(tmp_path / "r.mp4", broadcast)
    made.begin()
    await show(broadcast, clock, range(20))
    await broadcast.close()
    await made.stop()
    assert made.state == "finished"


async def test_the_last_seconds_are_saved_from_what_was_sent(
    broadcast: Broadcast, clock: Clock, tmp_path: Path
) -> None:
    viewer, first = await joined(broadcast)
    await broadcast.push(frame(0))
    await first
    await show(broadcast, clock, range(1, 16 * 45), viewer)
    prompts = [(0, "red"), (16 * 5 * STEP, "green"), (16 * 40 * STEP, "blue")]
    _, length = await save_last(
        tmp_path / "c.mp4",
        broadcast,
        30,
        prompts=prompts,
        tags={},
        script=SCRIPT,
    )
    assert 30 <= length <= 30 + KEY_EVERY_S + 1
    with av.open(str(tmp_path / "c.mp4")) as container:
        titles = [chapter["metadata"]["title"] for chapter in container.chapters()]
        assert len(list(container.decode(video=0))) == pytest.approx(length * 16, abs=1)
    assert titles == ["green", "blue"]
    assert broadcast.num_keyframes <= 6
    _, short = await save_last(
        tmp_path / "s.mp4", broadcast, 3, prompts=prompts, tags={}, script=SCRIPT
    )
    assert 3 <= short <= 3 + KEY_EVERY_S + 1


async def test_nothing_sent_is_nothing_to_save(broadcast: Broadcast, tmp_path: Path) -> None:
    with pytest.raises(StreamStateError, match="nothing to save"):
        await save_last(tmp_path / "c.mp4", broadcast, 30, prompts=[], tags={}, script="")


def test_what_is_kept_is_bounded_and_begins_with_a_key_frame() -> None:
    rewind = Rewind(4)
    for packet in packets("H264", 16 * 20, keys=tuple(range(0, 16 * 20, 32))):
        rewind.add("H264", packet)
        kept = rewind.last(99)
        assert kept[0].is_keyframe
        assert len(kept) <= 16 * (4 + 2) + 1
    assert len(rewind.last(1)) <= 16 * 3 + 1


def test_a_key_frame_is_wanted_when_the_last_one_is_old() -> None:
    rewind = Rewind(30)
    wanted = [rewind.add("H264", packet) for packet in packets("H264", 16 * 12)]
    assert wanted.index(True) == pytest.approx(16 * KEY_EVERY_S, abs=1)
    assert not any(Rewind(0).add("H264", packet) for packet in packets("H264", 16 * 12))


def test_another_codec_takes_over_only_when_the_first_is_silent() -> None:
    rewind = Rewind(30)
    for packet in packets("H264", 16):
        rewind.add("H264", packet)
    for packet in packets("VP8", 16, start=STEP):
        rewind.add("VP8", packet)
    assert rewind.codec == "H264"
    for packet in packets("VP8", 16, start=10 * 90_000):
        rewind.add("VP8", packet)
    assert rewind.codec == "VP8"
    assert len(rewind.last(99)) == 16


def test_a_screenshot_carries_its_recipe() -> None:
    recipe = {"prompt": "a red balloon, 赤い風船", "seed": 7, "frame": 144}
    file = png(pixels(3), recipe)
    assert read_recipe(file) == recipe
    (picture,) = av.open(_as_file(file), format="png_pipe").decode(video=0)
    assert (picture.to_ndarray(format="rgb24") == pixels(3)).all()
    assert json.dumps(recipe, ensure_ascii=False).encode() in file
    with pytest.raises(ValueError, match="no recipe"):
        read_recipe(_plain_png())


def _as_file(data: bytes) -> object:
    import io

    return io.BytesIO(data)


def _plain_png() -> bytes:
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (2, 2)).save(file, "png")
    return file.getvalue()
