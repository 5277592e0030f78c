"""Stand-ins for what is slow or random: the engine, the fan-out, a client, and time itself."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Awaitable, Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from streamer.config import Config, parse_config
from streamer.delivery.fanout import Rendition
from streamer.errors import StreamerError, WorkerDiedError
from streamer.pacing import TimedFrame
from streamer.server.protocol import Message
from streamer.stream import (
    BlockTimings,
    Economy,
    Event,
    FrameBlock,
    Opening,
    Prompt,
    Saving,
    StreamSpec,
    Truth,
)

FRAMES = 12
SETTLED = 60


def pattern_config(**server: object) -> Config:
    """A small configuration without weights; `server` overrides its section."""
    stream = {"width": 64, "height": 64, "fps": 16, "transition": {"kind": "swap"}}
    tree = {"name": "pattern", "family": "pattern", "stream": stream, "server": server}
    return parse_config(tree, "test")


async def settle() -> None:
    """Let everything that can run now run."""
    for _ in range(SETTLED):
        await asyncio.sleep(0)


class VirtualTime:
    """A clock that jumps from one due time to the next."""

    def __init__(self) -> None:
        self.now = 100.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()

    def clock(self) -> float:
        return self.now

    async def sleep(self, delay_s: float) -> None:
        future = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.now + delay_s, next(self._numbers), future))
        await future

    async def run(self, seconds: float) -> None:
        """Let so many seconds pass."""
        end = self.now + seconds
        await settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            due, _, future = heapq.heappop(self._sleepers)
            if not future.done():
                self.now = max(self.now, due)
                future.set_result(None)
                await settle()
        self.now = end


class FakeEngine:
    """An engine that makes a block in `block_s` of whatever `sleep` says.

    failures: for a block index, what to raise instead of making it; each once.
    prompt_failures: for a prompt id, what to raise when it is to take effect.
    """

    def __init__(
        self,
        block_s: float = 0.3,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        size: int = 64,
    ) -> None:
        self.block_s = block_s
        self.sleep = sleep
        self.size = size
        self.able: frozenset[Saving] = frozenset()
        self.relief: dict[Saving, float] = {"decoder": 0.8, "steps": 0.5}
        self.failures: dict[int, StreamerError] = {}
        self.prompt_failures: dict[str, StreamerError] = {}
        self.started: list[int] = []
        self.made: list[tuple[int, tuple[Event, ...]]] = []
        self.restored_at: list[int] = []
        self.num_open = 0
        self.start_gate: asyncio.Event | None = None
        self.start_error: StreamerError | None = None
        self.outage: StreamerError | None = None
        self.is_closed = False
        self.on_progress: Callable[[float, str], None] = lambda progress, stage: None

    def __call__(self, config: Config, *, on_progress: Callable[[float, str], None]) -> FakeEngine:
        """Itself, as the factory of the application."""
        self.on_progress = on_progress
        return self

    async def encode(self, pictures: NDArray[np.uint8]) -> Opening:
        """Latents that tell the mean of the pictures and how many there were."""
        level = float(pictures.mean())
        return Opening.of(np.full((len(pictures), 1, 1, 1), level, np.float32))

    async def start(self) -> None:
        self.on_progress(0.5, "reading weights")
        if self.start_gate is not None:
            await self.start_gate.wait()
        if self.start_error is not None:
            raise self.start_error

    async def close(self) -> None:
        self.is_closed = True

    async def open(self, spec: StreamSpec) -> FakeStream:
        return self._stream(0, 0, "")

    async def restore(self, truth: Truth) -> FakeStream:
        self.restored_at.append(truth.next_block)
        prompt = truth.script.prompt_before(truth.next_block)
        stream = self._stream(truth.next_block, truth.first_frame, prompt.id if prompt else "")
        for block, event in truth.script.events:
            if isinstance(event, Economy) and block < truth.next_block:
                stream.economy = event
        return stream

    def _stream(self, block: int, frame: int, prompt_id: str) -> FakeStream:
        self.num_open += 1
        return FakeStream(self, block, frame, prompt_id)


class FakeStream:
    """One stream of a FakeEngine: the frames of block i have the value i."""

    def __init__(self, engine: FakeEngine, block: int, frame: int, prompt_id: str) -> None:
        self._engine = engine
        self._block, self._frame, self._prompt_id = block, frame, prompt_id
        self._is_open = True
        self.economy = Economy()

    async def next_block(self, events: Sequence[Event]) -> FrameBlock:
        engine = self._engine
        engine.started.append(self._block)
        for event in events:
            if isinstance(event, Economy):
                self.economy = event
        block_s = engine.block_s
        for saving, part in engine.relief.items():
            block_s *= part if getattr(self.economy, saving) else 1.0
        await engine.sleep(block_s)
        failure = engine.failures.pop(self._block, None)
        if failure is not None:
            if isinstance(failure, WorkerDiedError):
                await self.close()
            raise failure
        for event in events:
            if isinstance(event, Prompt):
                if event.id in engine.prompt_failures:
                    raise engine.prompt_failures[event.id]
                self._prompt_id = event.id
        engine.made.append((self._block, tuple(events)))
        frames = np.full((FRAMES, engine.size, engine.size, 3), self._block % 256, np.uint8)
        latents = np.full((3, 1, 2, 2), self._block, np.float32)
        timings = BlockTimings(total_ms=block_s * 1000)
        block = FrameBlock(self._block, self._frame, frames, latents, self._prompt_id, timings)
        self._block += 1
        self._frame += FRAMES
        return block

    async def close(self) -> None:
        if self._is_open:
            self._is_open = False
            self._engine.num_open -= 1


class FakeBroadcast:
    """Keeps what was pushed, with the time of each push."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.pushed: list[tuple[float, TimedFrame]] = []
        self.failure: Exception | None = None
        self.dropped = 0
        self.bitrate_kbps = 0.0
        self.encode_s = 0.0
        self.num_keyframes = 0
        self.renditions: list[Rendition] = []
        self.is_closed = False

    @property
    def last_frame(self) -> TimedFrame | None:
        return self.pushed[-1][1] if self.pushed else None

    async def push(self, frame: TimedFrame) -> None:
        if self.failure is not None:
            raise self.failure
        self.pushed.append((self.clock(), frame))

    async def close(self) -> None:
        self.is_closed = True


class FakeClient:
    """Keeps what it was told; its video's timestamps begin at `origin`."""

    def __init__(self, origin: int | None = None) -> None:
        self.origin = origin
        self.told: list[Message] = []

    def tell(self, message: Message) -> None:
        self.told.append(message)

    def rtp_timestamp(self, pts: int) -> int | None:
        return None if self.origin is None else self.origin + pts

    def of(self, kind: str) -> list[Message]:
        """The messages of one type, oldest first."""
        return [message for message in self.told if getattr(message, "type", "") == kind]
