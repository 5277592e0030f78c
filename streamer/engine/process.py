"""WorkerProcess: one worker process, from its start to its end, seen from asyncio.

A thread writes requests, so that nothing is serialised or waited for on the loop; a thread reads
replies, copies frames out of the shared memory and hands both to the loop.  It also is the
watchdog: a process that gives no sign of life is killed, and is then as dead as any other.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import math
import multiprocessing
import queue
import signal
import threading
from collections.abc import Callable
from ctypes import Array, c_uint8
from dataclasses import replace
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait

from streamer.config import Config
from streamer.engine.pulse import Beat, Patience
from streamer.engine.worker import (
    NUM_SLOTS,
    BlockMade,
    Done,
    Encoded,
    Ending,
    Measured,
    Progress,
    Ready,
    Refused,
    ReleaseSlot,
    Reply,
    Request,
    StartFailed,
    slot_bytes,
    slot_view,
)
from streamer.errors import StreamerError, WorkerDiedError, WorkerLostError, WorkerStartError
from streamer.stream import Saving

log = logging.getLogger(__name__)

Entry = Callable[[Config, Connection, Array[c_uint8]], None]
TERMINATE_S = 1.0
"""How long a worker may take to end before it is killed."""


class WorkerProcess:
    """One worker process: its pipe, its shared memory, the threads at the pipe, pending calls.

    Owner: Engine.  Lives until the process is gone; never restarted.
    patience: how long it may give no sign of life.
    """

    def __init__(
        self,
        config: Config,
        entry: Entry,
        patience: Patience,
        on_progress: Callable[[float, str], None],
        on_death: Callable[[WorkerProcess, str], None],
    ) -> None:
        self._config = config
        self._patience = patience
        self._on_progress = on_progress
        self._on_death = on_death
        self._loop = asyncio.get_running_loop()
        self._numbers = itertools.count(1)
        self._pending: dict[int, asyncio.Future[Reply]] = {}
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._outgoing: queue.SimpleQueue[Request | ReleaseSlot | None] = queue.SimpleQueue()
        self._reason = ""
        self._reader: threading.Thread | None = None
        self._writer: threading.Thread | None = None
        self._is_loaded = False
        self.is_alive = False
        self.able: frozenset[Saving] = frozenset()
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
        self._writer = threading.Thread(target=self._write, name="write-worker", daemon=True)
        self._writer.start()
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
        self._outgoing.put(message)

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

    def _write(self) -> None:
        """Body of the writing thread: send what is asked until the process is gone."""
        while (message := self._outgoing.get()) is not None:
            with contextlib.suppress(OSError):
                self._pipe.send(message)

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
        self._outgoing.put(None)
        if self._writer is not None:
            self._writer.join()
        pipe.close()
        with contextlib.suppress(ValueError):  # still running: it ends with its parent
            self._process.close()

    def _read_one(self, pipe: Connection, sentinel: int) -> bool:
        """Wait for a reply and hand it over.  False when the process is gone and all is read."""
        patience = self._patience
        silent_s, still_s = patience.silent_s, patience.still_s
        if not self._is_loaded:
            silent_s, still_s = patience.loading_silent_s, patience.loading_still_s
        # In two halves: a pause of the whole machine ends a wait, but not two.
        ready = wait([pipe, sentinel], silent_s / 2) or wait([pipe, sentinel], silent_s / 2)
        if not ready:
            self._give_up(f"no sign of life for {silent_s:g} s")
            return True
        if pipe not in ready:
            return False
        try:
            reply: Reply = pipe.recv()
        except (EOFError, OSError):
            return False
        if isinstance(reply, Beat):
            if reply.still_s >= still_s:
                self._give_up(f"busy for {reply.still_s:.0f} s without moving on")
            return True
        self._is_loaded |= isinstance(reply, Ready)
        if isinstance(reply, BlockMade):
            reply = self._with_frames(reply)
        self._loop.call_soon_threadsafe(self._take, reply)
        return True

    def _give_up(self, reason: str) -> None:
        """Kill a process that hangs.  It counts as gone even if the system cannot end it."""
        self._process.kill()
        self._process.join(TERMINATE_S)
        self._loop.call_soon_threadsafe(self._gone, reason)

    def _with_frames(self, reply: BlockMade) -> BlockMade:
        """Copy a block's frames out of the shared memory and give its slot back."""
        view = slot_view(self._memory, self._config, reply.slot)
        frames = view[: math.prod(reply.shape)].reshape(reply.shape).copy()
        self._outgoing.put(ReleaseSlot(reply.slot))
        return replace(reply, block=replace(reply.block, frames=frames))

    def _take(self, reply: Reply) -> None:
        """On the loop: act on one reply."""
        match reply:
            case Progress():
                self._on_progress(reply.fraction, reply.stage)
            case Ready():
                self.able = reply.able
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
