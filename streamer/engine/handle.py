"""Engine: the worker process seen from asyncio.  It never imports torch and never waits blocking.

A thread reads the worker's replies, copies frames out of the shared memory and hands both to the
event loop.  When the worker dies, every pending call raises WorkerDiedError at once, and a new
worker is started; `restore` waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import multiprocessing
import signal
import threading
from collections.abc import Callable, Sequence
from ctypes import Array, c_uint8
from dataclasses import replace
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait

import numpy as np
from numpy.typing import NDArray

from streamer.config import Config
from streamer.engine.figures import ModelFigures
from streamer.engine.worker import (
    NUM_SLOTS,
    BlockMade,
    CloseStream,
    Done,
    Encoded,
    EncodePictures,
    Ending,
    Measured,
    MeasureModel,
    NextBlock,
    OpenStream,
    Progress,
    Ready,
    Refused,
    ReleaseSlot,
    Reply,
    Request,
    RestoreStream,
    StartFailed,
    run_worker,
    slot_bytes,
    slot_view,
)
from streamer.errors import (
    EngineError,
    StreamerError,
    WorkerDiedError,
    WorkerLostError,
    WorkerStartError,
)
from streamer.stream import Event, FrameBlock, Opening, StreamSpec, Truth

log = logging.getLogger(__name__)

Entry = Callable[[Config, Connection, Array[c_uint8]], None]
TERMINATE_S = 1.0
"""How long a worker may take to end before it is killed."""


def _ignore_progress(fraction: float, stage: str) -> None:
    """Nobody wants to know."""


class Engine:
    """Makes video in a worker process of its own, and replaces the process when it dies.

    Owner: the server or an offline rendering; lives on one event loop; close it.
    """

    def __init__(
        self,
        config: Config,
        *,
        on_progress: Callable[[float, str], None] = _ignore_progress,
        entry: Entry = run_worker,
    ) -> None:
        """on_progress: called on the loop with 0..1 and the stage while a worker loads.

        entry: the function that the worker process runs; importable by its name.
        """
        self._config = config
        self._on_progress = on_progress
        self._entry = entry
        self._worker: _WorkerProcess | None = None
        self._starting: asyncio.Task[_WorkerProcess] | None = None
        self._is_closed = False
        self.progress = 0.0

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

    async def _ready_worker(self) -> _WorkerProcess:
        """The loaded worker; callers who find none share one start."""
        if self._is_closed:
            raise EngineError("the engine is closed")
        if self._worker is not None and self._worker.is_alive:
            return self._worker
        if self._starting is None:
            self._starting = asyncio.create_task(self._start_worker())
            self._starting.add_done_callback(self._started)
        return await asyncio.shield(self._starting)

    async def _start_worker(self) -> _WorkerProcess:
        self._report(0.0, "starting the worker")
        worker = _WorkerProcess(self._config, self._entry, self._report, self._died)
        try:
            await worker.start()
        except BaseException:
            await worker.end()
            raise
        self._worker = worker
        self._report(1.0, "ready")
        log.info("worker ready pid=%s", worker.pid)
        return worker

    def _started(self, task: asyncio.Task[_WorkerProcess]) -> None:
        if self._starting is task:
            self._starting = None
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("worker start failed reason=%s", error)

    def _died(self, worker: _WorkerProcess, reason: str) -> None:
        """A loaded worker is gone: replace it at once, so that whoever restores waits less."""
        if self._is_closed or worker is not self._worker:
            return
        log.error("worker died pid=%s reason=%s", worker.pid, reason)
        self._worker = None
        if self._starting is None:
            self._starting = asyncio.create_task(self._start_worker())
            self._starting.add_done_callback(self._started)

    def _report(self, fraction: float, stage: str) -> None:
        self.progress = fraction
        self._on_progress(fraction, stage)


class WorkerStream:
    """One stream inside a worker, seen from asyncio.  Owner: the stream's driver."""

    def __init__(self, worker: _WorkerProcess, number: int) -> None:
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


async def _begun(worker: _WorkerProcess, request: OpenStream | RestoreStream) -> WorkerStream:
    """The stream that a request begins.  A caller that is cancelled leaves none in the worker."""
    try:
        await worker.ask(request)
    except asyncio.CancelledError:
        worker.tell(CloseStream(worker.new_number(), request.stream))
        raise
    return WorkerStream(worker, request.stream)


