"""A real server in this event loop, and a client that speaks the protocol."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import pytest
import uvicorn
from websockets.asyncio.client import ClientConnection, connect

from streamer.config import Config
from streamer.server.app import create_app
from streamer.server.run import address_of, bind
from tests.fakes import FakeEngine, pattern_config

WAIT_S = 30.0


class Talk:
    """One WebSocket: `say` sends, `hear` returns the next message of a type."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    async def say(self, kind: str, **fields: Any) -> None:
        await self.socket.send(json.dumps({"type": kind, **fields}))

    async def hear(self, kind: str, **fields: Any) -> dict[str, Any]:
        """The next message of that type with these fields; others are passed over."""
        async with asyncio.timeout(WAIT_S):
            while True:
                message: dict[str, Any] = json.loads(await self.socket.recv())
                if message["type"] == "error" and kind != "error":
                    raise AssertionError(message)
                if message["type"] == kind and fields.items() <= message.items():
                    return message

    async def greet(self, **fields: Any) -> dict[str, Any]:
        await self.say("hello", version=1, **fields)
        return await self.hear("welcome")

    async def start(self, text: str = "a red balloon", **fields: Any) -> dict[str, Any]:
        await self.say("start", prompt={"id": "p1", "text": text}, **fields)
        return await self.hear("stream")

    async def refusal(self) -> tuple[str, str | None]:
        """Code and subject of the next error."""
        error = await self.hear("error")
        assert error["message"]
        return error["code"], error["about"]

    async def close_code(self) -> int:
        """The code the server closes with."""
        async with asyncio.timeout(WAIT_S):
            await self.socket.wait_closed()
        assert self.socket.close_code is not None
        return self.socket.close_code


class Served:
    """A running server."""

    def __init__(self, url: str, engine: Any, exits: AsyncExitStack) -> None:
        self.url = url
        self.engine = engine
        self._exits = exits
        self.http = httpx.AsyncClient(base_url=url, timeout=WAIT_S, trust_env=False, verify=False)

    async def talk(self, **options: Any) -> Talk:
        address = self.url.replace("http", "ws") + "ws"
        options = {"proxy": None, **options}
        return Talk(await self._exits.enter_async_context(connect(address, **options)))

    async def health(self) -> dict[str, Any]:
        return (await self.http.get("/healthz")).json()  # type: ignore[no-any-return]

    async def until(self, **wanted: Any) -> None:
        """Return when `/healthz` says so."""
        async with asyncio.timeout(WAIT_S):
            while not wanted.items() <= (await self.health()).items():  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    async def until_state(self, stream_id: str, state: str) -> dict[str, Any]:
        """The stream as HTTP shows it, once it is in that state."""
        async with asyncio.timeout(WAIT_S):
            while True:
                seen = (await self.http.get(f"/api/streams/{stream_id}")).json()
                if seen["state"] == state:
                    return seen  # type: ignore[no-any-return]
                await asyncio.sleep(0.01)


Serve = Callable[..., Awaitable[Served]]


@asynccontextmanager
async def running(config: Config, engine: Any) -> AsyncIterator[Served]:
    listening = bind("127.0.0.1", 0)
    app = create_app(config, engine)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            log_config=None,
            ws_max_size=config.server.message_bytes,
            timeout_graceful_shutdown=1,
        )
    )
    task = asyncio.ensure_future(server.serve(sockets=[listening]))
    async with AsyncExitStack() as exits:
        served = Served(address_of(listening), engine, exits)
        try:
            yield served
        finally:
            await exits.aclose()
            await served.http.aclose()
            server.should_exit = True
            await asyncio.wait_for(task, WAIT_S)
            listening.close()


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Start a server: `served = await serve(engine, max_streams=1)`."""
    async with AsyncExitStack() as servers:

        async def start(engine: Any = None, config: Config | None = None, **server: Any) -> Served:
            chosen = config or pattern_config(**server)
            engine = engine or FakeEngine(block_s=0.02)
            return await servers.enter_async_context(running(chosen, engine))

        yield start
