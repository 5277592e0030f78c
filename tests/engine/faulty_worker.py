"""A worker whose colour bars fail on demand: the prompt's text says how.

"no memory", "crash", "refuse", "slow", "hang" and "crawl" act before the block of such a prompt is
made, and "spit out" ends the process at once.  Signs of life come often.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from ctypes import Array, c_uint8
from multiprocessing.connection import Connection
from pathlib import Path

from streamer.config import Config
from streamer.engine import pulse, worker
from streamer.engine.pattern import PatternModel, PatternStream
from streamer.errors import PromptError, WeightsError
from streamer.stream import Event, FrameBlock, Prompt, Script, StreamSpec, Truth

SLOW_S = 0.4
BEAT_S = 0.05
GONE = "FAULTY_WORKER_WEIGHTS_GONE"
"""Environment variable with a path: while such a file is there, `run_once` finds no weights."""
CRAWL_S = 1.5
"""How long a block takes that is made of many passes."""


class FaultyStream:
    """Colour bars until a prompt says otherwise."""

    def __init__(self, inner: PatternStream, on_pass: Callable[[], None]) -> None:
        self._inner = inner
        self._on_pass = on_pass
        self._is_slow = False

    def next_block(self, events: Sequence[Event]) -> FrameBlock:
        for event in events:
            if isinstance(event, Prompt):
                self._obey(event.text)
        if self._is_slow:
            time.sleep(SLOW_S)
        return self._inner.next_block(events)

    def close(self) -> None:
        self._inner.close()

    def _obey(self, text: str) -> None:
        self._is_slow = text == "slow"
        if text == "no memory":
            raise MemoryError("3 GiB wanted")
        if text == "crash":
            raise ZeroDivisionError("nobody foresaw this")
        if text == "refuse":
            raise PromptError("not this one; try another")
        if text == "hang":
            time.sleep(600)
        if text == "crawl":
            end_s = time.monotonic() + CRAWL_S
            while time.monotonic() < end_s:
                time.sleep(BEAT_S / 5)
                self._on_pass()
        if text == "spit out":
            os._exit(3)


class FaultyModel(PatternModel):
    """Opens faulty streams."""

    def follow(self, on_pass: Callable[[], None]) -> None:
        self._on_pass = on_pass

    def open(self, spec: StreamSpec) -> FaultyStream:  # type: ignore[override]
        return self.restore(Truth(Script(spec), 0, 0, ()))

    def restore(self, truth: Truth) -> FaultyStream:  # type: ignore[override]
        return FaultyStream(super().restore(truth), self._on_pass)


def run(config: Config, pipe: Connection, memory: Array[c_uint8]) -> None:
    """Entry of the process, with the faulty model in the place of the real one."""
    pulse.BEAT_S = BEAT_S
    worker.load_model = FaultyModel
    worker.run_worker(config, pipe, memory)


def run_without_weights(config: Config, pipe: Connection, memory: Array[c_uint8]) -> None:
    """Entry of a process whose weights are missing."""

    def load(config: Config, report: Callable[[float, str], None]) -> worker.VideoModel:
        report(0.3, "looking for the weights")
        raise WeightsError("model.safetensors: there is no such weights file")

    worker.load_model = load
    worker.run_worker(config, pipe, memory)


def run_broken(config: Config, pipe: Connection, memory: Array[c_uint8]) -> None:
    """Entry of a process that dies while it loads."""
    os._exit(7)


def run_once(config: Config, pipe: Connection, memory: Array[c_uint8]) -> None:
    """Entry of a process that loads the first time, and finds no weights while `gone` is there."""
    if Path(os.environ[GONE]).exists():
        run_without_weights(config, pipe, memory)
    else:
        run(config, pipe, memory)


def run_stopped(config: Config, pipe: Connection, memory: Array[c_uint8]) -> None:
    """Entry of a process that stops while it loads."""

    def load(config: Config, report: Callable[[float, str], None]) -> worker.VideoModel:
        report(0.3, "about to stop")
        os.kill(os.getpid(), signal.SIGSTOP)
        return FaultyModel(config, report)

    pulse.BEAT_S = BEAT_S
    worker.load_model = load
    worker.run_worker(config, pipe, memory)


def run_unforeseen(config: Config, pipe: Connection, memory: Array[c_uint8]) -> None:
    """Entry of a process that meets an unknown error while it loads."""

    def load(config: Config, report: Callable[[float, str], None]) -> worker.VideoModel:
        raise ZeroDivisionError("nobody foresaw this")

    worker.load_model = load
    worker.run_worker(config, pipe, memory)
