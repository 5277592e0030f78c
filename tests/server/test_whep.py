"""WHEP as a player sees it: aiortc over real UDP, and everything that may be sent wrongly."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription

from streamer.delivery.webrtc import allow_loopback

Serve = Any
SDP = {"Content-Type": "application/sdp"}
FRAGMENT = {"Content-Type": "application/trickle-ice-sdpfrag"}


class Player:
    def __init__(self) -> None:
        allow_loopback()
        self.connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.connection.addTransceiver("video", direction="recvonly")

    async def offer(self) -> str:
        await self.connection.setLocalDescription(await self.connection.createOffer())
        return str(self.connection.localDescription.sdp)

    async def take(self, answer: str) -> None:
        await self.connection.setRemoteDescription(RTCSessionDescription(answer, "answer"))


@pytest.fixture
async def player() -> AsyncIterator[Player]:
    made = Player()
    yield made
    await made.connection.close()


async def started(served: Any) -> dict[str, Any]:
    made = await served.http.post("/api/streams", json={"prompt": "snow"})
    return made.json()  # type: ignore[no-any-return]


async def test_a_player_watches_and_leaves(serve: Serve, player: Player) -> None:
    served = await serve()
    stream = await started(served)
    url = f"/whep/{stream['id']}"
    options = await served.http.options(url)
    assert (options.status_code, options.headers["accept-post"]) == (204, "application/sdp")
    answer = await served.http.post(url, content=await player.offer(), headers=SDP)
    assert answer.status_code == 201
    assert answer.headers["content-type"] == "application/sdp"
    await player.take(answer.text)
    frame = await player.connection.getReceivers()[0].track.recv()
    assert (frame.width, frame.height) == (64, 64)
    await served.until(viewers=1)
    session = answer.headers["location"]
    assert (await served.http.delete(session)).status_code == 200
    await served.until(viewers=0)
    assert (await served.http.delete(session)).status_code == 404


async def test_candidates_may_come_later_and_only_with_the_right_etag(
    serve: Serve, player: Player
) -> None:
    served = await serve()
    stream = await started(served)
    whole = await player.offer()
    candidates = [line for line in whole.splitlines() if line.startswith("a=candidate")]
    offer = "\r\n".join(line for line in whole.splitlines() if line not in candidates) + "\r\n"
    answer = await served.http.post(f"/whep/{stream['id']}", content=offer, headers=SDP)
    session, etag = answer.headers["location"], answer.headers["etag"]
    fragment = "\r\n".join(["a=mid:0", *candidates, "a=candidate:9 1 udp 1 x.local 9 typ host"])

    async def patch(content: str, **headers: str) -> httpx.Response:
        found: httpx.Response = await served.http.patch(session, content=content, headers=headers)
        return found

    assert (await patch(fragment, **FRAGMENT)).status_code == 428
    foreign = await patch(fragment, **FRAGMENT, **{"If-Match": '"other"'})
    assert foreign.status_code == 412
    assert (await patch(fragment, **SDP, **{"If-Match": etag})).status_code == 415
    restart = await patch("a=ice-ufrag:zzzz\r\n", **FRAGMENT, **{"If-Match": etag})
    assert (restart.status_code, restart.json()["code"]) == (400, "offer_invalid")
    damaged = await patch("a=candidate:1 1 udp x 127.0.0.1 y typ", **FRAGMENT, **{"If-Match": etag})
    assert damaged.status_code == 400
    assert (await patch(fragment, **FRAGMENT, **{"If-Match": etag})).status_code == 204
    await player.take(answer.text)
    await player.connection.getReceivers()[0].track.recv()


@pytest.mark.parametrize(
    ("content", "headers", "status", "code"),
    [
        (b"v=0", {"Content-Type": "application/json"}, 415, "media_type"),
        (b"v=0", {}, 415, "media_type"),
        (b"v=0", SDP, 400, "offer_invalid"),
        (b"\xff\xfe", SDP, 400, "offer_invalid"),
        (b"x" * 70_000, SDP, 413, "too_large"),
        (b"v=0", {**SDP, "Authorization": "Bearer guess"}, 403, "not_director"),
        (b"v=0", {**SDP, "Authorization": "Basic eDp5"}, 403, "not_director"),
    ],
)
async def test_what_is_wrong_is_said_and_the_stream_plays_on(
    serve: Serve, content: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    served = await serve()
    stream = await started(served)
    answer = await served.http.post(f"/whep/{stream['id']}", content=content, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.json()["message"]
    assert (await served.health())["viewers"] == 0
    assert (await served.until_state(stream["id"], "playing"))["prompt"]["text"] == "snow"


async def test_no_common_codec_is_406_and_no_stream_404(serve: Serve, player: Player) -> None:
    served = await serve()
    stream = await started(served)
    offer = (await player.offer()).replace("VP8/", "VP9/").replace("H264/", "AV1/")
    refused = await served.http.post(f"/whep/{stream['id']}", content=offer, headers=SDP)
    assert (refused.status_code, refused.json()["code"]) == (406, "codec_unsupported")
    gone = await served.http.post("/whep/s-none", content="v=0", headers=SDP)
    assert (gone.status_code, gone.json()["code"]) == (404, "stream_unknown")


async def test_ice_servers_are_told_with_their_credentials(serve: Serve) -> None:
    served = await serve(ice_servers=["stun:stun.example:3478", "turn:ada:s%40cret@turn.example"])
    link = (await served.http.options("/whep/any")).headers["link"]
    assert '<stun:stun.example:3478>; rel="ice-server"' in link
    assert '<turn:turn.example>; rel="ice-server"; username="ada"; credential="s@cret"' in link
    talk = await served.talk()
    told = (await talk.greet())["ice_servers"]
    assert told[1] == {"urls": "turn:turn.example", "username": "ada", "credential": "s@cret"}


async def test_the_end_of_a_stream_ends_its_players(serve: Serve, player: Player) -> None:
    served = await serve()
    stream = await started(served)
    url = f"/whep/{stream['id']}"
    answer = await served.http.post(url, content=await player.offer(), headers=SDP)
    await player.take(answer.text)
    await player.connection.getReceivers()[0].track.recv()
    headers = {"Authorization": f"Bearer {stream['token']}"}
    await served.http.delete(f"/api/streams/{stream['id']}", headers=headers)
    assert (await served.http.delete(answer.headers["location"])).status_code in (200, 404)
    await served.until(viewers=0, streams=0)
