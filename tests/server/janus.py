"""Janus, an SFU that nobody here wrote, with a WHIP door in front of one of its video rooms.

Janus speaks a JSON API of its own.  The door turns a WHIP POST into "join the room as a publisher
with this offer", and DELETE into "leave", as the WHIP servers that people put before Janus do.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from string import Template
from typing import Any

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from streamer.server.run import address_of, bind

ROOM = 1234
STARTED_WITHIN_S = 20.0
ANSWERED_WITHIN_S = 20.0
SECRET = "for the tests"

_CONFIGS = {
    "janus.jcfg": """
        general: { admin_secret = "$secret", transports_folder = "$folder/transports",
                   plugins_folder = "$folder/plugins" }
        """,
    "janus.transport.http.jcfg": """
        general: { json = "compact", http = true, port = $port, ip = "127.0.0.1" }
        admin: { admin_http = true, admin_port = $admin_port, admin_ip = "127.0.0.1" }
        """,
    "janus.plugin.videoroom.jcfg": "general: { }",
}
_LIBRARIES = (("plugins", "libjanus_videoroom.so"), ("transports", "libjanus_http.so"))


def has_janus() -> bool:
    """Whether it is installed."""
    return shutil.which("janus") is not None


def _found(kind: str, library: str) -> Path:
    """A part of Janus, wherever this kind of processor has it."""
    return next(Path("/usr/lib").glob(f"*/janus/{kind}/{library}"))


class Janus:
    """A client of one Janus: its session, what it answers, what it tells by itself."""

    def __init__(self, url: str, admin_url: str) -> None:
        self._http = httpx.AsyncClient(trust_env=False, timeout=40)
        self._url, self._admin_url = f"{url}/janus", f"{admin_url}/admin"
        self._numbers = itertools.count(1)
        self._waiting: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._listening: asyncio.Task[None] | None = None
        self.session = 0
        self.publishers: dict[int, int] = {}
        """Who publishes: the number in the room, by handle; gone ones too, oldest first."""

    async def open(self, codec: str) -> None:
        """Begin a session with a room in it, which takes video of one codec."""
        await self._until_accepting()
        self.session = (await self._post(self._url, "create"))["data"]["id"]
        self._listening = asyncio.create_task(self._listen())
        made = await self.request(
            await self.attach(),
            request="create",
            room=ROOM,
            publishers=4,
            videocodec=codec.lower(),
        )
        assert made["videoroom"] == "created", made

    async def close(self) -> None:
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.gather(self._listening, return_exceptions=True)
        await self._http.aclose()

    async def attach(self) -> int:
        """A new handle of the video room's plugin."""
        told = await self._post(
            f"{self._url}/{self.session}", "attach", plugin="janus.plugin.videoroom"
        )
        return int(told["data"]["id"])

    async def detach(self, handle: int) -> None:
        await self._post(f"{self._url}/{self.session}/{handle}", "detach")

    async def request(
        self, handle: int, *, jsep: dict[str, str] | None = None, **body: Any
    ) -> dict[str, Any]:
        """What the plugin answers; `jsep`, when it answers with a description too."""
        extra = {} if jsep is None else {"jsep": jsep}
        url = f"{self._url}/{self.session}/{handle}"
        told = await self._post(url, "message", body=body, **extra)
        if told["janus"] == "ack":
            waiting = self._waiting.setdefault(told["transaction"], _future())
            told = await asyncio.wait_for(waiting, ANSWERED_WITHIN_S)
            del self._waiting[told["transaction"]]
        answer: dict[str, Any] = told["plugindata"]["data"]
        assert "error" not in answer, answer
        return answer | ({"jsep": told["jsep"]} if "jsep" in told else {})

    async def publish(self, offer: str) -> tuple[int, str]:
        """Join the room as a publisher.  Returns the handle and the answer."""
        handle = await self.attach()
        told = await self.request(
            handle,
            request="joinandconfigure",
            ptype="publisher",
            room=ROOM,
            jsep={"type": "offer", "sdp": offer},
        )
        self.publishers[handle] = told["id"]
        return handle, told["jsep"]["sdp"]

    async def subscribe(self, publisher: int) -> tuple[int, str]:
        """Ask to watch who has that number in the room.  Returns the handle and Janus' offer."""
        handle = await self.attach()
        told = await self.request(
            handle, request="join", ptype="subscriber", room=ROOM, streams=[{"feed": publisher}]
        )
        return handle, told["jsep"]["sdp"]

    async def start(self, subscriber: int, answer: str) -> None:
        """Take a watcher's answer."""
        await self.request(subscriber, request="start", jsep={"type": "answer", "sdp": answer})

    async def kick(self, publisher: int) -> None:
        """Throw a publisher out of the room."""
        await self.request(await self.attach(), request="kick", room=ROOM, id=publisher)

    async def video_in(self, handle: int) -> dict[str, Any]:
        """What Janus says of the video that comes in through a handle."""
        url = f"{self._admin_url}/{self.session}/{handle}"
        told = await self._post(url, "handle_info", admin_secret=SECRET)
        media = told["info"]["webrtc"]["media"]
        (video,) = [each for each in media.values() if each["type"] == "video"]
        return video  # type: ignore[no-any-return]

    async def participants(self) -> list[int]:
        """The numbers of those who publish in the room."""
        told = await self.request(await self.attach(), request="listparticipants", room=ROOM)
        return [each["id"] for each in told["participants"] if each["publisher"]]

    async def _post(self, url: str, kind: str, **fields: Any) -> dict[str, Any]:
        message = {"janus": kind, "transaction": str(next(self._numbers)), **fields}
        told: dict[str, Any] = (await self._http.post(url, json=message)).json()
        assert told["janus"] != "error", (kind, told["error"])
        return told

    async def _until_accepting(self) -> None:
        """Its port is open before it is ready."""
        async with asyncio.timeout(STARTED_WITHIN_S):
            while True:
                with suppress(httpx.HTTPError):
                    told = (await self._http.get(f"{self._url}/info")).json()
                    if told.get("accepting-new-sessions"):
                        return
                await asyncio.sleep(0.05)

    async def _listen(self) -> None:
        """Janus tells by long polls, which also keep the session alive."""
        while True:
            events = (await self._http.get(f"{self._url}/{self.session}?maxev=10")).json()
            for event in events if isinstance(events, list) else [events]:
                # Without a transaction it is not about a request: somebody joined, media flows.
                if event["janus"] == "event" and "transaction" in event:
                    waiting = self._waiting.setdefault(event["transaction"], _future())
                    if not waiting.done():
                        waiting.set_result(event)


