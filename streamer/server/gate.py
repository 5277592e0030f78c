"""The outermost layer of the application: who is let in, how much they may send, what goes out."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from streamer.server.access import Guard

log = logging.getLogger(__name__)

HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": (
        "default-src 'self'; connect-src 'self' ws: wss:; media-src 'self' blob: mediastream:; "
        "img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; form-action 'self'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Sent with every answer.  Framing is allowed: OBS and dashboards embed the page."""

CLOSE_REFUSED = 1008


class Gate:
    """ASGI middleware: checks Host and Origin, bounds request bodies, adds the headers above."""

    def __init__(
        self,
        app: ASGIApp,
        guard: Guard,
        body_limit: int,
        larger: Mapping[str, int] | None = None,
    ) -> None:
        """body_limit: the largest request body, in bytes; larger: that of some paths."""
        self._app = app
        self._guard = guard
        self._body_limit = body_limit
        self._larger = larger or {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refusal = self._guard.refusal(
            scope["scheme"], headers.get("host", ""), headers.get("origin")
        )
        if refusal is not None:
            log.warning("refused path=%s reason=%s", scope["path"], refusal)
        if scope["type"] == "websocket":
            await (self._refuse(receive, send) if refusal else self._app(scope, receive, send))
            return
        adding = _adding_headers(send)
        if refusal is not None:
            answer = JSONResponse({"code": "refused", "message": refusal}, 403)
            await answer(scope, receive, adding)
        else:
            await self._app(scope, self._bounded(receive, scope["path"]), adding)

    async def _refuse(self, receive: Receive, send: Send) -> None:
        # Accepted first: a browser tells the page nothing about a handshake that was refused.
        await receive()
        await send({"type": "websocket.accept"})
        await send(
            {"type": "websocket.close", "code": CLOSE_REFUSED, "reason": "this page is not allowed"}
        )

    def _bounded(self, receive: Receive, path: str) -> Receive:
        taken, limit = 0, self._larger.get(path, self._body_limit)

        async def receive_bounded() -> Message:
            nonlocal taken
            event = await receive()
            taken += len(event.get("body", b""))
            if taken > limit:
                raise HTTPException(413, f"the body is larger than {limit} bytes")
            return event

        return receive_bounded


def _adding_headers(send: Send) -> Send:
    async def send_with_headers(event: Message) -> None:
        if event["type"] == "http.response.start":
            headers = MutableHeaders(scope=event)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
        await send(event)

    return send_with_headers
