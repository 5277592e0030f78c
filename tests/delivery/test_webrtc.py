"""Real loop-back peers: aiortc on both ends, over UDP on 127.0.0.1."""

import asyncio
import gc
import random
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import ClassVar

import aioice.ice
import av
import numpy as np
import psutil
import pytest
from aiortc import (
    RTCConfiguration,
    RTCPeerConnection,
    RTCRtpReceiver,
    RTCRtpSender,
    RTCSessionDescription,
)
from aiortc.mediastreams import MediaStreamError
from aiortc.rtcdtlstransport import RTCDtlsTransport
from aiortc.rtp import RtpPacket

from streamer.delivery import webrtc
from streamer.delivery.encoder import CODECS, Codec, VideoEncoder
from streamer.delivery.fanout import Broadcast, PacketTrack
from streamer.delivery.webrtc import Viewer, allow_loopback, prepare_offer
from streamer.errors import CodecError, OfferError
from streamer.pacing import Playout
from streamer.stream import FrameBlock
from tests.calm import is_calm

FPS = 16
WIDTH, HEIGHT = 128, 64
CELL = 16


@pytest.fixture(autouse=True)
def _only_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without a network, as far as ICE can tell."""
    monkeypatch.setattr(aioice.ice, "get_host_addresses", lambda use_ipv4, use_ipv6: [])
    allow_loopback(always=False)


def numbered(number: int) -> np.ndarray:
    """A picture that says its number in eight black and white cells."""
    pixels = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
    for bit in range(8):
        pixels[:CELL, bit * CELL : (bit + 1) * CELL] = 235 if number >> bit & 1 else 16
    pixels[CELL:, :, 0] = (np.arange(WIDTH) + 2 * number) % 256
    return pixels


def number_of(frame: av.VideoFrame) -> int:
    luma = frame.to_ndarray(format="gray")
    return sum(
        1 << bit for bit in range(8) if luma[4:12, bit * CELL + 4 : bit * CELL + 12].mean() > 126
    )


class Show:
    """A stream of numbered pictures, paced as a real one."""

    def __init__(self) -> None:
        self.broadcast = Broadcast(WIDTH, HEIGHT, FPS, 600)
        self.playout = Playout(FPS)
        self.pts_of: dict[int, int] = {}
        self.pushed_at: dict[int, float] = {}
        self._tasks = [asyncio.create_task(self._make()), asyncio.create_task(self._send())]

    async def _make(self) -> None:
        first = 0
        for index in range(10_000):
            await self.playout.wait_for_room()
            pixels = np.stack([numbered((first + i) % 256) for i in range(12)])
            none = np.zeros((0,), np.float32)
            self.playout.put(FrameBlock(index, first, pixels, none, "p"), 0.01)
            first += 12

    async def _send(self) -> None:
        async for frame in self.playout.frames():
            self.pts_of[frame.number % 256] = frame.pts
            self.pushed_at[frame.number % 256] = time.monotonic()
            await self.broadcast.push(frame)

    async def close(self) -> None:
        self.playout.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.broadcast.close()


@pytest.fixture
async def show() -> AsyncIterator[Show]:
    made = Show()
    yield made
    for client in Client.made:
        await client.connection.close()
    Client.made.clear()
    await made.close()


class Client:
    """The far end: what a browser would be."""

    made: ClassVar[list["Client"]] = []

    def __init__(self, codecs: tuple[str, ...] = CODECS) -> None:
        self.made.append(self)
        self.connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        transceiver = self.connection.addTransceiver("video", direction="recvonly")
        wanted = [f"video/{codec}" for codec in codecs] + ["video/rtx"]
        known = RTCRtpReceiver.getCapabilities("video").codecs
        transceiver.setCodecPreferences(
            [entry for name in wanted for entry in known if entry.mimeType == name]
        )

        receiver = self.connection.getReceivers()[0]
        handle = receiver._handle_rtp_packet
        self.stamps: list[int] = []

        async def note(packet: RtpPacket, arrival_time_ms: int) -> None:
            if packet.timestamp not in self.stamps[-1:]:
                self.stamps.append(packet.timestamp)
            await handle(packet, arrival_time_ms)

        receiver._handle_rtp_packet = note

    async def offer(self) -> str:
        await self.connection.setLocalDescription(await self.connection.createOffer())
        return self.connection.localDescription.sdp

    async def take(self, answer_sdp: str) -> None:
        await self.connection.setRemoteDescription(RTCSessionDescription(answer_sdp, "answer"))

    async def frame(self, within_s: float = 15) -> av.VideoFrame:
        return await asyncio.wait_for(self.connection.getReceivers()[0].track.recv(), within_s)

    async def vanish(self) -> None:
        """Go without a word, like a laptop whose lid was closed."""
        transport = self.connection.getReceivers()[0].transport
        for protocol in transport.transport._connection._protocols:
            protocol.send_stun = lambda *_: None
            protocol.transport.sendto = lambda *_: None


class Closed:
    """Counts the calls of on_closed."""

    def __init__(self) -> None:
        self.viewers: list[Viewer] = []
        self._event = asyncio.Event()

    def __call__(self, viewer: Viewer) -> None:
        self.viewers.append(viewer)
        self._event.set()

    async def wait(self, within_s: float) -> None:
        await asyncio.wait_for(self._event.wait(), within_s)


async def watch(
    show: Show, codecs: tuple[str, ...] = CODECS, **options: object
) -> tuple[Client, Viewer, Closed]:
    client, closed = Client(codecs), Closed()
    viewer = await Viewer.accept(
        await client.offer(), show.broadcast, [], on_closed=closed, **options
    )
    await client.take(viewer.answer_sdp)
    return client, viewer, closed


async def settles(is_so: Callable[[], bool], within_s: float = 15) -> bool:
    end = time.monotonic() + within_s
    # What is waited for has no event.
    while not is_so() and time.monotonic() < end:  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    return is_so()


def num_sockets() -> int:
    return len(psutil.Process().net_connections(kind="udp"))


def own_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("encode-")]


@pytest.mark.parametrize("codec", CODECS)
async def test_64_frames_arrive_in_order_and_evenly(codec: Codec, show: Show) -> None:
    client, viewer, _ = await watch(show, (codec,))
    assert viewer.codec == codec
    frames, at = [], []
    for _ in range(64):
        frames.append(await client.frame())
        at.append(time.monotonic())
    await client.connection.close()
    # On a machine too busy to send in time, a picture is repeated for a viewer who just joined.
    shown = [number_of(frame) for frame in frames]
    first_of = {number: place for place, number in reversed(list(enumerate(shown)))}
    numbers = sorted(first_of, key=first_of.__getitem__)
    assert numbers == [(numbers[0] + i) % 256 for i in range(len(numbers))]
    assert len(numbers) >= 62
    # The times they carry are those of the playout clock, to the tick.
    assert [client.stamps[first_of[number]] for number in numbers] == [
        viewer.rtp_timestamp(show.pts_of[number]) for number in numbers
    ]
    spacing = np.diff([frame.pts for frame in frames]) / 90_000
    assert np.percentile(spacing, 90) < 1.1 / FPS
    assert spacing.max() < 3 / FPS
    # When they arrive depends on how busy the machine is; the middle of it hardly does.
    assert np.median(np.diff(at)) == pytest.approx(1 / FPS, rel=0.3)


async def test_h264_is_preferred_and_the_preference_can_be_turned(show: Show) -> None:
    one, first, _ = await watch(show, ("VP8", "H264"))
    two, second, _ = await watch(show, codecs=("VP8", "H264"))
    assert first.codec == "H264"
    three = Client(CODECS)
    third = await Viewer.accept(
        await three.offer(), show.broadcast, [], on_closed=Closed(), codecs=("VP8", "H264")
    )
    assert third.codec == "VP8"
    for viewer in (first, second, third):
        await viewer.close()
    for client in (one, two, three):
        await client.connection.close()


async def test_h264_without_packetization_mode_1_falls_back_to_vp8(show: Show) -> None:
    client = Client()
    offer = (await client.offer()).replace("packetization-mode=1", "packetization-mode=0")
    viewer = await Viewer.accept(offer, show.broadcast, [], on_closed=Closed())
    assert viewer.codec == "VP8"
    await viewer.close()
    await client.connection.close()


async def test_the_answer_is_passive_and_names_only_what_is_sent(show: Show) -> None:
    client, viewer, _ = await watch(show)
    assert "a=setup:passive" in viewer.answer_sdp
    assert "a=sendonly" in viewer.answer_sdp
    assert "127.0.0.1" in viewer.answer_sdp
    assert "srflx" not in viewer.answer_sdp
    await viewer.close()
    await client.connection.close()


async def test_a_late_viewer_shares_the_encoder_and_sees_a_picture_soon(
    show: Show, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []
    init = VideoEncoder.__init__

    def counting(self: VideoEncoder, codec: Codec, *rest: int, **more: str) -> None:
        started.append(codec)
        init(self, codec, *rest, **more)

    monkeypatch.setattr(VideoEncoder, "__init__", counting)
    early, _, _ = await watch(show, ("H264",))
    before = [number_of(await early.frame()) for _ in range(20)]
    begun = time.monotonic()
    late, _, _ = await watch(show, ("H264",))
    numbers, _ = await asyncio.gather(asyncio.gather(*[_numbers(early, 24)]), late.frame())
    assert time.monotonic() - begun < 5 or not is_calm()
    seen = list(dict.fromkeys(before + numbers[0]))  # a machine that stalls repeats one
    assert seen == [(seen[0] + i) % 256 for i in range(len(seen))]
    assert started == ["H264"]
    assert show.broadcast.num_viewers == 2
    await early.connection.close()
    await late.connection.close()
    assert await settles(lambda: show.broadcast.num_viewers == 0)


async def _numbers(client: Client, count: int) -> list[int]:
    return [number_of(await client.frame()) for _ in range(count)]


async def test_a_viewer_of_a_paused_stream_sees_its_last_picture(show: Show) -> None:
    assert await settles(lambda: bool(show.pts_of))
    show.playout.pause()
    await asyncio.sleep(0.1)
    client, _, _ = await watch(show, ("VP8",))
    assert number_of(await client.frame()) == max(show.pts_of)
    await client.connection.close()


@pytest.mark.parametrize("codec", CODECS)
async def test_picture_loss_makes_a_key_frame(
    codec: Codec, show: Show, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys: list[float] = []
    encode = VideoEncoder.encode

    def spy(self: VideoEncoder, frame: av.VideoFrame, keyframe: bool) -> list[av.Packet]:
        packets = encode(self, frame, keyframe)
        keys.extend(time.monotonic() for packet in packets if packet.is_keyframe)
        return packets

    monkeypatch.setattr(VideoEncoder, "encode", spy)
    client, _, _ = await watch(show, (codec,))
    first = await client.frame()
    await asyncio.sleep(0.6)
    keys.clear()
    receiver = client.connection.getReceivers()[0]
    ssrc = next(iter(receiver.getSynchronizationSources())).source
    for _ in range(5):
        await receiver._send_rtcp_pli(ssrc)
    assert first is not None
    assert await settles(lambda: len(keys) > 0)
    await asyncio.sleep(0.2)
    assert len(keys) == 1
    await client.connection.close()


async def test_closing_frees_everything(show: Show) -> None:
    tasks = asyncio.all_tasks()
    client, viewer, closed = await watch(show)
    await client.frame()
    await asyncio.gather(viewer.close(), viewer.close())
    await viewer.close()
    assert closed.viewers == [viewer]
    await client.connection.close()
    assert show.broadcast.num_viewers == 0
    assert await settles(lambda: asyncio.all_tasks() <= tasks)
    assert await settles(lambda: own_threads() == [])


async def test_what_closes_slowly_is_closed_all_the_same(
    show: Show, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine that is busy for seconds, nobody waits for ever, and nothing stays open."""
    tasks, sockets = asyncio.all_tasks(), num_sockets()
    client, viewer, closed = await watch(show)
    await client.frame()
    stop, may_stop = RTCDtlsTransport.stop, asyncio.Event()

    async def stop_late(transport: RTCDtlsTransport) -> None:
        await may_stop.wait()
        await stop(transport)

    monkeypatch.setattr(RTCDtlsTransport, "stop", stop_late)
    monkeypatch.setattr(webrtc, "_CLOSE_LIMIT_S", 0.05)
    await asyncio.wait_for(viewer.close(), 5)
    assert closed.viewers == [viewer]
    assert num_sockets() > sockets
    may_stop.set()
    await client.connection.close()
    assert await settles(lambda: num_sockets() == sockets)
    assert await settles(lambda: asyncio.all_tasks() <= tasks)


