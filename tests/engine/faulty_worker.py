"""A worker whose colour bars fail on demand: the prompt's text says how.

"no memory", "crash", "refuse", "slow" and "hang" act before the block of such a prompt is made, and
"spit out" ends the process at once.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from ctypes import Array, c_uint8
from multiprocessing.connection import Connection

from streamer.config import Config
from streamer.engine import worker
from streamer.engine.pattern import PatternModel, PatternStream
from streamer.errors import PromptError, WeightsError
from streamer.stream import Event, FrameBlock, Prompt, Script, StreamSpec, Truth

SLOW_S = 0.4


class FaultyStream:
    """Colour bars until a prompt says otherwise."""

    def __init__(self, inner: PatternStream) -> None:
        self._inner = inner
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
        if text == "spit out":
            os._exit(3)


class FaultyModel(PatternModel):
    """Opens faulty streams."""

    def open(self, spec: StreamSpec) -> FaultyStream:  # type: ignore[override]
        return FaultyStream(super().restore(Truth(Script(spec), 0, 0, ())))

    def restore(self, truth: Truth) -> FaultyStream:  # type: ignore[override]
        return FaultyStream(super().restore(truth))


def run(config: Config, pipe: Connection, memory: Array[c_uint8]) -> None:
    """Entry of the process, with the faulty model in the place of the real one."""
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


def run_unforeseen(config: Config, pipe: Connection, memory: Array[c_uint8]) -> None:
    """Entry of a process that meets an unknown error while it loads."""

    def load(config: Config, report: Callable[[float, str], None]) -> worker.VideoModel:
        raise ZeroDivisionError("nobody foresaw this")

    worker.load_model = load
    worker.run_worker(config, pipe, memory)
