"""The line for a stream: who asks while all places are taken waits, first come, first served.

There is one for all doors: who waits over the WebSocket and who asks again over HTTP stand in it
together, and while somebody stands in it nobody else gets a place.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from streamer.errors import BusyError

log = logging.getLogger(__name__)

LINE_LIMIT = 32
"""So many wait at most."""

LOOK_EVERY_S = 0.5
"""How often it is looked whether a place is free: one may become so by time alone."""


class Entrant(Protocol):
    """Somebody who wants a stream."""

    @property
    def is_there(self) -> bool:
        """Whether they still wait; who is gone is left out when next is looked."""

    def enter(self) -> None:
        """There is a place: take it now."""

    def advance(self, position: int, length: int) -> None:
        """This is your place in the line, from 1, and how many wait."""


class Line:
    """Owner: Streams; lives on the event loop.  Its task runs only while somebody waits.

    require_place: raises BusyError when a new stream would find no place.
    """

    def __init__(
        self,
        require_place: Callable[[], None],
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._require_place = require_place
        self._sleep = sleep
        self._waiting: list[Entrant] = []
        self._serving: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def join(self, entrant: Entrant) -> None:
        """Enter at once where there is a place and nobody waits; else wait at the end.

        Raises BusyError when the line is full.
        """
        if not self._waiting and self._is_place_free():
            entrant.enter()
            return
        if len(self._waiting) >= LINE_LIMIT:
            raise BusyError(f"all places are taken and {LINE_LIMIT} wait already; try again later")
        self._waiting.append(entrant)
        entrant.advance(len(self._waiting), len(self._waiting))
        if self._serving is None:
            self._serving = asyncio.get_running_loop().create_task(self._serve(), name="line")

    def leave(self, entrant: Entrant) -> None:
        """`entrant` does not want a stream any more.  Idempotent."""
        if entrant in self._waiting:
            self._waiting.remove(entrant)
            self._tell()

    async def close(self) -> None:
        """Forget who waits."""
        self._waiting.clear()
        if self._serving is not None:
            self._serving.cancel()
            await asyncio.gather(self._serving, return_exceptions=True)
            self._serving = None

    async def _serve(self) -> None:
        try:
            while self._waiting:
                await self._sleep(LOOK_EVERY_S)
                for gone in [each for each in self._waiting if not each.is_there]:
                    self.leave(gone)
                if self._waiting and self._is_place_free():
                    entrant = self._waiting.pop(0)
                    log.info("place found waiting=%d", len(self._waiting))
                    entrant.enter()
                    self._tell()
        finally:
            self._serving = None

    def _tell(self) -> None:
        for position, entrant in enumerate(tuple(self._waiting), start=1):
            entrant.advance(position, len(self._waiting))

    def _is_place_free(self) -> bool:
        try:
            self._require_place()
        except BusyError:
            return False
        return True