class _WorkerProcess:
    """One worker process: its pipe, its shared memory, the thread that reads it, pending calls.

    Owner: Engine.  Lives until the process is gone; never restarted.
    """

    def __init__(
        self,
        config: Config,
        entry: Entry,
        on_progress: Callable[[float, str], None],
        on_death: Callable[[_WorkerProcess, str], None],
    ) -> None:
        self._config = config
        self._on_progress = on_progress
        self._on_death = on_death
        self._loop = asyncio.get_running_loop()
        self._numbers = itertools.count(1)
        self._pending: dict[int, asyncio.Future[Reply]] = {}
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._sending = threading.Lock()
        self._reason = ""
        self._reader: threading.Thread | None = None
        self.is_alive = False
        self.pid: int | None = None
        context = multiprocessing.get_context("spawn")
        self._pipe, self._far_end = context.Pipe()
        self._memory = context.RawArray(c_uint8, NUM_SLOTS * slot_bytes(config))
        self._process = context.Process(
            target=entry,
            args=(config, self._far_end, self._memory),
            name="streamer-worker",
            daemon=True,
        )

    def new_number(self) -> int:
        """A number for a request or a stream, used once."""
        return next(self._numbers)

    async def start(self) -> None:
        """Spawn the process and wait for the loaded model.  Raises what the worker met."""
        try:
            self._spawn()
        except OSError as error:
            raise WorkerStartError(f"the worker process cannot be spawned: {error}") from error
        self.pid = self._process.pid
        self.is_alive = True
        self._reader = threading.Thread(target=self._read, name="read-worker", daemon=True)
        self._reader.start()
        await self._ready

    async def ask(self, request: Request) -> Reply:
        """Send a request and wait for its answer.

        Raises WorkerDiedError when the worker is or goes away, and the error of a refusal.
        """
        answer: asyncio.Future[Reply] = self._loop.create_future()
        self._pending[request.request] = answer
        try:
            self.tell(request)
            return await answer
        finally:
            self._pending.pop(request.request, None)

    def tell(self, message: Request | ReleaseSlot) -> None:
        """Send without waiting for an answer; a dead worker shows in the pending calls."""
        if not self.is_alive:
            self._fail_pending()
            return
        with self._sending, contextlib.suppress(OSError):
            self._pipe.send(message)

    async def end(self) -> None:
        """Terminate the process, kill it if that does not help, and free everything."""
        self._reason = self._reason or "the engine was closed"
        if self._reader is not None:
            self._signal(self._process.terminate)
            await asyncio.to_thread(self._reader.join, TERMINATE_S)
            if self._reader.is_alive():
                self._signal(self._process.kill)
                await asyncio.to_thread(self._reader.join)
        self._gone(self._reason)

    def _signal(self, send: Callable[[], None]) -> None:
        """Signal the process, unless the reading thread has already seen it end and closed it."""
        with contextlib.suppress(ValueError):
            send()

    def _spawn(self) -> None:
        """Start the process with SIGINT blocked from its first instruction: the parent closes it.

        The resource tracker is started before, because starting it unblocks the signal.
        """
        resource_tracker.ensure_running()
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            self._far_end.close()

    def _read(self) -> None:
        """Body of the reading thread: hand over replies until the process is gone."""
        pipe, sentinel = self._pipe, self._process.sentinel
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to tell
            while self._read_one(pipe, sentinel):
                pass
            self._process.join()
            code = self._process.exitcode or 0
            ending = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
            self._loop.call_soon_threadsafe(self._gone, ending)
        pipe.close()
        with contextlib.suppress(ValueError):  # still running: it ends with its parent
            self._process.close()

    def _read_one(self, pipe: Connection, sentinel: int) -> bool:
        """Wait for a reply and hand it over.  False when the process is gone and all is read."""
        if pipe not in wait([pipe, sentinel]):
            return False
        try:
            reply: Reply = pipe.recv()
        except (EOFError, OSError):
            return False
        if isinstance(reply, BlockMade):
            reply = self._with_frames(reply)
        self._loop.call_soon_threadsafe(self._take, reply)
        return True

    def _with_frames(self, reply: BlockMade) -> BlockMade:
        """Copy a block's frames out of the shared memory and give its slot back."""
        view = slot_view(self._memory, self._config, reply.slot)
        size = reply.shape[0] * reply.shape[1] * reply.shape[2] * reply.shape[3]
        frames = view[:size].reshape(reply.shape).copy()
        with self._sending, contextlib.suppress(OSError):
            self._pipe.send(ReleaseSlot(reply.slot))
        return replace(reply, block=replace(reply.block, frames=frames))

    def _take(self, reply: Reply) -> None:
        """On the loop: act on one reply."""
        match reply:
            case Progress():
                self._on_progress(reply.fraction, reply.stage)
            case Ready():
                if not self._ready.done():
                    self._ready.set_result(None)
            case StartFailed():
                self._refuse_start(reply.error)
            case Ending():
                self._reason = reply.reason
            case Done() | BlockMade() | Encoded() | Measured():
                if (answer := self._answer_to(reply.request)) is not None:
                    answer.set_result(reply)
            case Refused():
                if (answer := self._answer_to(reply.request)) is not None:
                    answer.set_exception(reply.error)

    def _answer_to(self, request: int) -> asyncio.Future[Reply] | None:
        answer = self._pending.pop(request, None)
        return None if answer is None or answer.done() else answer

    def _gone(self, reason: str) -> None:
        """On the loop: the process is no more."""
        if not self._reason:
            self._reason = reason
        was_ready = self._ready.done()
        was_alive, self.is_alive = self.is_alive, False
        self._refuse_start(WorkerStartError(f"the worker ended while loading: {self._reason}"))
        self._fail_pending()
        if was_alive and was_ready:
            self._on_death(self, self._reason)

    def _refuse_start(self, error: StreamerError) -> None:
        if not self._ready.done():
            self._ready.set_exception(error)
            self._ready.exception()  # whoever waits still gets it; nobody may be waiting

    def _fail_pending(self) -> None:
        # The worker serves requests in the order they came: the oldest is the one it died of.
        kind: type[WorkerDiedError] = WorkerDiedError
        for answer in self._pending.values():
            if not answer.done():
                answer.set_exception(kind(f"the worker is gone: {self._reason}"))
                kind = WorkerLostError
