"""The process that owns the device: it loads the model, keeps the streams and makes their blocks.

It speaks with `engine.handle` by frozen messages over a pipe; frames go through shared memory that
the parent made and that has no name, so nothing is left behind whoever dies first.  Requests are
served in the order of their arrival, one block at a time; because a stream has at most one request
under way, streams take turns.

Torch is imported by the model only, inside this process: importing this module does not.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from ctypes import Array, c_uint8
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from streamer.config import Config
from streamer.engine.figures import ModelFigures
from streamer.engine.pulse import Beat, Pulse
from streamer.errors import (
    ConfigError,
    OutOfMemoryError,
    StreamerError,
    StreamUnknownError,
    WorkerStartError,
)
from streamer.stream import Event, FrameBlock, Saving, StreamSpec, Truth

log = logging.getLogger(__name__)

NUM_SLOTS = 4
"""Blocks that may lie in the shared memory before the parent has copied them."""
MAX_FRAMES_PER_LATENT = 4
"""The most pictures that a decoder of any family makes of one latent frame."""


@dataclass(frozen=True)
class OpenStream:
    """Request: a new stream at block 0.  Answer: Done."""

    request: int
    stream: int
    spec: StreamSpec


@dataclass(frozen=True)
class RestoreStream:
    """Request: a stream that goes on from its truth.  Answer: Done."""

    request: int
    stream: int
    truth: Truth


@dataclass(frozen=True)
class NextBlock:
    """Request: make the next block.  Answer: BlockMade."""

    request: int
    stream: int
    events: tuple[Event, ...]


@dataclass(frozen=True)
class CloseStream:
    """Request: free a stream; an unknown one is fine.  Answer: Done."""

    request: int
    stream: int


@dataclass(frozen=True)
class ReleaseSlot:
    """The parent has copied the frames out of a slot.  No answer."""

    slot: int


@dataclass(frozen=True)
class EncodePictures:
    """Request: latents of pictures, uint8 [T, H, W, 3].  Answer: Encoded.  stream: of nobody."""

    request: int
    pictures: NDArray[np.uint8]
    stream: int = 0


@dataclass(frozen=True)
class MeasureModel:
    """Request: figures of the model and its machine.  Answer: Measured.  stream: of nobody."""

    request: int
    stream: int = 0


@dataclass(frozen=True)
class Settle:
    """Request: wait for the device.  Answer: Done.  stream: of nobody."""

    request: int
    stream: int = 0


Request = (
    OpenStream | RestoreStream | NextBlock | CloseStream | EncodePictures | MeasureModel | Settle
)


@dataclass(frozen=True)
class Progress:
    """How far loading is, 0..1, and what is being loaded."""

    fraction: float
    stage: str


@dataclass(frozen=True)
class Ready:
    """The model is loaded.  able: what it can save when blocks are made too slowly."""

    able: frozenset[Saving] = frozenset()


@dataclass(frozen=True)
class StartFailed:
    """The model cannot be loaded; the worker ends."""

    error: StreamerError


@dataclass(frozen=True)
class Done:
    """A request was served."""

    request: int


@dataclass(frozen=True)
class Encoded:
    """Pictures as latents, float32 [F, C, H, W]."""

    request: int
    latents: NDArray[np.float32]


@dataclass(frozen=True)
class Measured:
    """Figures of the model and its machine."""

    request: int
    figures: ModelFigures


@dataclass(frozen=True)
class BlockMade:
    """A block.  Its frames lie in `slot`, with that shape; the block's own are empty."""

    request: int
    slot: int
    shape: tuple[int, ...]
    block: FrameBlock


@dataclass(frozen=True)
class Refused:
    """A request ended in an error that says what to do; the worker lives on."""

    request: int
    error: StreamerError


@dataclass(frozen=True)
class Ending:
    """The worker ends because of an error that nobody foresaw."""

    reason: str


Reply = (
    Progress | Ready | StartFailed | Done | Encoded | Measured | BlockMade | Refused | Ending | Beat
)


