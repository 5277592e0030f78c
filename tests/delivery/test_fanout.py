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
from streamer.delivery.fanout import Broadcast, PacketTrack
from streamer.delivery.line import KEY_INTERVAL_S, PRIME_S
from streamer.delivery.subscription import (
    KEY_BURST,
    LAG_LIMIT_S,
    OVERFLOW_LIMIT,
    Subscription,
)
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
async def broadcast(clock: Clock, never_idle: None) -> AsyncIterator[Broadcast]:
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
    return [await asyncio.wait_for(track.recv(), 10) for _ in range(count)]


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
    clock.now += 1  # the last key frame is too old to be handed on
    _, late_packet = await joined(broadcast)
    for number in range(3, 6):
        await broadcast.push(frame(number))
    packets = [await early_packet, *await drain(early, 5)]
    assert [packet.pts // STEP for packet in packets] == list(range(6))
    joined_with = await late_packet
    assert joined_with.is_keyframe
    assert joined_with.pts == 3 * STEP


async def test_a_viewer_that_joins_right_after_a_key_frame_is_given_it_at_once(
    broadcast: Broadcast, clock: Clock
) -> None:
    early, early_packet = await joined(broadcast)
    for number in range(3):
        await broadcast.push(frame(number))
    clock.now += PRIME_S - 0.01
    late, late_packet = await joined(broadcast)
    packets = [await late_packet, *await drain(late, 2)]
    assert [packet.pts // STEP for packet in packets] == [0, 1, 2]
    assert packets[0].is_keyframe
    for number in range(3, 12):
        await broadcast.push(frame(number))
    seen = [await early_packet, *await drain(early, 11)]
    assert [packet.is_keyframe for packet in seen].count(True) == 1


@pytest.mark.parametrize("later_s", [0.1, 0.29, 0.31, 0.45, 0.6, 3.0])
async def test_whoever_joins_has_a_key_frame_within_300_ms(
    broadcast: Broadcast, clock: Clock, later_s: float
) -> None:
    """Join at any time after the last key frame, at 16 frames a second."""
    _, first = await joined(broadcast)
    numbers = itertools.count()
    end = clock.now + later_s
    while clock.now < end:
        await broadcast.push(frame(next(numbers)))
        clock.now += 1 / 16
    asked = clock.now
    late, waiting = await joined(broadcast)
    while not waiting.done():
        await broadcast.push(frame(next(numbers)))
        await asyncio.sleep(0)
        if not waiting.done():
            clock.now += 1 / 16
    assert (await waiting).is_keyframe
    assert clock.now - asked <= 0.3
    late.stop()
    await first


async def test_key_frames_keep_their_distance_however_many_ask(
    broadcast: Broadcast, clock: Clock
) -> None:
    asking = [await joined(broadcast) for _ in range(12)]
    track, first = asking[0]
    packets = []
    for number in range(32):
        asking[number % 12][0].request_keyframe()
        await broadcast.push(frame(number))
        packets.append(await (first if number == 0 else track.recv()))
        clock.now += 1 / 16
    keys = [i for i, packet in enumerate(packets) if packet.is_keyframe]
    assert keys == list(range(0, 32, int(KEY_INTERVAL_S * 16)))
    await asyncio.gather(*(each for _, each in asking))


async def test_one_viewer_that_asks_all_the_time_costs_the_others_few_key_frames(
    broadcast: Broadcast, clock: Clock
) -> None:
    track, first = await joined(broadcast)
    for number in range(16 * 10):
        track.request_keyframe()
        await broadcast.push(frame(number))
        await (first if number == 0 else track.recv())
        clock.now += 1 / 16
    assert broadcast.num_keyframes <= 1 + KEY_BURST + 10 * 0.5 + 1


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


async def test_a_viewer_that_does_not_read_waits_no_longer_than_allowed_and_gets_a_key_frame(
    broadcast: Broadcast, clock: Clock
) -> None:
    stuck, stuck_first = await joined(broadcast)
    reader, reader_first = await joined(broadcast)
    await broadcast.push(frame(0))
    await asyncio.gather(stuck_first, reader_first)
    for number in range(1, 30):
        clock.now += 1 / 16
        await broadcast.push(frame(number))
        assert (await reader.recv()).pts == number * STEP
        assert stuck.subscription.lag_s <= LAG_LIMIT_S + 1 / 16
    assert broadcast.dropped > 16
    packet = await stuck.recv()
    assert packet.is_keyframe
    assert packet.pts > 16 * STEP
    following = await stuck.recv()
    assert following.pts == packet.pts + STEP


async def test_a_viewer_that_never_reads_loses_its_place_and_nobody_else_anything(
    broadcast: Broadcast, clock: Clock
) -> None:
    dropped: list[str] = []
    stuck = Subscription(
        broadcast, "H264", lag_limit_s=0.5, on_dropped=lambda: dropped.append("x"), clock=clock
    )
    stuck.join()
    reader, reader_first = await joined(broadcast)
    for number in range(16 * 8):
        await broadcast.push(frame(number))
        packet = await (reader_first if number == 0 else reader.recv())
        assert packet.pts == number * STEP
        clock.now += 1 / 16
        if dropped:
            break
    assert stuck.is_closed
    assert dropped == ["x"]
    assert stuck.num_dropped >= OVERFLOW_LIMIT * 8
    assert broadcast.num_viewers == 1


# ---- renditions ---------------------------------------------------------------------------------


@pytest.fixture
async def wide(clock: Clock, never_idle: None) -> AsyncIterator[Broadcast]:
    """Large enough to have a small rendition."""
    made = Broadcast(256, 160, 16, 600, clock=clock)
    yield made
    await made.close()


def wide_frame(number: int) -> TimedFrame:
    pixels = np.full((160, 256, 3), number * 7 % 256, np.uint8)
    return TimedFrame(pixels, number, number // 12, "p", number * STEP)


def picture_size(packet: av.Packet) -> tuple[int, int]:
    decoder = av.CodecContext.create("h264", "r")
    (picture,) = [*decoder.decode(av.Packet(bytes(packet))), *decoder.decode(None)]
    return picture.width, picture.height


async def test_a_viewer_on_a_thin_way_gets_the_small_rendition_and_the_others_the_full_one(
    wide: Broadcast, clock: Clock, encoded: list[tuple[str, int, bool]]
) -> None:
    (good, good_first), (thin, thin_first) = await joined(wide), await joined(wide)
    received: dict[str, list[av.Packet]] = {"good": [], "thin": []}
    for number in range(16 * 6):
        if number % 16 == 0:
            thin.subscription.note_loss(0.4)
            good.subscription.note_loss(0.0)
        await wide.push(wide_frame(number))
        received["good"].append(await (good_first if number == 0 else good.recv()))
        received["thin"].append(await (thin_first if number == 0 else thin.recv()))
        clock.now += 1 / 16
    for name, packets in received.items():
        stamps = [packet.pts // STEP for packet in packets]
        assert stamps == list(range(len(stamps))), name
    assert sorted(each.tier for each in wide.renditions) == ["full", "small"]
    assert [packet.is_keyframe for packet in received["good"]].count(True) == 1
    changed = next(i for i, packet in enumerate(received["thin"]) if i and packet.is_keyframe)
    assert picture_size(received["thin"][changed]) == (128, 80)
    assert picture_size(received["good"][0]) == (256, 160)
    full, small = sorted(wide.renditions, key=lambda each: each.tier)
    assert (full.viewers, small.viewers) == (1, 1)
    assert full.target_kbps == 600
    assert small.target_kbps < 220
    # A second viewer on a thin way shares the small encoder.
    encoded.clear()
    await wide.push(wide_frame(200))
    assert len(encoded) == 2


async def test_the_small_rendition_ends_when_its_viewer_is_well_again(
    wide: Broadcast, clock: Clock
) -> None:
    track, first = await joined(wide)
    packets = []
    for number in range(16 * 30):
        if number % 16 == 0:
            track.subscription.note_loss(0.4 if number < 16 * 4 else 0.0)
        await wide.push(wide_frame(number))
        packets.append(await (first if number == 0 else track.recv()))
        clock.now += 1 / 16
    assert [each.tier for each in wide.renditions] == ["full"]
    stamps = [packet.pts // STEP for packet in packets]
    assert stamps == list(range(len(stamps)))
    keys = [i for i, packet in enumerate(packets) if packet.is_keyframe]
    sizes = [picture_size(packets[i]) for i in keys]
    assert sizes[0] == (256, 160)
    assert (128, 80) in sizes
    assert sizes[-1] == (256, 160)


async def test_a_slightly_thin_way_lowers_the_bitrate_and_starts_no_second_encoder(
    wide: Broadcast, clock: Clock
) -> None:
    track, first = await joined(wide)
    for number in range(16 * 6):
        if number % 16 == 0:
            track.subscription.note_remb(450)
        await wide.push(wide_frame(number))
        await (first if number == 0 else track.recv())
        clock.now += 1 / 16
    (full,) = wide.renditions
    assert full.tier == "full"
    assert full.target_kbps == 450


async def test_viewers_that_change_in_opposite_directions_lose_no_frame(
    wide: Broadcast, clock: Clock
) -> None:
    tracks = [await joined(wide) for _ in range(2)]
    seen: list[list[int]] = [[], []]
    for number in range(64):
        if number in (8, 24, 40):
            for place, (track, _) in enumerate(tracks):
                assert track.subscription.rate is not None
                track.subscription.rate.tier = "small" if (number // 16 + place) % 2 else "full"
                wide.adapt(track.subscription)
        await wide.push(wide_frame(number))
        for place, (track, first) in enumerate(tracks):
            packet = await asyncio.wait_for(first if number == 0 else track.recv(), 10)
            seen[place].append(packet.pts // STEP)
        clock.now += 1 / 16
    assert seen == [list(range(64))] * 2


async def test_an_idle_stream_shows_its_last_picture_to_a_late_viewer() -> None:
    broadcast = Broadcast(64, 48, 16, 500)
    await broadcast.push(frame(5))
    track, first = await joined(broadcast, "VP8")
    packet = await asyncio.wait_for(first, 10)
    assert packet.is_keyframe
    assert packet.pts >= 5 * STEP
    repeated = await asyncio.wait_for(track.recv(), 10)
    assert not repeated.is_keyframe
    # Not sooner; how much later, this machine decides.
    assert repeated.pts - packet.pts > 0.4 * 90_000
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


async def test_what_fails_while_no_frame_comes_is_told_by_the_next_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broadcast = Broadcast(64, 48, 16, 500)
    _, first = await joined(broadcast)
    await broadcast.push(frame(0))
    await first

    def broken(encoder: VideoEncoder, picture: av.VideoFrame, keyframe: bool) -> list[av.Packet]:
        raise RuntimeError("the encoder is gone")

    monkeypatch.setattr(VideoEncoder, "encode", broken)
    async with asyncio.timeout(5):
        while "repeating a picture failed" not in caplog.text:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    with pytest.raises(RuntimeError, match="the encoder is gone"):
        await broadcast.push(frame(1))
    await broadcast.close()
