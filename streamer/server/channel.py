"""The two ways of one control WebSocket: text in, with patience; messages out, in order, bounded.

What is said is none of its business: see `session` for that.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from streamer.errors import MessageError
from streamer.server.protocol import Message, encode

log = logging.getLogger(__name__)

OUTBOX_LIMIT = 256
"""Messages a client may lag behind before its connection is closed."""

FLUSH_S = 1.0
"""How long the last messages may take to leave when a connection ends."""

CLOSE_GONE = 1001


@dataclass(frozen=True)
class _Farewell:
    """The last thing sent: how the connection is closed."""

    code: int
    reason: str


class Channel:
    """One WebSocket.  Owner: Session; from `open` to `finish`.

    on_sent: awaited after each message that has left.
    """

    def __init__(self, socket: WebSocket, on_sent: Callable[[Message], Awaitable[None]]) -> None:
        self._socket = socket
        self._on_sent = on_sent
        self._outbox: asyncio.Queue[Message | _Farewell] = asyncio.Queue(OUTBOX_LIMIT)
        self._closing = asyncio.Event()
        self._has_farewell = False
        self._sender: asyncio.Task[None] | None = None

    @property
    def is_closing(self) -> bool:
        """Whether nothing more is read, nor told."""
        return self._closing.is_set()

    async def open(self) -> None:
        """Accept the connection, and send what is told from now on."""
        await self._socket.accept()
        self._sender = asyncio.ensure_future(self._send_all())

    def tell(self, message: Message) -> None:
        """Send a message soon.  A client that does not keep up is closed."""
        if self.is_closing:
            return
        try:
            self._outbox.put_nowait(message)
        except asyncio.QueueFull:
            log.warning("client too slow queued=%d", OUTBOX_LIMIT)
            while not self._outbox.empty():
                self._outbox.get_nowait()
            self.close(CLOSE_GONE, "too slow")

    async def hear(self, patience_s: float) -> str | None:
        """The next text; None when none came in time or this side closes.

        Raises WebSocketDisconnect when the client is gone, MessageError for binary.
        """
        receiving = asyncio.ensure_future(self._socket.receive())
        closing = asyncio.ensure_future(self._closing.wait())
        try:
            await asyncio.wait(
                (receiving, closing),
                timeout=max(0.0, patience_s),
                return_when=asyncio.FIRST_COMPLETED,
            )
            return _text_of(receiving.result()) if receiving.done() else None
        finally:
            receiving.cancel()
            closing.cancel()
            await asyncio.gather(receiving, closing, return_exceptions=True)

    def close(self, code: int, reason: str) -> None:
        """Close once what was told before has left."""
        if self._outbox.full():
            self._outbox.get_nowait()
        self._outbox.put_nowait(_Farewell(code, reason))
        self._has_farewell = True
        self._closing.set()

    def stop(self) -> None:
        """Read and take nothing more; the client is gone, or soon will be."""
        self._closing.set()

    async def finish(self) -> None:
        """Let a farewell leave, then send no more."""
        self.stop()
        if self._sender is None:
            return
        await asyncio.wait((self._sender,), timeout=FLUSH_S if self._has_farewell else 0)
        self._sender.cancel()
        await asyncio.gather(self._sender, return_exceptions=True)

    async def _send_all(self) -> None:
        """Send what is told, in order, until the farewell or until the client is gone."""
        while True:
            item = await self._outbox.get()
            try:
                if isinstance(item, _Farewell):
                    await self._socket.close(item.code, item.reason)
                    return
                await self._socket.send_text(encode(item))
                await self._on_sent(item)
            except (WebSocketDisconnect, RuntimeError):
                # Starlette raises RuntimeError for a socket that is closed already.
                self.stop()
                return


def _text_of(event: Any) -> str:
    """The text of an ASGI event.  Raises WebSocketDisconnect, or MessageError for binary."""
    if event["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(event.get("code", 1006))
    text = event.get("text")
    if not isinstance(text, str):
        raise MessageError("messages are JSON text, not binary")
    return text
