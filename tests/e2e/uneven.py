"""A server of colour bars whose blocks take uneven times, and a note of when each was made.

    python -m tests.e2e.uneven NOTES '{"block_s": 0.55, "jitter_s": 0.05, ...}' [WAY]

WAY, such as '{"loss": 0.05, "delay_s": 0.1}', spoils what is sent to every viewer.  It prints its
address and serves until it is interrupted.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections.abc import Sequence
from ctypes import Array, c_uint8
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from streamer.config import Config, load_config
from streamer.delivery.webrtc import Viewer
from streamer.engine import worker
from streamer.engine.handle import Engine
from streamer.engine.pattern import PatternModel, PatternStream
from streamer.server.run import run_server
from streamer.stream import Event, FrameBlock, StreamSpec, Truth
from tests.delivery.spoil import spoil

ARRIVAL, NOTES = "UNEVEN_ARRIVAL", "UNEVEN_NOTES"
"""Environment variables by which the worker's process learns what to do."""

LEAST_S = 0.02


@dataclass(frozen=True)
class Arrival:
    """How long blocks take: normally distributed, and now and then longer.

    block_s, jitter_s: mean and standard deviation.  spikes: share of blocks that take spike_s more.
    """

    block_s: float = 0.55
    jitter_s: float = 0.05
    spikes: float = 0.0
    spike_s: float = 0.5
    seed: int = 1

    def times(self) -> random.Random:
        """What `draw` draws from."""
        return random.Random(self.seed)

    def draw(self, rng: random.Random) -> float:
        """The time of the next block."""
        extra_s = self.spike_s if rng.random() < self.spikes else 0.0
        return max(LEAST_S, rng.gauss(self.block_s, self.jitter_s)) + extra_s


@dataclass(frozen=True)
class Way:
    """What happens to the packets sent to a viewer.  loss: share of them that is lost."""

    loss: float = 0.0
    delay_s: float = 0.0

    def lay(self) -> None:
        """Spoil the way of every viewer of this process."""
        accept = Viewer.accept.__func__  # type: ignore[attr-defined]

        async def accept_and_spoil(cls: type[Viewer], *given: Any, **named: Any) -> Viewer:
            viewer: Viewer = await accept(cls, *given, **named)
            spoil(viewer, self.loss, self.delay_s)
            return viewer

        Viewer.accept = classmethod(accept_and_spoil)  # type: ignore[assignment]


class UnevenStream:
    """Colour bars that take their time.  Each block is noted with the moment it was done."""

    def __init__(self, inner: PatternStream, arrival: Arrival, notes: Path) -> None:
        self._inner, self._arrival, self._notes = inner, arrival, notes
        self._rng = arrival.times()

    def next_block(self, events: Sequence[Event]) -> FrameBlock:
        began_s = time.monotonic()
        block = self._inner.next_block(events)
        wanted_s = self._arrival.draw(self._rng)
        time.sleep(max(0.0, began_s + wanted_s - time.monotonic()))
        took_s = time.monotonic() - began_s
        note = {
            "first": block.first_frame,
            "count": len(block.frames),
            "made_s": time.time(),
            "took_s": took_s,
        }
        with self._notes.open("a") as file:
            file.write(json.dumps(note) + "\n")
        return block

    def close(self) -> None:
        self._inner.close()


class UnevenModel(PatternModel):
    """Opens uneven streams."""

    def open(self, spec: StreamSpec) -> UnevenStream:  # type: ignore[override]
        return self._uneven(super().open(spec))

    def restore(self, truth: Truth) -> UnevenStream:  # type: ignore[override]
        return self._uneven(PatternModel.restore(self, truth))

    def _uneven(self, inner: PatternStream | UnevenStream) -> UnevenStream:
        if isinstance(inner, UnevenStream):
            return inner
        arrival = Arrival(**json.loads(os.environ[ARRIVAL]))
        return UnevenStream(inner, arrival, Path(os.environ[NOTES]))


def run(config: Config, pipe: Connection, memory: Array[c_uint8]) -> None:
    """Entry of the worker's process."""
    worker.load_model = UnevenModel
    worker.run_worker(config, pipe, memory)


def environment(arrival: Arrival, notes: Path) -> dict[str, str]:
    """What the processes of such a server need to know."""
    return {ARRIVAL: json.dumps(asdict(arrival)), NOTES: str(notes)}


def main() -> None:
    notes, arrival = Path(sys.argv[1]), Arrival(**json.loads(sys.argv[2]))
    if len(sys.argv) > 3:
        Way(**json.loads(sys.argv[3])).lay()
    notes.write_text("")
    os.environ.update(environment(arrival, notes))
    config = load_config("pattern")
    server = config.server.model_copy(update={"port": 0})
    run_server(
        config.model_copy(update={"server": server}),
        on_bound=lambda address: print(address, flush=True),
        on_progress=lambda part, stage: None,
        engine_factory=partial(Engine, entry=run),
    )


if __name__ == "__main__":
    # The worker finds its entry by name, which is not `__main__`.
    from tests.e2e import uneven

    uneven.main()