async def test_a_viewer_that_leaves_is_noticed(show: Show) -> None:
    client, viewer, closed = await watch(show)
    await client.frame()
    assert viewer.is_connected
    await client.connection.close()
    await closed.wait(15)
    assert closed.viewers == [viewer]
    assert show.broadcast.num_viewers == 0


async def test_a_viewer_that_vanishes_is_noticed(
    show: Show, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webrtc, "_CONSENT_INTERVAL_S", 0.1)
    monkeypatch.setattr(webrtc, "_CONSENT_FAILURES", 2)
    client, viewer, closed = await watch(show)
    await client.frame()
    await client.vanish()
    await closed.wait(15)
    assert closed.viewers == [viewer]
    assert await settles(lambda: own_threads() == [])
    await client.connection.close()


async def test_a_viewer_that_never_answers_is_given_up(show: Show) -> None:
    tasks = asyncio.all_tasks()
    client, closed = Client(), Closed()
    offer = await client.offer()
    await client.connection.close()
    viewer = await Viewer.accept(offer, show.broadcast, [], on_closed=closed, connect_limit_s=0.3)
    assert viewer.rtp_timestamp(0) is None
    await closed.wait(15)
    assert closed.viewers == [viewer]
    assert show.broadcast.num_viewers == 0
    assert await settles(lambda: own_threads() == [])
    assert await settles(lambda: asyncio.all_tasks() <= tasks)


