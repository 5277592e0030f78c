"""All live streams of one server: admission, tokens, and who gives way when places are taken."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Iterator

from streamer.config import Config
from streamer.driver import Engine
from streamer.errors import BusyError, StreamUnknownError
from streamer.live import LiveStream
from streamer.metrics import Metrics
from streamer.server.access import Rate
from streamer.server.audience import Audience
from streamer.server.line import Entrant, Line
from streamer.server.protocol import Message
from streamer.stream import Opening, Prompt

KEPT_PARKED = 64
"""So many parked streams are kept at most; beyond that the longest unwatched one is forgotten."""

KEPT_SCRIPTS = 64
"""Of so many streams that ended last the scripts are kept, so that they can still be replayed."""

ANNOUNCE_S = 0.2
"""Changes of the audience within this time are told together."""

LEAVING_S = 5.0
"""A stream unwatched for so long gives up its place to a new one: its page was closed."""


class Held:
    """A stream with what the server knows about it: its audience and its prompt rate.

    Owner: Streams.  What changes in the audience is told to its members, changes close to each
    other at once.
    """

    def __init__(self, stream: LiveStream, rate: Rate) -> None:
        self.stream = stream
        self.rate = rate
        self.audience = Audience(on_changed=self.announce)
        self._announcing: asyncio.TimerHandle | None = None

    @property
    def token(self) -> str:
        """Makes its holder the director."""
        return self.audience.token

    def announce(self) -> None:
        """Tell the members soon who is there."""
        if self._announcing is None:
            loop = asyncio.get_running_loop()
            self._announcing = loop.call_later(ANNOUNCE_S, self._announce)

    def announce_suggestions(self) -> None:
        """Tell the members now what waits."""
        waiting = self.audience.suggestions()
        for member in self.audience.members.values():
            member.listener.tell(waiting)

    def tell_directors(self, message: Message) -> None:
        """Tell who directs."""
        for member in tuple(self.audience.members.values()):
            if member.is_director:
                member.listener.tell(message)

    def _announce(self) -> None:
        self._announcing = None
        num_viewers = self.stream.num_viewers
        for member in tuple(self.audience.members.values()):
            member.listener.tell(self.audience.told(member, num_viewers))


class Streams:
    """The live streams of one server.

    Owner: the application; lives on the event loop.  A stream takes a place while it holds
    something in the worker; `max_streams` counts places, and parked streams hold none.
    """

    def __init__(
        self,
        config: Config,
        engine: Engine,
        *,
        metrics: Metrics | None = None,
        on_started: Callable[[Held], None] = lambda held: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """on_started: told of each new stream."""
        self.metrics = metrics or Metrics()
        self._on_started = on_started
        self._config = config
        self._engine = engine
        self._clock = clock
        self._held: dict[str, Held] = {}
        self._scripts: dict[str, str] = {}
        self._starts = Rate(per_s=1.0, burst=10, clock=clock)
        self._ending: set[asyncio.Task[None]] = set()
        self._num_reserved = 0
        self.line = Line(self._make_place)

    def __len__(self) -> int:
        return len(self._held)

    @property
    def num_viewers(self) -> int:
        """How many clients watch any stream."""
        return sum(held.stream.num_viewers for held in self._held.values())

    def require_turn(self) -> None:
        """Raise BusyError when a new stream would find no place, or others wait for one."""
        if waiting := len(self.line):
            raise BusyError(
                f"all streams of this server are in use and {waiting} wait{'s' * (waiting == 1)} "
                "for a place; wait in line too, or watch a stream that plays by its link"
            )
        self._make_place()

    def start(self, prompt: Prompt, seed: int | None, opening: Opening | None = None) -> Held:
        """Begin a new stream.  Raises BusyError when there is no place for it.

        opening: what the picture goes on from.
        """
        self._starts.take("new streams")
        self.require_turn()
        return self._begin(prompt, seed, opening)

    def wait(self, entrant: Entrant) -> None:
        """Let somebody in at once, or when it is their turn; they call `enter` then.

        Raises BusyError when the line is full.
        """
        self._starts.take("new streams")
        self.line.join(entrant)

    def enter(self, prompt: Prompt, seed: int | None, opening: Opening | None = None) -> Held:
        """Begin the stream of who is first in the line.  Raises BusyError without a place."""
        self._make_place()
        return self._begin(prompt, seed, opening)

    async def replace(
        self, old: Held, prompt: Prompt, seed: int | None, opening: Opening | None = None
    ) -> Held:
        """Begin a new stream in the place of one that ends for it.

        Raises BusyError before anything ends.
        """
        self._starts.take("new streams")
        self.require_place_of(old.stream)
        self._num_reserved += 1  # while the old one ends its place is nobody else's
        try:
            await old.stream.end("its director began another one")
        finally:
            self._num_reserved -= 1
        return self._begin(prompt, seed, opening)

    def _begin(self, prompt: Prompt, seed: int | None, opening: Opening | None) -> Held:
        stream = LiveStream(
            f"s-{secrets.token_urlsafe(9)}",
            self._config,
            self._engine,
            prompt,
            secrets.randbelow(2**31) if seed is None else seed,
            opening=opening,
            metrics=self.metrics,
            clock=self._clock,
            on_ended=self._forget,
        )
        held = self._held[stream.id] = Held(stream, Rate(clock=self._clock))
        self._forget_oldest_parked()
        stream.begin()
        self._on_started(held)
        return held

    def __iter__(self) -> Iterator[LiveStream]:
        return iter([held.stream for held in self._held.values()])

    def find(self, stream_id: str) -> Held:
        """Raises StreamUnknownError."""
        held = self._held.get(stream_id)
        if held is None:
            raise StreamUnknownError(
                f"there is no stream {stream_id!r} here; it may have ended: start a new one"
            )
        return held

    def script(self, stream_id: str) -> str:
        """The script of a stream, also of one that has ended.  Raises StreamUnknownError."""
        ended = self._scripts.get(stream_id)
        return self.find(stream_id).stream.script() if ended is None else ended

    def admit_viewer(self, stream: LiveStream) -> None:
        """Raise BusyError when nobody else can watch, or a parked stream cannot come back."""
        limit = self._config.server.max_viewers
        if self.num_viewers >= limit:
            raise BusyError(
                f"all {limit} viewers' places are taken; try again when somebody has left"
            )
        self.require_place_of(stream)

    def require_place_of(self, stream: LiveStream) -> None:
        """Raise BusyError when a parked stream cannot come back: it passes nobody who waits."""
        if not stream.holds_place:
            self.require_turn()

    async def close(self) -> None:
        """End all streams."""
        await self.line.close()
        streams = [held.stream for held in self._held.values()]
        await asyncio.gather(*(stream.end("the server is stopping") for stream in streams))
        await asyncio.gather(*self._ending)

    def _make_place(self) -> None:
        """Raise BusyError unless there is a place, or a stream whose page is gone gives up its."""
        limit = self._config.server.max_streams
        placed = [held.stream for held in self._held.values() if held.stream.holds_place]
        if len(placed) + self._num_reserved < limit:
            return
        leaving = max(placed, key=lambda stream: stream.unwatched_s, default=None)
        if leaving is None or leaving.unwatched_s < LEAVING_S:
            raise BusyError(
                f"all {limit} streams of this server are in use; try again in a minute, "
                "or watch one that plays by its link"
            )
        leaving.park()

    def _forget_oldest_parked(self) -> None:
        parked = [held.stream for held in self._held.values() if held.stream.state == "parked"]
        if len(parked) <= KEPT_PARKED:
            return
        oldest = max(parked, key=lambda stream: stream.unwatched_s)
        task = asyncio.ensure_future(oldest.end("nobody watched; newer streams took its place"))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    def _forget(self, stream: LiveStream) -> None:
        self._held.pop(stream.id, None)
        self._scripts[stream.id] = stream.script()
        if len(self._scripts) > KEPT_SCRIPTS:
            del self._scripts[next(iter(self._scripts))]
