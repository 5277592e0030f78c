"""Publish a stream to a WHIP server, and keep it published (RFC 9725).

The publisher is a viewer like others: it takes the packets of the encoder that works anyway.  When
the far end fails it tries again, waiting longer each time; what it waits for can be asked.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urljoin, urlsplit

import httpx
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription

from streamer.delivery.encoder import CODECS, Codec
from streamer.delivery.fanout import Broadcast, PacketTrack
from streamer.delivery.ice import IceServer
from streamer.delivery.webrtc import allow_loopback, codec_preferences, route_feedback
from streamer.errors import PublishError

log = logging.getLogger(__name__)

State = Literal["connecting", "publishing", "waiting", "refused", "ended"]

FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 30.0
CONNECT_LIMIT_S = 15.0
"""The media must flow so soon after the answer."""

ANSWER_LIMIT_S = 10.0
STEADY_S = 30.0
"""Published for so long, the next failure is waited for as little as the first."""

_FINAL = frozenset({400, 401, 403, 405, 406, 410, 415, 422})
_REDIRECTS = 5
_ANSWER_BYTES = 100_000


@dataclass(frozen=True)
class PublishState:
    """How publishing goes.  retry_in_s: None unless waiting.  attempts: since it last worked."""

    url: str
    state: State
    detail: str
    attempts: int
    retry_in_s: float | None


class Publisher:
    """Sends one stream to one WHIP address until `stop`.

    Owner: the server's Publishing, on the event loop.  token: sent as `Bearer`.
    on_changed: called when the state changes.  Raises PublishError for what is no address.
    """

    def __init__(
        self,
        url: str,
        broadcast: Broadcast,
        *,
        token: str | None = None,
        ice_servers: Sequence[IceServer] = (),
        codecs: Sequence[Codec] = CODECS,
        on_changed: Callable[[], None] = lambda: None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        spread: Callable[[], float] = random.random,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        check_url(url)
        self.url = url
        self.state: State = "connecting"
        self.detail = ""
        self.attempts = 0
        self._broadcast = broadcast
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._ice_servers = list(ice_servers)
        self._codecs = list(codecs)
        self._on_changed, self._sleep, self._spread = on_changed, sleep, spread
        self._transport = transport
        self._told: tuple[State, str] | None = None
        self._retry_at: float | None = None
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Start to publish."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="publish")

    async def stop(self) -> None:
        """End the session at the far end too.  Idempotent."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._set("ended", "")

    def told(self) -> PublishState:
        """How it goes, for people."""
        retry_in_s = None
        if self._retry_at is not None:
            retry_in_s = round(max(0.0, self._retry_at - asyncio.get_running_loop().time()), 1)
        return PublishState(shown_url(self.url), self.state, self.detail, self.attempts, retry_in_s)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self.attempts += 1
            self._set("connecting", "")
            began_s = loop.time()
            try:
                reason = await self._publish()
            except PublishError as error:
                log.error("publishing refused url=%s reason=%s", shown_url(self.url), error)
                self._set("refused", str(error))
                return
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                reason = _unreachable(self.url, _root(error))
            except (httpx.HTTPError, OSError, TimeoutError, _RetryError) as error:
                reason = str(error) or type(error).__name__
            if loop.time() - began_s > STEADY_S:
                self.attempts = 1
            wait_s = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** (self.attempts - 1))
            wait_s *= 0.75 + 0.5 * self._spread()
            self._retry_at = loop.time() + wait_s
            log.warning(
                "publishing failed url=%s reason=%s retry_in_s=%.1f",
                shown_url(self.url),
                reason,
                wait_s,
            )
            self._set("waiting", reason)
            await self._sleep(wait_s)
            self._retry_at = None

    async def _publish(self) -> str:
        """Publish until the far end is gone; returns why it ended."""
        allow_loopback(always=False)
        servers = [server.for_aiortc() for server in self._ice_servers]
        connection = RTCPeerConnection(RTCConfiguration(iceServers=servers))
        dropped = asyncio.Event()
        track = PacketTrack(self._broadcast, on_dropped=dropped.set)
        session: str | None = None
        async with httpx.AsyncClient(
            timeout=ANSWER_LIMIT_S, headers=self._headers, transport=self._transport
        ) as http:
            try:
                transceiver = connection.addTransceiver(track, direction="sendonly")
                transceiver.setCodecPreferences(codec_preferences(self._codecs))
                await connection.setLocalDescription(await connection.createOffer())
                session, answer = await self._exchange(http, connection.localDescription.sdp)
                try:
                    await connection.setRemoteDescription(RTCSessionDescription(answer, "answer"))
                except Exception as error:  # its parser raises nearly everything
                    raise _RetryError(f"the answer cannot be read: {error}") from error
                track.codec = _agreed(transceiver._codecs, self._codecs)
                route_feedback(transceiver.sender, track.subscription)
                return await self._until_ended(connection, dropped)
            finally:
                track.stop()
                await connection.close()
                if session is not None:
                    await _delete(http, session)

    async def _exchange(self, http: httpx.AsyncClient, offer: str) -> tuple[str | None, str]:
        """POST the offer, follow redirects (section 4.5).  Returns session address and answer."""
        url = self.url
        for _ in range(_REDIRECTS):
            response = await http.post(
                url, content=offer, headers={"Content-Type": "application/sdp"}
            )
            if response.status_code not in (307, 308):
                break
            url = urljoin(url, response.headers.get("location", ""))
        status = response.status_code
        if status in _FINAL:
            raise PublishError(
                f"{shown_url(url)} answered {status} {response.reason_phrase}: "
                f"{response.text[:200].strip() or 'no reason given'}"
            )
        if status != 201:
            raise _RetryError(f"{shown_url(url)} answered {status}, not 201 with an answer")
        if len(response.content) > _ANSWER_BYTES:
            raise _RetryError("the answer is larger than any session description")
        location = response.headers.get("location")
        return (urljoin(url, location) if location else None), response.text

    async def _until_ended(self, connection: RTCPeerConnection, dropped: asyncio.Event) -> str:
        changed = asyncio.Event()
        connection.on("connectionstatechange", changed.set)
        deadline = asyncio.get_running_loop().time() + CONNECT_LIMIT_S
        while True:
            state = connection.connectionState
            if state == "connected" and self.state != "publishing":
                self._set("publishing", "")
            if state in ("failed", "closed"):
                return f"the connection {'was closed' if state == 'closed' else 'failed'}"
            changed.clear()
            left_s = deadline - asyncio.get_running_loop().time()
            waiting = [
                asyncio.ensure_future(changed.wait()),
                asyncio.ensure_future(dropped.wait()),
            ]
            try:
                await asyncio.wait(
                    waiting,
                    timeout=None if self.state == "publishing" else max(0.0, left_s),
                    return_when=asyncio.FIRST_COMPLETED,
                )
            finally:
                for each in waiting:
                    each.cancel()
                await asyncio.gather(*waiting, return_exceptions=True)
            if dropped.is_set():
                return "the far end did not keep up"
            is_late = self.state != "publishing" and asyncio.get_running_loop().time() >= deadline
            if is_late and connection.connectionState != "connected":
                return f"no connection within {CONNECT_LIMIT_S:g} s"

    def _set(self, state: State, detail: str) -> None:
        if (state, detail) != self._told:
            self.state, self.detail = self._told = state, detail
            self._on_changed()