def _future() -> asyncio.Future[dict[str, Any]]:
    return asyncio.get_running_loop().create_future()


def whip_door(janus: Janus) -> Starlette:
    """RFC 9725 in front of the room: POST /whip publishes, DELETE ends it."""

    async def publish(request: Request) -> Response:
        if request.headers.get("content-type") != "application/sdp":
            return Response("send application/sdp", 415)
        handle, answer = await janus.publish((await request.body()).decode())
        location = {"Location": f"/whip/{handle}"}
        return Response(answer, 201, location, media_type="application/sdp")

    async def end(request: Request) -> Response:
        with suppress(AssertionError):  # it is gone already
            await janus.detach(request.path_params["handle"])
        return Response(status_code=200)

    return Starlette(
        routes=[
            Route("/whip", publish, methods=["POST"]),
            Route("/whip/{handle:int}", end, methods=["DELETE"]),
        ]
    )


@asynccontextmanager
async def running_janus(folder: Path, codec: str) -> AsyncIterator[tuple[Janus, str]]:
    """A Janus of its own with a room, and the address that a publisher takes for WHIP."""
    port, admin_port = _free_port(), _free_port()
    values = {"port": port, "admin_port": admin_port, "secret": SECRET, "folder": folder}
    for name, text in _CONFIGS.items():
        (folder / name).write_text(Template(text).substitute(values))
    # Alone the two that are needed: it starts sooner, and opens no other port.
    for kind, library in _LIBRARIES:
        (folder / kind).mkdir()
        (folder / kind / library).symlink_to(_found(kind, library))
    log = folder / "janus.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *("janus", "--configs-folder", str(folder), "--disable-colors"),
            env={**os.environ, "HOME": str(folder)},
            stdout=output,
            stderr=output,
        )
    janus = Janus(f"http://127.0.0.1:{port}", f"http://127.0.0.1:{admin_port}")
    try:
        try:
            await janus.open(codec)
        except Exception as error:
            said = log.read_text(errors="replace")[-2000:]
            raise AssertionError(f"{error!r}; Janus said:\n{said}") from error
        async with _serving(whip_door(janus)) as url:
            yield janus, f"{url}whip"
    finally:
        await janus.close()
        if process.returncode is None:
            process.kill()  # it has nothing to save, and sees its threads off slowly
        await process.wait()


@asynccontextmanager
async def _serving(app: Starlette) -> AsyncIterator[str]:
    listening = bind("127.0.0.1", 0)
    server = uvicorn.Server(
        uvicorn.Config(app, log_config=None, lifespan="off", timeout_graceful_shutdown=1)
    )
    task = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        yield address_of(listening)
    finally:
        server.should_exit = True
        await task
        listening.close()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])
