"""Engine: the worker process seen from asyncio.  It never imports torch and never waits blocking.

When the worker dies or hangs, every pending call raises WorkerDiedError at once, and a new worker
is started; `restore` waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from streamer.config import Config
from streamer.engine.figures import ModelFigures
from streamer.engine.process import Entry, WorkerProcess
from streamer.engine.pulse import Patience
from streamer.engine.worker import (
    BlockMade,
    CloseStream,
    Encoded,
    EncodePictures,
    Measured,
    MeasureModel,
    NextBlock,
    OpenStream,
    RestoreStream,
    Settle,
    run_worker,
)
from streamer.errors import EngineError, StreamerError, WorkerDiedError
from streamer.stream import Event, FrameBlock, Opening, Saving, StreamSpec, Truth

log = logging.getLogger(__name__)

FIRST_RETRY_S = 5.0
LONGEST_RETRY_S = 60.0
"""A worker that cannot be replaced is tried again after the first, then twice as long each time."""


def _ignore_progress(fraction: float, stage: str) -> None:
    """Nobody wants to know."""


class Engine:
    """Makes video in a worker process of its own, and replaces the process when it dies.

    Owner: the server or an offline rendering; lives on one event loop; close it.
    able: what the model, once loaded, can save when blocks are made too slowly.
    outage: why a worker that is gone could not be replaced; None again when one is there.
    """

    def __init__(
        self,
        config: Config,
        *,
        on_progress: Callable[[float, str], None] = _ignore_progress,
        entry: Entry = run_worker,
        patience: Patience | None = None,
    ) -> None:
        """on_progress: called on the loop with 0..1 and the stage while a worker loads.

        entry: the function that the worker process runs; importable by its name.
        patience: how long a worker may give no sign of life; None for the usual time.
        """
        self._config = config
        self._on_progress = on_progress
        self._entry = entry
        self._patience = patience or Patience()
        self._worker: WorkerProcess | None = None
        self._starting: asyncio.Task[WorkerProcess] | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._retry_s = FIRST_RETRY_S
        self._had_worker = False
        self._is_closed = False
        self.progress = 0.0
        self.outage: StreamerError | None = None
        self.able: frozenset[Saving] = frozenset()

    @property
    def is_ready(self) -> bool:
        """Whether a worker with a loaded model is there."""
        return self._worker is not None and self._worker.is_alive

    @property
    def worker_pid(self) -> int | None:
        """Process id of the loaded worker; None while there is none."""
        return self._worker.pid if self._worker is not None and self._worker.is_alive else None

    async def start(self) -> None:
        """Spawn the worker and wait until the model is loaded.

        Raises WorkerStartError, or the WeightsError or ConfigError that the worker met.
        """
        await self._ready_worker()

    async def close(self) -> None:
        """End the worker.  Pending calls raise WorkerDiedError.  Idempotent."""
        self._is_closed = True
        self._forget_retry()
        starting, self._starting = self._starting, None
        if starting is not None:
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
        worker, self._worker = self._worker, None
        if worker is not None:
            await worker.end()

    async def open(self, spec: StreamSpec) -> WorkerStream:
        """A new stream at block 0; starts a worker first when there is none."""
        worker = await self._ready_worker()
        return await _begun(worker, OpenStream(worker.new_number(), worker.new_number(), spec))

    async def restore(self, truth: Truth) -> WorkerStream:
        """A stream that goes on from its truth, in a new worker if the old one is dead."""
        worker = await self._ready_worker()
        return await _begun(worker, RestoreStream(worker.new_number(), worker.new_number(), truth))

    async def encode(self, pictures: NDArray[np.uint8]) -> Opening:
        """What a stream begins with that goes on from pictures, uint8 [T, H, W, 3] of its size.

        Raises PictureError when the model cannot, OutOfMemoryError, WorkerDiedError.
        """
        worker = await self._ready_worker()
        reply = await worker.ask(EncodePictures(worker.new_number(), pictures))
        if not isinstance(reply, Encoded):
            raise EngineError(f"the worker answered encode with {type(reply).__name__}")
        return Opening.of(reply.latents)

    async def measure(self) -> ModelFigures:
        """Figures of the model and its machine to judge times by.  Raises WorkerDiedError."""
        worker = await self._ready_worker()
        reply = await worker.ask(MeasureModel(worker.new_number()))
        if not isinstance(reply, Measured):
            raise EngineError(f"the worker answered measure with {type(reply).__name__}")
        return reply.figures

    async def settle(self) -> None:
        """Wait until the device has done all that it was given.  Raises WorkerDiedError."""
        worker = await self._ready_worker()
        await worker.ask(Settle(worker.new_number()))

    async def _ready_worker(self) -> WorkerProcess:
        """The loaded worker; callers who find none share one start."""
        if self._is_closed:
            raise EngineError("the engine is closed")
        if self._worker is not None and self._worker.is_alive:
            return self._worker
        return await asyncio.shield(self._start())

    def _start(self) -> asyncio.Task[WorkerProcess]:
        """The start that is under way, or a new one."""
        if self._starting is None:
            self._starting = asyncio.create_task(self._start_worker())
            self._starting.add_done_callback(self._started)
        return self._starting

    async def _start_worker(self) -> WorkerProcess:
        self._report(0.0, "starting the worker")
        worker = WorkerProcess(self._config, self._entry, self._patience, self._report, self._died)
        try:
            await worker.start()
        except BaseException:
            await worker.end()
            raise
        self._worker, self.able = worker, worker.able
        self.outage, self._retry_s = None, FIRST_RETRY_S
        self._forget_retry()
        self._report(1.0, "ready")
        log.info("worker ready pid=%s", worker.pid)
        return worker

    def _started(self, task: asyncio.Task[WorkerProcess]) -> None:
        if self._starting is task:
            self._starting = None
        if task.cancelled() or (error := task.exception()) is None:
            return
        log.error("worker start failed reason=%s", error)
        if self._had_worker and not self._is_closed:
            self.outage = (
                error if isinstance(error, StreamerError) else EngineError(f"no worker: {error}")
            )
            self._retry_later()

    def _died(self, worker: WorkerProcess, reason: str) -> None:
        """A loaded worker is gone: replace it at once, so that whoever restores waits less."""
        if self._is_closed or worker is not self._worker:
            return
        log.error("worker died pid=%s reason=%s", worker.pid, reason)
        self._worker, self._had_worker = None, True
        self._start()

    def _retry_later(self) -> None:
        """Try again after a while, though nobody asks: the server is kept from new viewers until
        a worker is there."""
        self._forget_retry()
        log.info("worker start retry in_s=%.1f", self._retry_s)
        self._retry = asyncio.get_running_loop().call_later(self._retry_s, self._start)
        self._retry_s = min(2 * self._retry_s, LONGEST_RETRY_S)

    def _forget_retry(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None

    def _report(self, fraction: float, stage: str) -> None:
        self.progress = fraction
        self._on_progress(fraction, stage)


class WorkerStream:
    """One stream inside a worker, seen from asyncio.  Owner: the stream's driver."""

    def __init__(self, worker: WorkerProcess, number: int) -> None:
        self._worker = worker
        self._number = number
        self._turn = asyncio.Lock()
        self._is_out_of_step = False

    async def next_block(self, events: Sequence[Event]) -> FrameBlock:
        """Make the next block; events take effect at its start.

        Raises WorkerDiedError when the worker is gone, or when an earlier call was cancelled, after
        which nobody knows how far the stream is: restore it.  Raises OutOfMemoryError when the
        stream is at its end.
        """
        async with self._turn:
            if self._is_out_of_step:
                raise WorkerDiedError(
                    "a call for a block was cancelled; the stream must be restored"
                )
            try:
                reply = await self._worker.ask(
                    NextBlock(self._worker.new_number(), self._number, tuple(events))
                )
            except asyncio.CancelledError:
                self._is_out_of_step = True
                self._worker.tell(CloseStream(self._worker.new_number(), self._number))
                raise
            if not isinstance(reply, BlockMade):
                raise EngineError(f"the worker answered next_block with {type(reply).__name__}")
            return reply.block

    async def close(self) -> None:
        """Free what the worker holds for it.  Never raises for a dead worker."""
        with contextlib.suppress(WorkerDiedError):
            await self._worker.ask(CloseStream(self._worker.new_number(), self._number))


async def _begun(worker: WorkerProcess, request: OpenStream | RestoreStream) -> WorkerStream:
    """The stream that a request begins.  A caller that is cancelled leaves none in the worker."""
    try:
        await worker.ask(request)
    except asyncio.CancelledError:
        worker.tell(CloseStream(worker.new_number(), request.stream))
        raise
    return WorkerStream(worker, request.stream)
