"""How long the event loop keeps its callers waiting: everything live goes through it.

A task that sleeps for a moment, again and again, wakes late when something holds the loop.  Late
also means that the machine was busy with other processes; so the processor time that the loop's own
thread took meanwhile is told apart.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

STEP_S = 0.002
"""How long the task sleeps; a stall is seen to about this."""
LIMIT_MS = 50.0
"""More would be seen by a viewer as a picture too late."""


class LoopWatch:
    """Stalls of the running event loop.  Owner: whoever entered `watch_loop`.

    late_ms: the latest that the task woke, whatever the reason.  busy_ms: the most processor time
    that the loop's thread took while the task waited: what the loop did in one go.
    """

    def __init__(self) -> None:
        self.late_ms = self.busy_ms = 0.0

    async def run(self) -> None:
        """Watch until cancelled."""
        then_s, used_s = time.perf_counter(), time.thread_time()
        while True:
            await asyncio.sleep(STEP_S)
            now_s, spent_s = time.perf_counter(), time.thread_time()
            self.late_ms = max(self.late_ms, (now_s - then_s - STEP_S) * 1000)
            self.busy_ms = max(self.busy_ms, (spent_s - used_s) * 1000)
            then_s, used_s = now_s, spent_s


@contextlib.asynccontextmanager
async def watch_loop() -> AsyncIterator[LoopWatch]:
    """Watch the running loop meanwhile."""
    watch = LoopWatch()
    task = asyncio.ensure_future(watch.run())
    try:
        yield watch
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
