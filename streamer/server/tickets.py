"""Waiting in the line over HTTP: a ticket is asked for again until it has become a stream.

`POST /api/streams` with `wait` answers 202 and a ticket while there is no place; `GET` of the
ticket tells its place in the line, and at last the stream.  Who does not ask for a while has left.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.responses import JSONResponse

from streamer.errors import StreamerError, StreamStateError, StreamUnknownError
from streamer.server.protocol import StreamInfo
from streamer.server.streams import Held, Streams
from streamer.stream import Opening, Prompt

SILENT_S = 30.0
"""A ticket that nobody has asked for in so long leaves the line."""

KEPT_S = 120.0
"""So long after its last question a ticket that has its stream still tells it."""

ASK_EVERY_S = 1
"""How often to ask, told as `Retry-After`."""


class StreamMade(StreamInfo):
    """A new stream; url: the page that watches it.  token: makes its holder the director."""

    url: str


class WaitingPlace(BaseModel):
    """A place in the line, from 1, of so many who wait.  url: where to ask for it again."""

    ticket: str
    position: int
    length: int
    url: str


class Ticket:
    """A wish for a stream, in the line or fulfilled.  Owner: Tickets."""

    def __init__(self, begin: Callable[[], Held], clock: Callable[[], float]) -> None:
        """begin: makes the stream when it is its turn."""
        self.id = f"t-{secrets.token_urlsafe(9)}"
        self.position = self.length = 1
        self.held: Held | None = None
        self.error: StreamerError | None = None
        self._begin = begin
        self._clock = clock
        self._asked_s = clock()

    @property
    def silent_s(self) -> float:
        """How long ago somebody asked for it."""
        return self._clock() - self._asked_s

    @property
    def is_there(self) -> bool:
        """Whether somebody still asks for it."""
        return self.silent_s < SILENT_S

    def ask(self) -> None:
        """Somebody asks for it."""
        self._asked_s = self._clock()

    def enter(self) -> None:
        """It is its turn."""
        try:
            self.held = self._begin()
        except StreamerError as error:
            self.error = error

    def advance(self, position: int, length: int) -> None:
        """Its place in the line."""
        self.position, self.length = position, length


class Tickets:
    """All tickets of one server.  Owner: the application; lives on the event loop."""

    def __init__(self, streams: Streams, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._streams = streams
        self._clock = clock
        self._tickets: dict[str, Ticket] = {}

    def __len__(self) -> int:
        return len(self._tickets)

    def take(self, prompt: Prompt, seed: int | None, opening: Opening | None = None) -> Ticket:
        """A ticket for a stream, which begins at once where there is a place and nobody waits.

        Raises BusyError when the line is full.
        """
        self._forget()
        ticket = Ticket(lambda: self._streams.enter(prompt, seed, opening), self._clock)
        self._streams.wait(ticket)
        if ticket.error is not None:
            raise ticket.error
        if ticket.held is None:
            self._tickets[ticket.id] = ticket
        return ticket

    def find(self, ticket_id: str) -> Ticket:
        """Ask for a ticket.  Raises StreamUnknownError, and what its stream could not begin for."""
        self._forget()
        ticket = self._tickets.get(ticket_id)
        if ticket is None:
            raise StreamUnknownError(
                f"there is no ticket {ticket_id!r} here; one that is not asked for within "
                f"{SILENT_S:g} s has left the line: ask for a new stream"
            )
        ticket.ask()
        if ticket.error is not None:
            raise ticket.error
        return ticket

    def leave(self, ticket_id: str) -> None:
        """Give up a place in the line.

        Raises StreamUnknownError, and StreamStateError when the stream has begun.
        """
        ticket = self.find(ticket_id)
        if ticket.held is not None:
            raise StreamStateError(
                f"it was this ticket's turn: the stream {ticket.held.stream.id} has begun; "
                "end that one"
            )
        self._streams.line.leave(ticket)
        del self._tickets[ticket_id]

    def answer(self, ticket: Ticket, request: Request, made_status: int) -> JSONResponse:
        """What is told about a ticket: its stream, or 202 and its place in the line."""
        if ticket.held is not None:
            stream = made(ticket.held, request)
            return JSONResponse(stream.model_dump(mode="json"), made_status)
        path = f"/api/line/{ticket.id}"
        place = WaitingPlace(
            ticket=ticket.id, position=ticket.position, length=ticket.length, url=path
        )
        headers = {"Location": path, "Retry-After": str(ASK_EVERY_S)}
        return JSONResponse(place.model_dump(), 202, headers)

    def routes(self) -> APIRouter:
        """The routes below `/api/line`."""
        router = APIRouter(prefix="/api/line", tags=["streams"])
        router.add_api_route(
            "/{ticket_id}",
            self._look,
            methods=["GET"],
            response_model=StreamMade,
            responses={202: {"model": WaitingPlace}},
        )
        router.add_api_route("/{ticket_id}", self._leave, methods=["DELETE"], status_code=204)
        return router

    async def _look(self, ticket_id: str, request: Request) -> JSONResponse:
        """The stream that was waited for, or 202 and the place in the line; ask every second."""
        return self.answer(self.find(ticket_id), request, 200)

    async def _leave(self, ticket_id: str) -> None:
        """Leave the line; 409 when the stream has begun already."""
        self.leave(ticket_id)

    def _forget(self) -> None:
        for key, ticket in tuple(self._tickets.items()):
            is_over = ticket.held is not None or ticket.error is not None
            if ticket.silent_s >= (KEPT_S if is_over else SILENT_S):
                self._streams.line.leave(ticket)
                del self._tickets[key]


def made(held: Held, request: Request) -> StreamMade:
    """A stream that has begun, as its director is told."""
    info = held.stream.info(held.token)
    return StreamMade(**info.model_dump(), url=f"{request.base_url}#{info.id}")