async def test_an_offer_without_candidates_connects(show: Show) -> None:
    client, closed = Client(), Closed()
    offer = "\r\n".join(
        line for line in (await client.offer()).splitlines() if "candidate" not in line
    )
    viewer = await Viewer.accept(offer + "\r\n", show.broadcast, [], on_closed=closed)
    await client.take(viewer.answer_sdp)
    await client.frame()
    await client.connection.close()
    await closed.wait(15)


async def test_a_changed_aiortc_costs_timestamps_and_nothing_else(
    show: Show, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Changed:
        transport = object()

    for name in ("_on_first_packet", "route_feedback"):
        hook = getattr(webrtc, name)
        monkeypatch.setattr(webrtc, name, lambda _, call, hook=hook: hook(Changed(), call))
    client, viewer, _ = await watch(show)
    await client.frame()
    assert viewer.rtp_timestamp(0) is None
    await client.connection.close()


def test_the_private_names_of_aiortc_and_aioice_are_still_there() -> None:
    assert callable(RTCRtpSender._send_keyframe)
    assert callable(RTCRtpSender._handle_rtcp_packet)
    assert callable(RTCDtlsTransport._send_rtp)
    assert aioice.ice.CONSENT_INTERVAL > 0
    assert aioice.ice.CONSENT_FAILURES > 0


def test_loopback_is_added_where_there_is_nothing_else_or_when_wanted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(aioice.ice, "get_host_addresses", lambda use_ipv4, use_ipv6: ["10.1.2.3"])
    allow_loopback(always=False)
    assert aioice.ice.get_host_addresses(True, True) == ["10.1.2.3"]
    allow_loopback()
    allow_loopback(always=False)
    assert aioice.ice.get_host_addresses(True, True) == ["127.0.0.1", "10.1.2.3"]
    assert aioice.ice.get_host_addresses(False, True) == ["10.1.2.3"]


# ---- offers that cannot be answered -------------------------------------------------------------


async def refused(offer: str, broadcast: Broadcast) -> Exception | None:
    """The error an offer meets; None when it is answered (and then closed)."""
    closed = Closed()
    try:
        viewer = await Viewer.accept(offer, broadcast, [], on_closed=closed)
    except (OfferError, CodecError) as error:
        assert closed.viewers == []
        return error
    await viewer.close()
    return None


async def test_an_offer_without_a_common_codec_is_a_codec_error(show: Show) -> None:
    client = Client()
    offer = (await client.offer()).replace("VP8/", "VP9/").replace("H264/", "AV1/")
    error = await refused(offer, show.broadcast)
    assert isinstance(error, CodecError)
    assert "H264, VP8" in str(error)
    await client.connection.close()


@pytest.mark.parametrize(
    ("offer", "said"),
    [
        ("", "media sections are: none"),
        ("hello", "media sections are: none"),
        ("v=0\r\n" * 20_000, "has 100000 characters"),
        ("v=0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 0\r\n", "sections are: audio"),
        ("v=0\r\nm=video 9 UDP/TLS/RTP/SAVPF 96\r\n" * 2, "sections are: video, video"),
        ("v=0\r\nm=video 9 UDP/TLS/RTP/SAVPF 96\r\n", "the offer"),
        ("m=video", "cannot be read"),
    ],
)
async def test_what_is_no_offer_is_an_offer_error(offer: str, said: str, show: Show) -> None:
    error = await refused(offer, show.broadcast)
    assert isinstance(error, OfferError | CodecError)
    assert said in str(error)


def test_an_offer_is_stripped_of_names_that_would_be_looked_up() -> None:
    offer = "\r\n".join(
        [
            "m=video 9 UDP/TLS/RTP/SAVPF 96",
            "a=setup:actpass",
            "a=candidate:1 1 udp 2113937151 0b3c.local 50000 typ host",
            "a=candidate:2 1 udp 2113937151 evil.example.org 50000 typ host",
            "a=candidate:3 1 udp 2113937151 192.0.2.7 50000 typ host",
            "a=candidate:4 1 udp",
            "a=end-of-candidates",
        ]
    )
    prepared = prepare_offer(offer).splitlines()
    assert [line for line in prepared if "candidate" in line] == [
        "a=candidate:3 1 udp 2113937151 192.0.2.7 50000 typ host"
    ]
    assert "a=setup:active" in prepared
    flood = offer + "\r\na=candidate:3 1 udp 2113937151 192.0.2.7 50000 typ host" * 100
    with pytest.raises(OfferError, match="more than 64 candidates"):
        prepare_offer(flood)


def mutated(lines: list[str], rng: random.Random) -> str:
    lines = list(lines)
    for _ in range(rng.randint(1, 4)):
        at, what = rng.randrange(len(lines)), rng.random()
        line = lines[at]
        if what < 0.25:
            del lines[at]
        elif what < 0.5:
            lines.insert(at, rng.choice(lines))
        elif what < 0.75 and len(line) > 3:
            place = rng.randrange(2, len(line))
            lines[at] = line[:place] + chr(rng.randrange(33, 127)) + line[place + 1 :]
        else:
            lines[at] = line[: rng.randrange(len(line) + 1)]
    return "\r\n".join(lines) + "\r\n"


async def test_mutated_offers_are_answered_or_refused_and_leave_nothing(show: Show) -> None:
    client = Client()
    lines = (await client.offer()).splitlines()
    await client.connection.close()
    tasks = asyncio.all_tasks()
    rng = random.Random(5)
    outcomes = [await refused(mutated(lines, rng), show.broadcast) for _ in range(100)]
    assert sum(outcome is None for outcome in outcomes) > 20
    assert sum(outcome is not None for outcome in outcomes) > 20
    assert show.broadcast.num_viewers == 0
    assert await settles(lambda: asyncio.all_tasks() <= tasks)
    gc.collect()
    tracks = [each for each in gc.get_objects() if type(each) is PacketTrack]
    assert [track for track in tracks if track.readyState == "live"] == []


async def test_a_stopped_track_ends_its_reader(show: Show) -> None:
    track = PacketTrack(show.broadcast, "VP8")
    reading = asyncio.create_task(track.recv())
    await asyncio.sleep(0)
    track.stop()
    with pytest.raises(MediaStreamError):
        await reading
