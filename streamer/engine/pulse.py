"""Signs of life of a worker process: what it sends of itself, and how long the parent waits.

A process that is stopped, or whose interpreter is held by a call that never returns, sends nothing.
One whose device hangs still sends, because its main thread waits without holding the interpreter;
so each beat also tells for how long the work has not moved on.
"""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection

BEAT_S = 5.0
"""How often a worker sends a beat."""


@dataclass(frozen=True)
class Beat:
    """The process lives.  still_s: for how long it has been busy and has not moved on."""

    still_s: float


@dataclass(frozen=True)
class Patience:
    """How long a worker may give no sign of life before it is killed.

    silent_s: nothing is heard at all.  still_s: busy without having finished a single pass of the
    model; a block may take longer.  loading_*: the same while it loads, since libraries read from
    a slow disk hold the interpreter, and kernels that are compiled and tried show no progress.
    """

    silent_s: float = 30.0
    still_s: float = 600.0
    loading_silent_s: float = 300.0
    loading_still_s: float = 1800.0


class Pulse:
    """The worker's end of the pipe for writing, and the thread that beats on it.

    Owner: run_worker, as long as the process lives.  is_busy: whether there is something to do; who
    waits for a request may be still.
    """

    def __init__(self, pipe: Connection) -> None:
        self.is_busy = True
        self._has_moved = True
        self._pipe = pipe
        self._sending = threading.Lock()
        threading.Thread(target=self._beat, name="beat", daemon=True).start()

    def send(self, message: object) -> None:
        """Send a message to the parent.  Raises BrokenPipeError when it is gone."""
        self.note()
        self._send(message)

    def note(self) -> None:
        """The work has moved on."""
        self._has_moved = True

    def _send(self, message: object) -> None:
        with self._sending:
            self._pipe.send(message)

    def _beat(self) -> None:
        still_s, then_s = 0.0, time.monotonic()
        with contextlib.suppress(OSError):  # the parent is gone; the main thread finds out, too
            while True:
                time.sleep(BEAT_S)
                now_s = time.monotonic()
                # A pause of the whole machine is not the work's.
                passed_s = min(now_s - then_s, 2 * BEAT_S)
                is_still = self.is_busy and not self._has_moved
                still_s = still_s + passed_s if is_still else 0.0
                self._has_moved, then_s = False, now_s
                self._send(Beat(still_s))
