"""Publishing: to a WHIP server of aiortc over real UDP, and to servers that fail in every way."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription

from streamer.delivery.fanout import Broadcast
from streamer.delivery.ice import IceServer
from streamer.delivery.webrtc import allow_loopback
from streamer.delivery.whip import LONGEST_WAIT_S, Publisher, check_url
from streamer.errors import ConfigError, PublishError
from tests.delivery.packets import HEIGHT, WIDTH, frame

URL = "https://sfu.example/whip/room?key=secret"


@pytest.fixture
async def broadcast() -> AsyncIterator[Broadcast]:
    allow_loopback()
    made = Broadcast(WIDTH, HEIGHT, 16, 400)
    showing = asyncio.create_task(_show(made))
    yield made
    showing.cancel()
    await asyncio.gather(showing, return_exceptions=True)
    await made.close()


async def _show(broadcast: Broadcast) -> None:
    number = 0
    while True:
        await broadcast.push(frame(number))
        number += 1
        await asyncio.sleep(1 / 16)


class Sfu(httpx.AsyncBaseTransport):
    """A WHIP server: answers POST with `reply`, or with a real answer; notes what it was sent."""

    def __init__(self, reply: Callable[[int], httpx.Response | None]) -> None:
        self.reply = reply
        self.requests: list[httpx.Request] = []
        self.peers: list[RTCPeerConnection] = []
        self.sizes: asyncio.Queue[tuple[int, int]] = asyncio.Queue()
        self._watching: list[asyncio.Task[None]] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        self.requests.append(request)
        if request.method == "DELETE":
            return httpx.Response(200)
        given = self.reply(len(self.requests))
        return given if given is not None else await self._accept(request)

    async def _accept(self, request: httpx.Request) -> httpx.Response:
        peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.peers.append(peer)
        peer.on(
            "track", lambda track: self._watching.append(asyncio.create_task(self._watch(track)))
        )
        offer = RTCSessionDescription(request.content.decode(), "offer")
        await peer.setRemoteDescription(offer)
        await peer.setLocalDescription(await peer.createAnswer())
        answer = peer.localDescription.sdp
        return httpx.Response(201, text=answer, headers={"Location": "/whip/session/1"})

    async def _watch(self, track: object) -> None:
        while True:
            shown = await track.recv()  # type: ignore[attr-defined]
            self.sizes.put_nowait((shown.width, shown.height))

    async def end(self) -> None:
        for task in self._watching:
            task.cancel()
        await asyncio.gather(*self._watching, return_exceptions=True)
        for peer in self.peers:
            await peer.close()


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not is_so():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_stream_is_published_and_the_session_is_ended(broadcast: Broadcast) -> None:
    sfu = Sfu(lambda count: None)
    publisher = Publisher(URL, broadcast, token="t0k", transport=sfu)
    publisher.begin()
    assert await asyncio.wait_for(sfu.sizes.get(), 30) == (WIDTH, HEIGHT)
    await until(lambda: publisher.state == "publishing")
    assert broadcast.codecs == ("H264",)
    await publisher.stop()
    assert publisher.told().state == "ended"
    post, delete = sfu.requests
    assert post.headers["content-type"] == "application/sdp"
    assert post.headers["authorization"] == delete.headers["authorization"] == "Bearer t0k"
    assert b"a=sendonly" in post.content
    assert str(delete.url) == "https://sfu.example/whip/session/1"
    await until(lambda: broadcast.num_viewers == 0)
    await sfu.end()


async def test_a_server_that_goes_away_is_published_to_again(broadcast: Broadcast) -> None:
    sfu = Sfu(lambda count: None)
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    publisher = Publisher(URL, broadcast, transport=sfu, sleep=sleep)
    publisher.begin()
    await until(lambda: publisher.state == "publishing")
    await sfu.peers[0].close()
    await until(lambda: len(sfu.peers) == 2)
    await until(lambda: publisher.state == "publishing")
    assert len(slept) == 1
    await publisher.stop()
    await sfu.end()


async def test_waiting_grows_to_a_limit_and_is_shown(broadcast: Broadcast) -> None:
    slept: list[float] = []
    enough = asyncio.Event()

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 8:
            enough.set()
            await asyncio.Event().wait()

    sfu = Sfu(lambda count: httpx.Response(503))
    publisher = Publisher(URL, broadcast, transport=sfu, sleep=sleep, spread=lambda: 0.5)
    publisher.begin()
    await asyncio.wait_for(enough.wait(), 30)
    assert slept == [1, 2, 4, 8, 16, LONGEST_WAIT_S, LONGEST_WAIT_S, LONGEST_WAIT_S]
    told = publisher.told()
    assert (told.state, told.attempts) == ("waiting", 8)
    assert told.retry_in_s == pytest.approx(LONGEST_WAIT_S, abs=1)
    assert "503" in told.detail
    assert "secret" not in told.detail + told.url
    await publisher.stop()
    assert broadcast.num_viewers == 0


@pytest.mark.parametrize("status", [401, 403, 406, 415])
async def test_a_server_that_will_never_take_it_is_asked_once(
    broadcast: Broadcast, status: int
) -> None:
    sfu = Sfu(lambda count: httpx.Response(status, text="no such key"))
    publisher = Publisher(URL, broadcast, transport=sfu)
    publisher.begin()
    await until(lambda: publisher.state == "refused")
    assert str(status) in publisher.detail
    assert "no such key" in publisher.detail
    await publisher.stop()
    assert (publisher.state, len(sfu.requests)) == ("ended", 1)


async def test_how_it_goes_is_told_from_the_first_attempt_to_the_end_of_a_refused_one(
    broadcast: Broadcast,
) -> None:
    told: list[str] = []
    publisher = Publisher(
        URL,
        broadcast,
        transport=Sfu(lambda count: httpx.Response(403)),
        on_changed=lambda: told.append(publisher.state),
    )
    publisher.begin()
    await until(lambda: publisher.state == "refused")
    await publisher.stop()
    await publisher.stop()
    assert told == ["connecting", "refused", "ended"]


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


async def in_the_clear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    await writer.drain()
    await reader.read()  # a connection closed before would be reset
    writer.close()


@pytest.mark.parametrize(
    ("serve", "host", "limit_s", "said"),
    [
        (in_the_clear, "127.0.0.1", 30, r"\(\[SSL.*\)"),
        (silent, "127.0.0.1", 0.3, r"\(no answer in time\); does a server run there\?"),
        (silent, "sfu.invalid", 30, r"\(Name or service not known\); does a server run there\?"),
    ],
)
async def test_why_a_server_cannot_be_reached_is_told_in_words(
    broadcast: Broadcast,
    monkeypatch: pytest.MonkeyPatch,
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any],
    host: str,
    limit_s: float,
    said: str,
) -> None:
    look_up = socket.getaddrinfo

    def look_up_here(name: Any, *given: Any, **named: Any) -> Any:
        if name in ("sfu.invalid", b"sfu.invalid"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return look_up(name, *given, **named)

    monkeypatch.setattr(socket, "getaddrinfo", look_up_here)
    monkeypatch.setattr("streamer.delivery.whip.ANSWER_LIMIT_S", limit_s)
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    place = f"{host}:{server.sockets[0].getsockname()[1]}"
    transport = httpx.AsyncHTTPTransport()
    publisher = Publisher(f"https://{place}/whip", broadcast, transport=transport)
    publisher.begin()
    await until(lambda: publisher.state == "waiting")
    assert re.fullmatch(re.escape(place) + " cannot be reached " + said, publisher.detail)
    await publisher.stop()
    server.close()


@pytest.mark.parametrize(
    "reply",
    [
        httpx.Response(201, text="v=0\r\nnonsense"),
        httpx.Response(201, content=b"x" * 200_000),
        httpx.Response(200, text="hello"),
        httpx.Response(307, headers={"Location": "/again"}),
    ],
)
async def test_a_strange_answer_is_told_and_tried_again(
    broadcast: Broadcast, reply: httpx.Response
) -> None:
    sfu = Sfu(lambda count: reply)
    publisher = Publisher(URL, broadcast, transport=sfu)
    publisher.begin()
    await until(lambda: publisher.state == "waiting")
    assert publisher.detail
    await publisher.stop()
    assert broadcast.num_viewers == 0


def nowhere(answer: str) -> str:
    """The answer of somebody who cannot be reached."""
    lines = answer.splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("a=candidate"))


def unwilling(answer: str) -> str:
    """An answer that takes no video."""
    return answer.replace("a=recvonly", "a=inactive")


@pytest.mark.parametrize("change", [nowhere, unwilling])
async def test_a_far_end_that_answers_and_takes_nothing_is_told_and_tried_again(
    broadcast: Broadcast, monkeypatch: pytest.MonkeyPatch, change: Callable[[str], str]
) -> None:
    monkeypatch.setattr("streamer.delivery.whip.CONNECT_LIMIT_S", 0.3)

    class Useless(Sfu):
        async def _accept(self, request: httpx.Request) -> httpx.Response:
            answer = await super()._accept(request)
            await self.peers[-1].close()
            return httpx.Response(201, text=change(answer.text), headers=answer.headers)

    sfu = Useless(lambda count: None)
    publisher = Publisher(URL, broadcast, transport=sfu)
    publisher.begin()
    await until(lambda: publisher.state == "waiting")
    assert publisher.detail
    assert publisher.told().retry_in_s is not None
    assert [request.method for request in sfu.requests] == ["POST", "DELETE"], "nothing is left"
    await publisher.stop()
    await until(lambda: broadcast.num_viewers == 0)
    await sfu.end()


async def test_a_redirect_is_followed(broadcast: Broadcast) -> None:
    moved = httpx.Response(307, headers={"Location": "https://other.example/whip"})
    sfu = Sfu(lambda count: moved if count == 1 else None)
    publisher = Publisher(URL, broadcast, transport=sfu)
    publisher.begin()
    await until(lambda: publisher.state == "publishing")
    assert [request.url.host for request in sfu.requests] == ["sfu.example", "other.example"]
    await publisher.stop()
    await sfu.end()


@pytest.mark.parametrize("url", ["", "whip", "ftp://x/y", "https://", "http://[::1"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(PublishError, match="no address to publish to"):
        check_url(url)


@pytest.mark.parametrize(
    ("text", "url", "username", "credential"),
    [
        ("stun:stun.example", "stun:stun.example", None, None),
        ("turn:ada:s%3Acret@t.example:3478", "turn:t.example:3478", "ada", "s:cret"),
        (
            "turns:a:b@[2001:db8::1]:443?transport=tcp",
            "turns:[2001:db8::1]:443?transport=tcp",
            "a",
            "b",
        ),
    ],
)
def test_ice_servers_are_read(
    text: str, url: str, username: str | None, credential: str | None
) -> None:
    server = IceServer.parse(text)
    assert (server.url, server.username, server.credential) == (url, username, credential)
    assert "s:cret" not in repr(server)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stun.example", "cannot be read"),
        ("turn:t.example", "needs credentials"),
        ("turn:ada@t.example", "needs credentials"),
        ("stun:a:b@s.example", "neither credentials"),
        ("stun:s.example:99999", "99999"),
        ("turn:ada:secret@no host", "cannot be read"),
    ],
)
def test_what_is_no_ice_server_is_said_without_its_password(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        IceServer.parse(text)
    assert "secret" not in str(caught.value)
