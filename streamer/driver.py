"""Drives one stream block by block and keeps its truth, live and offline alike.

The one place where events are recorded, latents are kept and a lost worker is answered with
`restore`.  `live.py` adds time and viewers; `offline.py` adds a file.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol, TextIO

from streamer.config import StreamSection
from streamer.errors import EngineError, OutputError, WorkerDiedError, WorkerLostError
from streamer.stream import (
    Ended,
    Event,
    FrameBlock,
    History,
    Prompt,
    Restored,
    Saving,
    Script,
    StreamSpec,
    Truth,
    begins_anew,
    event_line,
)

log = logging.getLogger(__name__)

MAX_DEATHS = 3
"""So many worker deaths in a row at one block end the stream: the block itself kills."""


class EngineStream(Protocol):
    """One stream inside a worker, seen from asyncio."""

    async def next_block(self, events: Sequence[Event]) -> FrameBlock:
        """Make the next block; events take effect at its start.  Raises WorkerDiedError."""

    async def close(self) -> None:
        """Free what the worker holds for it.  Never raises for a dead worker."""


class Engine(Protocol):
    """What makes video: `engine.handle.Engine` in the product, fakes in tests."""

    @property
    def able(self) -> frozenset[Saving]:
        """What the model can save when blocks are made too slowly; nothing before it is loaded."""

    async def open(self, spec: StreamSpec) -> EngineStream:
        """A new stream at block 0."""

    async def restore(self, truth: Truth) -> EngineStream:
        """A stream that goes on from its truth, in a new worker if the old one is dead."""


class StreamDriver:
    """One stream: its script, its history, and the engine stream that makes it.

    Owner: LiveStream or an offline rendering; lives on the event loop; never touches torch.
    script_file: each event is written there, as a line of JSON, before it takes effect.
    on_restoring: called when a worker died and the stream is about to be restored.
    """

    def __init__(
        self,
        engine: Engine,
        spec: StreamSpec,
        section: StreamSection,
        *,
        script_file: TextIO | None = None,
        on_restoring: Callable[[], None] = lambda: None,
    ) -> None:
        self.script = Script(spec)
        self.next_block = 0
        self.first_frame = 0
        self._engine = engine
        self._stream: EngineStream | None = None
        self._default = section.transition.transition()
        self._history = History.of(spec, section.window, section.sink, section.num_frame_per_block)
        self._file = script_file
        self._on_restoring = on_restoring
        self._write(next(self.script.lines()))

    @property
    def is_parked(self) -> bool:
        """Whether no worker holds anything for this stream."""
        return self._stream is None

    def truth(self) -> Truth:
        """What another worker needs to go on from here."""
        return Truth(self.script, self.next_block, self.first_frame, self._history.kept())

    async def advance(self, events: Sequence[Event] = ()) -> FrameBlock:
        """Make the next block, with `events` taking effect at its start.

        A prompt without a transition gets the model's default.  When the worker dies, the stream
        is restored and the block made again.
        Raises EngineError when the block cannot be made, also not after MAX_DEATHS restarts, and
        OutputError when the script cannot be written.
        """
        resolved = [self._with_transition(event) for event in events]
        for event in resolved:
            if not isinstance(event, Restored):
                self._record(event)
            if begins_anew(event):
                self._history.restart()
        rebuilding = any(isinstance(event, Restored) for event in resolved)
        wanted = [event for event in resolved if not isinstance(event, Restored)]
        if rebuilding:
            await self.park()
        deaths = 0
        while deaths < MAX_DEATHS:
            try:
                block = await self._attached_next(wanted)
            except WorkerDiedError as error:
                log.warning("worker died block=%d reason=%s", self.next_block, error)
                deaths += not isinstance(error, WorkerLostError)
                self._stream = None
                self._on_restoring()
                continue
            return self._keep(block)
        raise EngineError(
            f"block {self.next_block} ended {MAX_DEATHS} workers in a row; the stream is given up"
        )

    async def park(self) -> None:
        """Free the worker's side; the next `advance` restores it."""
        stream, self._stream = self._stream, None
        if stream is not None:
            await stream.close()

    async def end(self) -> None:
        """Free the worker's side and record that the stream ended here."""
        await self.park()
        self._record(Ended())

    async def _attached_next(self, events: Sequence[Event]) -> FrameBlock:
        if self._stream is None:
            if self.next_block == 0:
                self._stream = await self._engine.open(self.script.spec)
            else:
                self._stream = await self._engine.restore(self.truth())
                if Restored() not in self.script.at(self.next_block):
                    self._record(Restored())
        return await self._stream.next_block(events)

    def _keep(self, block: FrameBlock) -> FrameBlock:
        if block.latents.size:
            self._history.add(block.index, block.latents)
        self.next_block = block.index + 1
        self.first_frame = block.first_frame + len(block.frames)
        return block

    def _with_transition(self, event: Event) -> Event:
        if isinstance(event, Prompt) and event.transition is None:
            return replace(event, transition=self._default)
        return event

    def _record(self, event: Event) -> None:
        self.script.append(self.next_block, event)
        self._write(event_line(self.next_block, event))

    def _write(self, line: str) -> None:
        if self._file is None:
            return
        try:
            self._file.write(line + "\n")
            self._file.flush()
        except OSError as error:
            raise OutputError(f"the script cannot be written: {error.strerror}") from error
