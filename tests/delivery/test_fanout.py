"""The fan-out: one encode for all, nobody disturbed, nothing left behind."""

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Iterator

import av
import numpy as np
import pytest
from aiortc.mediastreams import MediaStreamError

from streamer.delivery.encoder import CODECS, VideoEncoder
from streamer.delivery.fanout import KEY_INTERVAL_S, QUEUE_LIMIT, Broadcast, PacketTrack
from streamer.errors import ConfigError
from streamer.pacing import TimedFrame

STEP = 90_000 // 16


class Clock:
    """Time that moves when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def broadcast(clock: Clock) -> AsyncIterator[Broadcast]:
    made = Broadcast(64, 48, 16, 500, clock=clock)
    yield made
    await made.close()


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, int, bool]]]:
    """What the encoders were given: codec, pts, key frame wanted."""
    calls: list[tuple[str, int, bool]] = []
    encode = VideoEncoder.encode

    def spy(self: VideoEncoder, frame: av.VideoFrame, keyframe: bool) -> list[av.Packet]:
        calls.append((self.codec, frame.pts, keyframe))
        return encode(self, frame, keyframe)

    monkeypatch.setattr(VideoEncoder, "encode", spy)
    return calls


def frame(number: int) -> TimedFrame:
    pixels = np.full((48, 64, 3), number * 7 % 256, np.uint8)
    return TimedFrame(pixels, number, number // 12, "p", number * STEP)


async def joined(broadcast: Broadcast, codec: str = "H264") -> tuple[PacketTrack, asyncio.Task]:
    """A track that has joined, and its first, waiting `recv`."""
    track = PacketTrack(broadcast, codec)
    task = asyncio.create_task(track.recv())
    await asyncio.sleep(0)
    return track, task


async def drain(track: PacketTrack, count: int) -> list[av.Packet]:
    return [await asyncio.wait_for(track.recv(), 2) for _ in range(count)]


async def test_nothing_is_encoded_while_nobody_watches(
    broadcast: Broadcast, encoded: list[tuple[str, int, bool]]
) -> None:
    PacketTrack(broadcast, "H264")
    for number in range(3):
        await broadcast.push(frame(number))
    assert encoded == []
    assert broadcast.num_viewers == 0


async def test_two_viewers_get_the_same_packets_of_one_encoder(
    broadcast: Broadcast, encoded: list[tuple[str, int, bool]]
) -> None:
    first, first_packet = await joined(broadcast)
    second, second_packet = await joined(broadcast)
    for number in range(4):
        await broadcast.push(frame(number))
    ours = [await first_packet, *await drain(first, 3)]
    theirs = [await second_packet, *await drain(second, 3)]
    assert all(a is b for a, b in zip(ours, theirs, strict=True))
    assert [packet.pts for packet in ours] == [number * STEP for number in range(4)]
    assert ours[0].is_keyframe
    assert len(encoded) == 4
    assert broadcast.num_viewers == 2


async def test_a_late_viewer_starts_with_a_key_frame_and_disturbs_nobody(
    broadcast: Broadcast, clock: Clock
) -> None:
    early, early_packet = await joined(broadcast)
    for number in range(3):
        await broadcast.push(frame(number))
    clock.now += 1
    _, late_packet = await joined(broadcast)
    for number in range(3, 6):
        await broadcast.push(frame(number))
    packets = [await early_packet, *await drain(early, 5)]
    assert [packet.pts // STEP for packet in packets] == list(range(6))
    joined_with = await late_packet
    assert joined_with.is_keyframe
    assert joined_with.pts == 3 * STEP


async def test_key_frames_keep_their_distance_however_often_they_are_wanted(
    broadcast: Broadcast, clock: Clock
) -> None:
    track, first = await joined(broadcast)
    for number in range(32):
        track.request_keyframe()
        await broadcast.push(frame(number))
        clock.now += 1 / 16
    packets = [await first, *await drain(track, 31)]
    keys = [i for i, packet in enumerate(packets) if packet.is_keyframe]
    assert keys == list(range(0, 32, int(KEY_INTERVAL_S * 16)))


async def test_a_second_codec_is_encoded_only_while_somebody_watches_it(
    broadcast: Broadcast, encoded: list[tuple[str, int, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, h264 = await joined(broadcast, "H264")
    assert broadcast.codecs == ("H264",)
    vp8_track, vp8 = await joined(broadcast, "VP8")
    assert broadcast.codecs == ("H264", "VP8")
    await broadcast.push(frame(0))
    assert {codec for codec, _, _ in encoded} == {"H264", "VP8"}
    assert (await h264).is_keyframe
    assert (await vp8).is_keyframe
    vp8_track.stop()
    assert broadcast.codecs == ("H264",)
    encoded.clear()
    await broadcast.push(frame(1))
    assert encoded == [("H264", STEP, False)]


async def test_a_viewer_that_does_not_read_is_set_to_the_next_key_frame(
    broadcast: Broadcast, clock: Clock
) -> None:
    stuck, stuck_first = await joined(broadcast)
    reader, reader_first = await joined(broadcast)
    await broadcast.push(frame(0))
    await asyncio.gather(stuck_first, reader_first)
    for number in range(1, QUEUE_LIMIT + 20):
        clock.now += 1 / 16
        await broadcast.push(frame(number))
        assert (await reader.recv()).pts == number * STEP
    assert broadcast.dropped >= QUEUE_LIMIT
    packet = await stuck.recv()
    assert packet.is_keyframe
    assert packet.pts > QUEUE_LIMIT * STEP
    following = await stuck.recv()
    assert following.pts == packet.pts + STEP


async def test_an_idle_stream_shows_its_last_picture_to_a_late_viewer() -> None:
    broadcast = Broadcast(64, 48, 16, 500)
    await broadcast.push(frame(5))
    track, first = await joined(broadcast, "VP8")
    packet = await asyncio.wait_for(first, 0.4)
    assert packet.is_keyframe
    assert packet.pts >= 5 * STEP
    repeated = await asyncio.wait_for(track.recv(), 1)
    assert not repeated.is_keyframe
    assert repeated.pts - packet.pts == pytest.approx(0.5 * 90_000, rel=0.4)
    await broadcast.close()


async def test_timestamps_rise_when_a_repeat_and_a_frame_meet(
    broadcast: Broadcast, clock: Clock
) -> None:
    track, first = await joined(broadcast)
    await broadcast.push(frame(0))
    clock.now += 10
    await broadcast._repeat()
    await broadcast.push(frame(1))
    stamps = [packet.pts for packet in [await first, *await drain(track, 2)]]
    assert all(earlier < later for earlier, later in itertools.pairwise(stamps))


async def test_leaving_while_a_frame_is_encoded_harms_nobody(broadcast: Broadcast) -> None:
    for number in range(30):
        leaver, first = await joined(broadcast, CODECS[number % 2])
        stayer, stays = await joined(broadcast, "H264")
        sending = asyncio.create_task(broadcast.push(frame(number)))
        await asyncio.sleep(0.0003 * (number % 5))
        leaver.stop()
        await sending
        with pytest.raises(MediaStreamError):
            await leaver.recv()
        stayer.stop()
        await asyncio.gather(first, stays, return_exceptions=True)
    assert broadcast.num_viewers == 0


async def test_close_ends_tracks_threads_and_tasks() -> None:
    others = set(threading.enumerate())
    broadcast = Broadcast(64, 48, 16, 500)
    _, first = await joined(broadcast, "H264")
    _, second = await joined(broadcast, "VP8")
    await broadcast.push(frame(0))
    await asyncio.gather(first, second)
    encoding = set(threading.enumerate()) - others
    assert len(encoding) == 2
    await broadcast.close()
    await broadcast.close()
    for thread in encoding:
        thread.join(2)
        assert not thread.is_alive()
    late = PacketTrack(broadcast, "H264")
    with pytest.raises(MediaStreamError):
        await late.recv()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_bitrate_is_measured(broadcast: Broadcast, clock: Clock) -> None:
    track, first = await joined(broadcast)
    assert broadcast.bitrate_kbps == 0
    sizes = []
    for number in range(64):
        await broadcast.push(frame(number))
        packet = await (first if number == 0 else track.recv())
        sizes.append(packet.size)
        clock.now += 1 / 16
    assert broadcast.bitrate_kbps == pytest.approx(sum(sizes[-32:]) * 8 / 1000 / 2, rel=0.05)


async def test_an_odd_size_is_rejected_before_anybody_watches() -> None:
    with pytest.raises(ConfigError, match="63x48"):
        Broadcast(63, 48, 16, 500)
