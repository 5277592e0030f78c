"""WHEP: any player that speaks it watches a stream (draft-ietf-wish-whep, with RFC 9725's rules).

`POST /whep/{stream}` with an offer answers with the SDP and the session's address; `PATCH` there
brings further ICE candidates, `DELETE` ends it.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import Annotated

from fastapi import APIRouter, Header, Request
from starlette.responses import Response

from streamer.config import Config
from streamer.delivery.ice import IceServer
from streamer.delivery.webrtc import Viewer
from streamer.errors import (
    ConditionError,
    MediaTypeError,
    OfferError,
    RequestError,
    StreamStateError,
    StreamUnknownError,
)
from streamer.live import LiveStream
from streamer.server.access import bearer, require_token
from streamer.server.protocol import Message, Status
from streamer.server.streams import Streams

ANSWER_S = 10.0
"""How long answering an offer may take."""

SDP = "application/sdp"
FRAGMENT = "application/trickle-ice-sdpfrag"


class PreconditionRequiredError(RequestError):
    """A PATCH without `If-Match`."""

    code = "condition"
    http_status = 428


class WhepViewer:
    """One player.  Owner: WhepDoor; a client of its stream that is told nothing."""

    def __init__(self, door: WhepDoor, stream: LiveStream) -> None:
        self.id = secrets.token_urlsafe(12)
        self.etag = f'"{secrets.token_hex(8)}"'
        self.stream = stream
        self._door = door
        self._viewer: Viewer | None = None
        self._closing: asyncio.Task[None] | None = None

    async def accept(self, sdp: str, ice_servers: list[IceServer]) -> Viewer:
        """Answer the offer."""
        self.stream.attach(self)
        self.stream.watch(self)
        try:
            async with asyncio.timeout(ANSWER_S):
                self._viewer = await Viewer.accept(
                    sdp, self.stream.broadcast, ice_servers, on_closed=lambda viewer: self._gone()
                )
        except TimeoutError as error:
            self._gone()
            raise OfferError(f"the offer could not be answered within {ANSWER_S:g} s") from error
        except BaseException:
            self._gone()
            raise
        return self._viewer

    @property
    def viewer(self) -> Viewer:
        """The connection."""
        if self._viewer is None:
            raise StreamStateError("this session is not answered yet")
        return self._viewer

    def tell(self, message: Message) -> None:
        """A player hears nothing but the end."""
        if isinstance(message, Status) and message.state == "ended" and self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self.close())

    def rtp_timestamp(self, pts: int) -> int | None:
        """What a frame with that pts carries to this player."""
        return self._viewer.rtp_timestamp(pts) if self._viewer is not None else None

    async def close(self) -> None:
        """End the connection.  Idempotent."""
        if self._viewer is not None:
            await self._viewer.close()
        self._gone()

    def _gone(self) -> None:
        self.stream.detach(self)
        self._door.forget(self)


class WhepDoor:
    """All WHEP sessions of one server.  Owner: the application."""

    def __init__(self, config: Config, streams: Streams) -> None:
        self._streams = streams
        self._ice_servers = [IceServer.parse(text) for text in config.server.ice_servers]
        self._sessions: dict[str, WhepViewer] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def forget(self, session: WhepViewer) -> None:
        """A session is over.  Idempotent."""
        self._sessions.pop(session.id, None)

    async def close(self) -> None:
        """End all sessions."""
        await asyncio.gather(*(each.close() for each in tuple(self._sessions.values())))

    def routes(self) -> APIRouter:
        """The routes below `/whep`."""
        router = APIRouter(prefix="/whep", tags=["whep"])
        router.add_api_route("/{stream_id}", self._options, methods=["OPTIONS"], status_code=204)
        router.add_api_route("/{stream_id}", self._offer, methods=["POST"], status_code=201)
        session = "/{stream_id}/{session_id}"
        router.add_api_route(session, self._patch, methods=["PATCH"], status_code=204)
        router.add_api_route(session, self._delete, methods=["DELETE"])
        return router

    async def _options(self, stream_id: str) -> Response:
        """What may be posted here."""
        return Response(status_code=204, headers={"Accept-Post": SDP, **self._links()})

    async def _offer(
        self,
        stream_id: str,
        request: Request,
        authorization: Annotated[str | None, Header()] = None,
    ) -> Response:
        """Watch a stream: an SDP offer of one video to receive; the answer is SDP."""
        _require_type(request, SDP)
        held = self._streams.find(stream_id)
        if authorization is not None:
            require_token(bearer(authorization) or "", held.token)
        sdp = _text(await request.body())
        self._streams.admit_viewer(held.stream)
        session = WhepViewer(self, held.stream)
        self._sessions[session.id] = session
        viewer = await session.accept(sdp, self._ice_servers)
        held.announce()
        headers = {
            "Location": f"/whep/{stream_id}/{session.id}",
            "ETag": session.etag,
            "Accept-Patch": FRAGMENT,
            "Access-Control-Expose-Headers": "Location, ETag, Link",
            **self._links(),
        }
        return Response(viewer.answer_sdp, 201, headers, media_type=SDP)

    async def _patch(
        self,
        stream_id: str,
        session_id: str,
        request: Request,
        if_match: Annotated[str | None, Header()] = None,
    ) -> Response:
        """Further ICE candidates of the player."""
        session = self._find(stream_id, session_id)
        _require_type(request, FRAGMENT)
        if if_match is None:
            raise PreconditionRequiredError(
                "If-Match is missing; send the ETag that came with the answer"
            )
        if if_match not in (session.etag, "*"):
            raise ConditionError("If-Match names another ICE session than the present one")
        await session.viewer.add_candidates(_text(await request.body()))
        return Response(status_code=204)

    async def _delete(self, stream_id: str, session_id: str) -> Response:
        """Watch no longer."""
        await self._find(stream_id, session_id).close()
        return Response(status_code=200)

    def _find(self, stream_id: str, session_id: str) -> WhepViewer:
        session = self._sessions.get(session_id)
        if session is None or session.stream.id != stream_id:
            raise StreamUnknownError(f"there is no session {session_id!r}; POST an offer first")
        return session

    def _links(self) -> dict[str, str]:
        links = []
        for server in self._ice_servers:
            link = f'<{server.url}>; rel="ice-server"'
            if server.username is not None:
                link += (
                    f'; username="{_quoted(server.username)}"'
                    f'; credential="{_quoted(server.credential or "")}"; credential-type="password"'
                )
            links.append(link)
        return {"Link": ", ".join(links)} if links else {}


def _require_type(request: Request, wanted: str) -> None:
    found = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if found != wanted:
        raise MediaTypeError(f"the body is {found or 'of no stated type'!r}; send {wanted}")


def _text(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise OfferError("the body is not text in UTF-8") from error


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