class _RetryError(Exception):
    """Something that may work the next time."""


def check_url(url: str) -> None:
    """Raise PublishError for what is no HTTP address."""
    try:
        parts = urlsplit(url)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        is_address = False
    if not is_address:
        raise PublishError(f"{url[:200]!r} is no address to publish to; write https://host/path")


def shown_url(url: str) -> str:
    """An address without what may be secret in it: user, password, query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}{parts.path}"


def _agreed(negotiated: Sequence[object], codecs: Sequence[Codec]) -> Codec:
    """The codec the far end chose.  Raises PublishError when it is none of ours."""
    first = next((str(getattr(each, "name", "")).upper() for each in negotiated), "")
    for codec in codecs:
        if codec == first:
            return codec
    raise PublishError(f"the far end takes none of {', '.join(codecs)}")


def _root(error: BaseException) -> BaseException:
    """What happened first; httpx tells only that it failed."""
    while isinstance(following := error.__cause__ or error.__context__, Exception):
        error = following
    return error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error


def _unreachable(url: str, cause: BaseException) -> str:
    """Why nothing could be sent to an address, and what to look at."""
    place = urlsplit(url).netloc.rpartition("@")[2]
    if isinstance(cause, ssl.SSLError):  # somebody is there; its errno is none of the system's
        return f"{place} cannot be reached ({cause})"
    if isinstance(cause, TimeoutError) and cause.errno is None:
        told = "no answer in time"
    elif isinstance(cause, socket.gaierror):
        told = cause.strerror or str(cause)
    elif isinstance(cause, OSError) and cause.errno is not None and cause.errno > 0:
        told = os.strerror(cause.errno)  # asyncio has another text, with the address in it
    else:
        told = str(cause) or type(cause).__name__
    return f"{place} cannot be reached ({told}); does a server run there?"


async def _delete(http: httpx.AsyncClient, session: str) -> None:
    try:
        await http.delete(session)
    except httpx.HTTPError as error:
        log.info("session not ended at the far end reason=%s", error)