class VideoStream(Protocol):
    """One stream inside the worker."""

    def next_block(self, events: Sequence[Event]) -> FrameBlock:
        """Make the next block; events take effect at its start."""

    def close(self) -> None:
        """Free what is held on the device."""


class VideoModel(Protocol):
    """What all streams of a worker share.  max_frames: pictures in its largest block."""

    @property
    def max_frames(self) -> int:
        """Pictures in the largest block."""

    @property
    def able(self) -> frozenset[Saving]:
        """What can be saved when blocks are made too slowly."""

    def follow(self, on_pass: Callable[[], None]) -> None:
        """From now on, call on_pass with every pass that is made: a sign that work moves on."""

    def encode(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Pictures [T, H, W, 3] of the stream's size to latents [F, C, H, W] to begin with."""

    def measure(self) -> ModelFigures:
        """Figures to judge times by; takes about a second."""

    def settle(self) -> None:
        """Wait until the device has done all that it was given: a block may be handed over before
        its last pass has ended."""

    def open(self, spec: StreamSpec) -> VideoStream:
        """A new stream at block 0."""

    def restore(self, truth: Truth) -> VideoStream:
        """A stream that goes on from its truth."""


def slot_bytes(config: Config) -> int:
    """Room for the frames of one block, in bytes."""
    section = config.stream
    pixels = section.width * section.height
    return section.num_frame_per_block * MAX_FRAMES_PER_LATENT * pixels * 3


def slot_view(memory: Array[c_uint8], config: Config, slot: int) -> NDArray[np.uint8]:
    """One slot of the shared memory as bytes."""
    size = slot_bytes(config)
    return np.frombuffer(memoryview(memory).cast("B"), np.uint8, size, slot * size)


def run_worker(config: Config, pipe: Connection, memory: Array[c_uint8]) -> None:
    """Entry of the process: load, then serve until the parent ends it or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pulse = Pulse(pipe)
    try:
        model = load_model(config, lambda part, stage: pulse.send(Progress(part, stage)))
        _check_room(model, config)
    except StreamerError as error:
        pulse.send(StartFailed(error))
        return
    except Exception as error:
        traceback.print_exc()
        reason = WorkerStartError(f"the model {config.name!r} cannot be loaded: {_brief(error)}")
        pulse.send(StartFailed(reason))
        sys.exit(1)
    model.follow(pulse.note)
    worker = Worker(config, model, pipe, pulse, memory)
    pulse.send(Ready(model.able))
    try:
        worker.serve()
    except BrokenPipeError:
        return
    except Exception as error:
        traceback.print_exc()
        pulse.send(Ending(_brief(error)))
        sys.exit(1)


def load_model(config: Config, report: Callable[[float, str], None]) -> VideoModel:
    """The model of a configuration; only here does its family's code come in.

    report: told how far loading is, 0..1, and with what it is busy.
    Raises WeightsError and ConfigError.
    """
    if config.family == "pattern":
        from streamer.engine.pattern import PatternModel

        return PatternModel(config, report)
    report(0.05, "starting torch")
    _let_idle_threads_sleep()
    from streamer.engine.diffusion import DiffusionModel

    return DiffusionModel(config, report, hands_planes=True)


def _let_idle_threads_sleep() -> None:
    """Keep torch's threads from spinning long between operators; the user's own setting wins.

    By default they spin for milliseconds, on cores that the encoder and the browser want: with two
    busy processes beside it on two cores a block takes three times as long (860 ms against 310 ms,
    and 2.6 times the processor time), on a quiet machine it is 8 % faster.  OpenMP reads this once,
    when torch is imported.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    os.environ.setdefault("KMP_BLOCKTIME", "0")


class Worker:
    """Serves requests.  Owner: run_worker, as long as the process lives.

    A second thread drains the pipe, so that the parent never waits to write, and ends the process
    at once when the parent is gone.
    """

    def __init__(
        self,
        config: Config,
        model: VideoModel,
        pipe: Connection,
        pulse: Pulse,
        memory: Array[c_uint8],
    ) -> None:
        self._config = config
        self._model = model
        self._pipe = pipe
        self._pulse = pulse
        self._memory = memory
        self._streams: dict[int, VideoStream] = {}
        self._requests: queue.SimpleQueue[Request] = queue.SimpleQueue()
        self._free_slots: queue.SimpleQueue[int] = queue.SimpleQueue()
        for slot in range(NUM_SLOTS):
            self._free_slots.put(slot)
        threading.Thread(target=self._listen, name="listen", daemon=True).start()

    def serve(self) -> None:
        """Serve requests for ever.  Raises whatever no stream may survive."""
        while True:
            self._pulse.is_busy = False
            request = self._requests.get()
            self._pulse.note()
            self._pulse.is_busy = True
            try:
                reply = self._answer(request)
            except MemoryError as error:
                reply = self._out_of_memory(request, OutOfMemoryError(_brief(error)))
            except OutOfMemoryError as error:
                reply = self._out_of_memory(request, error)
            except StreamerError as error:
                reply = Refused(request.request, error)
            self._pulse.send(reply)

    def _listen(self) -> None:
        while True:
            try:
                message = self._pipe.recv()
            except (EOFError, OSError):
                os._exit(0)
            if isinstance(message, ReleaseSlot):
                self._free_slots.put(message.slot)
            else:
                self._requests.put(message)

    def _answer(self, request: Request) -> Reply:
        match request:
            case OpenStream():
                self._check(request.spec)
                self._streams[request.stream] = self._model.open(request.spec)
            case RestoreStream():
                self._check(request.truth.script.spec)
                self._streams[request.stream] = self._model.restore(request.truth)
            case NextBlock():
                return self._next_block(request)
            case EncodePictures():
                return Encoded(request.request, self._model.encode(request.pictures))
            case MeasureModel():
                return Measured(request.request, self._model.measure())
            case Settle():
                self._model.settle()
            case CloseStream():
                self._close(request.stream)
        return Done(request.request)

    def _next_block(self, request: NextBlock) -> BlockMade:
        stream = self._streams.get(request.stream)
        if stream is None:
            raise StreamUnknownError(f"the worker has no stream {request.stream}; it was closed")
        block = stream.next_block(request.events)
        slot = self._free_slots.get()
        view = slot_view(self._memory, self._config, slot)
        view[: block.frames.size] = block.frames.reshape(-1)
        bare = replace(block, frames=np.zeros((0, 0, 0, 3), np.uint8))
        return BlockMade(request.request, slot, block.frames.shape, bare)

    def _close(self, number: int) -> None:
        stream = self._streams.pop(number, None)
        if stream is not None:
            stream.close()

    def _out_of_memory(self, request: Request, error: OutOfMemoryError) -> Refused:
        log.error("out of memory stream=%d reason=%s", request.stream, error)
        self._close(request.stream)
        return Refused(request.request, error)

    def _check(self, spec: StreamSpec) -> None:
        """Raises ConfigError when a spec is not for the loaded model and its picture size."""
        section = self._config.stream
        wanted = (self._config.name, section.width, section.height)
        if (spec.model, spec.width, spec.height) != wanted:
            raise ConfigError(
                f"the stream wants {spec.model!r} at {spec.width}x{spec.height}, the worker runs "
                f"{wanted[0]!r} at {wanted[1]}x{wanted[2]}; start with the configuration it was "
                "made with"
            )


def _check_room(model: VideoModel, config: Config) -> None:
    most = config.stream.num_frame_per_block * MAX_FRAMES_PER_LATENT
    if model.max_frames > most:
        raise ConfigError(
            f"{config.name}: the decoder makes {model.max_frames} pictures a block; at most {most} "
            f"({MAX_FRAMES_PER_LATENT} a latent frame) are handed over"
        )


def _brief(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
