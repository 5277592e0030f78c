"""Where streams are published to: by the command line for all, by the API for one."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Header
from pydantic import BaseModel, ConfigDict, Field

from streamer.config import Config
from streamer.delivery.ice import IceServer
from streamer.delivery.whip import Publisher, check_url
from streamer.errors import BusyError, StreamUnknownError
from streamer.server.access import bearer, require_token
from streamer.server.protocol import Message, PublicationField, Status
from streamer.server.streams import Held, Streams

LIMIT = 8
"""So many places one stream may be published to."""


class NewPublication(BaseModel):
    """A WHIP address; token: what it wants as `Bearer`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    url: Annotated[str, Field(max_length=2000)]
    token: Annotated[str, Field(max_length=2000)] | None = None


class Publication:
    """One stream at one address.  A client of the stream that keeps it going."""

    def __init__(
        self, held: Held, url: str, token: str | None, ice_servers: Sequence[IceServer]
    ) -> None:
        """Raises PublishError for what is no address."""
        self.id = f"w-{secrets.token_hex(4)}"
        self.stream = held.stream
        self.publisher = Publisher(
            url,
            held.stream.broadcast,
            token=token,
            ice_servers=ice_servers,
            on_changed=lambda: held.tell_directors(self.field()),
        )
        self._stopping: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Start to publish."""
        self.stream.attach(self)
        self.stream.watch(self, is_viewer=False)
        self.publisher.begin()

    async def stop(self) -> None:
        """Publish no longer.  Idempotent."""
        self.stream.detach(self)
        await self.publisher.stop()

    def tell(self, message: Message) -> None:
        """The end of the stream ends it."""
        if isinstance(message, Status) and message.state == "ended" and self._stopping is None:
            self._stopping = asyncio.get_running_loop().create_task(self.stop())

    def rtp_timestamp(self, pts: int) -> int | None:
        """Nobody asks."""
        return None

    def field(self) -> PublicationField:
        """What clients are told."""
        return PublicationField(id=self.id, **asdict(self.publisher.told()))


class Publishing:
    """All publications of one server.  Owner: the application."""

    def __init__(self, config: Config, streams: Streams) -> None:
        """Raises PublishError when `server.publish` holds what is no address."""
        self._streams = streams
        self._standing = list(config.server.publish)
        self._token = config.server.publish_token
        self._ice_servers = [IceServer.parse(text) for text in config.server.ice_servers]
        self._publications: dict[str, Publication] = {}
        for url in self._standing:
            check_url(url)

    @property
    def num_publishing(self) -> int:
        """How many publications stand."""
        return sum(p.publisher.state == "publishing" for p in self._publications.values())

    def started(self, held: Held) -> None:
        """A stream began: publish it where the command line says.

        An address without `{stream}` takes one stream at a time.
        """
        for url in self._standing:
            if "{stream}" in url or not self._is_taken(url):
                self.publish(held, url.replace("{stream}", held.stream.id), self._token)

    def publish(self, held: Held, url: str, token: str | None) -> Publication:
        """Publish a stream.  Raises PublishError, BusyError."""
        self._forget_ended()
        if sum(each.stream is held.stream for each in self._publications.values()) >= LIMIT:
            raise BusyError(f"this stream is published to {LIMIT} places already; end one first")
        publication = Publication(held, url, token, self._ice_servers)
        publication.begin()
        self._publications[publication.id] = publication
        return publication

    async def close(self) -> None:
        """End all publications."""
        await asyncio.gather(*(each.stop() for each in self._publications.values()))

    def routes(self) -> APIRouter:
        """The routes below `/api/streams/{stream_id}/publications`."""
        router = APIRouter(prefix="/api/streams/{stream_id}/publications", tags=["publications"])
        router.add_api_route("", self._start, methods=["POST"], status_code=201)
        router.add_api_route("", self._list, methods=["GET"])
        router.add_api_route("/{publication_id}", self._end, methods=["DELETE"], status_code=204)
        return router

    async def _start(
        self,
        stream_id: str,
        body: NewPublication,
        authorization: Annotated[str | None, Header()] = None,
    ) -> PublicationField:
        """Publish the stream to a WHIP server, and keep trying (director only)."""
        held = self._directed(stream_id, authorization)
        self._streams.require_place_of(held.stream)
        return self.publish(held, body.url, body.token).field()

    async def _list(
        self, stream_id: str, authorization: Annotated[str | None, Header()] = None
    ) -> list[PublicationField]:
        """Where the stream is published, and how that goes (director only)."""
        stream = self._directed(stream_id, authorization).stream
        return [each.field() for each in self._publications.values() if each.stream is stream]

    async def _end(
        self,
        stream_id: str,
        publication_id: str,
        authorization: Annotated[str | None, Header()] = None,
    ) -> None:
        """Publish there no longer (director only)."""
        stream = self._directed(stream_id, authorization).stream
        publication = self._publications.get(publication_id)
        if publication is None or publication.stream is not stream:
            raise StreamUnknownError(f"there is no publication {publication_id!r} of this stream")
        del self._publications[publication_id]
        await publication.stop()

    def _directed(self, stream_id: str, authorization: str | None) -> Held:
        held = self._streams.find(stream_id)
        require_token(bearer(authorization), held.token)
        return held

    def _is_taken(self, url: str) -> bool:
        self._forget_ended()
        return any(each.publisher.url == url for each in self._publications.values())

    def _forget_ended(self) -> None:
        for key, each in tuple(self._publications.items()):
            if each.stream.state == "ended" and each.publisher.state in ("ended", "refused"):
                del self._publications[key]
