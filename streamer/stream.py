"""What a stream is and what is kept of it: the contract between the loop and the worker.

The truth of a stream is small: its spec, its script, and the clean latents of its sinks and its
last window.  Everything else (keys, values, decoder memory) is a cache that `restore` rebuilds.
This module holds values only; it knows neither torch nor sockets.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Literal, TextIO

import numpy as np
from numpy.typing import NDArray

from streamer.errors import ConfigError, PromptError

SCRIPT_VERSION = 1
PROMPT_LIMIT = 2000
"""Longest accepted prompt, in characters."""

MOST_OPENING_FRAMES = 21
"""Latent frames that a stream without a window goes on from at most: what Wan's few-step models are
trained on."""


class TransitionKind(StrEnum):
    """How a stream goes from one prompt to the next."""

    CUT = "cut"  # fresh stream state: a new picture, as if the stream began here
    SWAP = "swap"  # new text, same history
    RECACHE = "recache"  # new text, and the window's keys recomputed under it
    BLEND = "blend"  # text embeddings interpolated over `blocks` blocks
    SCENE = "scene"  # history dropped except the decoder's memory; a new sink


@dataclass(frozen=True)
class Transition:
    """A transition and, for `blend`, over how many blocks it runs."""

    kind: TransitionKind
    blocks: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.blocks <= 64:
            raise PromptError(f"transition.blocks is {self.blocks}; it must be 1 to 64")


@dataclass(frozen=True)
class Prompt:
    """A text that steers the stream.  transition None: the model's default."""

    id: str
    text: str
    transition: Transition | None = None

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise PromptError("the prompt is empty; type what you want to see")
        if len(self.text) > PROMPT_LIMIT:
            raise PromptError(
                f"the prompt has {len(self.text)} characters; at most {PROMPT_LIMIT} are accepted"
            )


@dataclass(frozen=True)
class Reseed:
    """Start the picture anew with other noise, under the same prompt."""

    seed: int


@dataclass(frozen=True)
class Economy:
    """What is given up of the picture from this block on, so that it is made in time.

    decoder: the small decoder is used.  steps: the shorter list of denoising steps is.  It holds
    until the next one, across cuts and new seeds.
    """

    decoder: bool = False
    steps: bool = False


NO_ECONOMY = Economy()

Saving = Literal["decoder", "steps"]
"""What a model may be able to save on."""


@dataclass(frozen=True)
class Restored:
    """The caches were rebuilt from the truth before this block.

    Rebuilt caches differ from grown ones by what older blocks once attended to, so a replay must
    rebuild at the same place to show the same frames.
    """


@dataclass(frozen=True)
class Ended:
    """The stream ended before this block; nothing follows."""


Event = Prompt | Reseed | Economy | Restored | Ended
_EVENT_TYPES: dict[str, type[Event]] = {
    "prompt": Prompt,
    "reseed": Reseed,
    "economy": Economy,
    "restored": Restored,
    "ended": Ended,
}
_EVENT_NAMES = {cls: name for name, cls in _EVENT_TYPES.items()}


@dataclass(frozen=True)
class Opening:
    """Clean latents that a stream goes on from: a picture, or the end of a clip, encoded.

    shape: [F, C, H, W].  data: the numbers as little-endian float16, base64, so that a script is
    whole without the file they were made of.
    Raises ValueError when the two do not fit each other.
    """

    shape: tuple[int, int, int, int]
    data: str

    def __post_init__(self) -> None:
        if len(self.shape) != 4 or min(self.shape) < 1:
            raise ValueError(f"opening.shape is {self.shape}; expected four numbers from 1")
        size = len(base64.b64decode(self.data, validate=True))
        wanted = 2 * math.prod(self.shape)
        if size != wanted:
            raise ValueError(
                f"opening.data has {size} bytes, opening.shape {self.shape} needs {wanted}"
            )

    @classmethod
    def of(cls, latents: NDArray[np.float32]) -> Opening:
        """latents: [F, C, H, W]."""
        data = base64.b64encode(latents.astype("<f2").tobytes()).decode()
        frames, channels, height, width = latents.shape
        return cls((frames, channels, height, width), data)

    def latents(self) -> NDArray[np.float32]:
        """[F, C, H, W]."""
        numbers = np.frombuffer(base64.b64decode(self.data), "<f2")
        return numbers.reshape(self.shape).astype(np.float32)

    def blocks(self, block: int) -> tuple[tuple[int, NDArray[np.float32]], ...]:
        """The latents as history in blocks of `block` frames, numbered up to -1; the oldest block
        holds what is left over."""
        latents = self.latents()
        ends = range(len(latents), 0, -block)
        parts = [latents[max(0, end - block) : end] for end in ends]
        return tuple((-1 - i, part) for i, part in enumerate(parts))[::-1]


@dataclass(frozen=True)
class StreamSpec:
    """What does not change while a stream lives.  width, height in pixels.

    opening: what the picture begins with; it is not shown.  A cut, a new scene or a new seed leaves
    it behind.
    """

    model: str
    seed: int
    width: int
    height: int
    fps: int
    opening: Opening | None = None


@dataclass(frozen=True)
class BlockTimings:
    """Where the time of one block went, in milliseconds.  denoise_ms holds the clean pass too.

    passes_ms: of each step, and of the clean pass, which may hold the first step of the next block;
    then that step is missing among those of the next.  On a GPU the clean pass goes on while the
    pictures leave, so its time, the last one here and in denoise_ms, is that of the block before.
    copy_ms: pictures from the device to the host.
    total_ms: until the pictures were there; parts that run beside each other add up to more.
    """

    text_ms: float = 0.0
    denoise_ms: float = 0.0
    decode_ms: float = 0.0
    total_ms: float = 0.0
    passes_ms: tuple[float, ...] = ()
    copy_ms: float = 0.0


@dataclass(frozen=True)
class FrameBlock:
    """One block of a stream, as the worker hands it over.

    index: position in the stream.  first_frame: number of its first frame in the stream.
    frames: uint8 [T, H, W, 3], RGB; or, from a GPU, [T, 3 H / 2, W]: the planes Y, U and V of
    yuv420p one after another, half as many bytes and what encoders read.  latents: float32
    [F, C, H, W], clean, normalised; empty for a model without latents.  prompt_id: the prompt in
    force.
    """

    index: int
    first_frame: int
    frames: NDArray[np.uint8]
    latents: NDArray[np.float32]
    prompt_id: str
    timings: BlockTimings = BlockTimings()


@dataclass
class Script:
    """The spec of a stream and all that was done to it, by block.  Append-only."""

    spec: StreamSpec
    events: list[tuple[int, Event]] = field(default_factory=list)

    def append(self, block: int, event: Event) -> None:
        """Record that `event` took effect at the start of `block`.

        Raises ValueError when an earlier block than the last recorded one is named.
        """
        if self.events and block < self.events[-1][0]:
            raise ValueError(f"block {block} comes before the last event's {self.events[-1][0]}")
        self.events.append((block, event))

    def at(self, block: int) -> tuple[Event, ...]:
        """The events that take effect at the start of `block`, in order."""
        return tuple(event for index, event in self.events if index == block)

    def prompt_before(self, block: int) -> Prompt | None:
        """The prompt in force when `block` starts, before that block's own events."""
        found = None
        for index, event in self.events:
            if index >= block:
                break
            if isinstance(event, Prompt):
                found = event
        return found

    def prompts_before(self, block: int) -> list[tuple[int, Prompt]]:
        """All prompts that took effect before `block`, with their blocks, oldest first."""
        return [(i, e) for i, e in self.events if i < block and isinstance(e, Prompt)]

    def lines(self) -> Iterator[str]:
        """The script as JSON Lines: the spec, then one line an event."""
        spec = asdict(self.spec)
        if self.spec.opening is None:
            del spec["opening"]
        yield json.dumps({"type": "spec", "version": SCRIPT_VERSION, **spec})
        for block, event in self.events:
            yield event_line(block, event)

    @classmethod
    def read(cls, file: TextIO, name: str = "script") -> Script:
        """Read what `lines` wrote.

        An incomplete last line (of a process that died while writing) is left out.
        Raises ConfigError, naming file and line, when anything else is wrong.
        """
        rows = file.read().split("\n")
        script: Script | None = None
        for number, row in enumerate(rows, start=1):
            if not row.strip():
                continue
            try:
                record = json.loads(row)
                if script is None:
                    script = cls(_spec_from(record))
                else:
                    block, event = _event_from(record)
                    script.append(block, event)
            except (ValueError, TypeError, KeyError, AttributeError, PromptError) as error:
                if number == len(rows) and script is not None:
                    break
                raise ConfigError(f"{name}, line {number}: {error}") from error
        if script is None:
            raise ConfigError(f"{name}: empty; the first line must be the stream's spec")
        return script


def event_line(block: int, event: Event) -> str:
    """One event as a line of JSON."""
    return json.dumps({"type": _EVENT_NAMES[type(event)], "block": block, **asdict(event)})


def _spec_from(record: dict[str, object]) -> StreamSpec:
    if record.pop("type", None) != "spec":
        raise ValueError("the first line must have type 'spec'")
    if (version := record.pop("version", None)) != SCRIPT_VERSION:
        raise ValueError(f"script version {version}, this program reads {SCRIPT_VERSION}")
    _require(record, str, "model")
    _require(record, int, "seed", "width", "height", "fps")
    if (opening := record.pop("opening", None)) is not None:
        record["opening"] = _opening_from(opening)
    return StreamSpec(**record)  # type: ignore[arg-type]


_WANTED = {str: "text", int: "a whole number from 0", bool: "true or false"}


def _require(record: dict[str, object], kind: type[str | int], *names: str) -> None:
    """Raise ValueError unless each of these fields is text, a whole number from 0, or a flag."""
    for name in names:
        value = record.get(name)
        if type(value) is not kind or (isinstance(value, int) and value < 0):
            raise ValueError(f"{name} is {value!r}; it must be {_WANTED[kind]}")


def _event_from(record: dict[str, object]) -> tuple[int, Event]:
    kind = str(record.pop("type"))
    block = record.pop("block")
    if not isinstance(block, int) or block < 0:
        raise ValueError(f"block is {block!r}; it must be a number from 0")
    if kind not in _EVENT_TYPES:
        raise ValueError(f"unknown event {kind!r}; known: {', '.join(_EVENT_TYPES)}")
    if kind == "prompt":
        _require(record, str, "id", "text")
        record["transition"] = _transition_from(record.get("transition"))
    elif kind == "reseed":
        _require(record, int, "seed")
    elif kind == "economy":
        _require(record, bool, "decoder", "steps")
    return block, _EVENT_TYPES[kind](**record)  # type: ignore[arg-type]


def _opening_from(value: object) -> Opening:
    if not isinstance(value, dict) or value.keys() != {"shape", "data"}:
        raise ValueError("opening must be an object of shape and data")
    shape, data = value["shape"], value["data"]
    if not isinstance(data, str) or not (
        isinstance(shape, list) and all(type(number) is int for number in shape)
    ):
        raise ValueError("opening.shape must be four whole numbers and opening.data text")
    return Opening(tuple(shape), data)


def _transition_from(value: object) -> Transition | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise ValueError(f"transition is {value!r}; it must be null or name a kind and blocks")
    _require(value, str, "kind")
    _require(value, int, "blocks")
    return Transition(TransitionKind(value["kind"]), value["blocks"])


@dataclass(frozen=True)
class Truth:
    """All that is needed to go on with a stream at `next_block` in a new worker.

    history: the clean latents kept, oldest first, as (block index, [F, C, H, W]): the sink blocks
    of the present scene and the last window.  first_frame: number of the next frame.
    """

    script: Script
    next_block: int
    first_frame: int
    history: tuple[tuple[int, NDArray[np.float32]], ...]


class History:
    """The clean latents a stream keeps: the sink blocks of the scene and the last window."""

    def __init__(self, window: int, sink: int) -> None:
        """window, sink in latent frames; window 0 keeps every block."""
        self._window, self._sink = window, sink
        self._blocks: list[tuple[int, NDArray[np.float32]]] = []

    @classmethod
    def of(cls, spec: StreamSpec, window: int, sink: int, block: int) -> History:
        """The history that a stream begins with: its opening, in blocks of `block` frames."""
        history = cls(window, sink)
        if spec.opening is not None:
            for index, latents in spec.opening.blocks(block):
                history.add(index, latents)
        return history

    def add(self, index: int, latents: NDArray[np.float32]) -> None:
        """Keep a block's latents, and drop what neither sink nor window needs any more."""
        self._blocks.append((index, latents))
        if not self._window:
            return
        sizes = [len(latents) for _, latents in self._blocks]
        sinks = blocks_covering(sizes, self._sink)
        recent = blocks_covering(sizes[::-1], self._window)
        del self._blocks[sinks : max(sinks, len(sizes) - recent)]

    def restart(self) -> None:
        """Forget everything: the picture begins anew."""
        self._blocks.clear()

    def kept(self) -> tuple[tuple[int, NDArray[np.float32]], ...]:
        """What is kept, oldest first."""
        return tuple(self._blocks)


def blocks_covering(sizes: Sequence[int], wanted: int) -> int:
    """How many leading blocks of these sizes hold `wanted` frames, or all of them."""
    count = held = 0
    while held < wanted and count < len(sizes):
        held += sizes[count]
        count += 1
    return count


def begins_anew(event: Event) -> bool:
    """Whether the event drops the history before its block."""
    if isinstance(event, Reseed):
        return True
    return (
        isinstance(event, Prompt)
        and event.transition is not None
        and event.transition.kind in (TransitionKind.CUT, TransitionKind.SCENE)
    )


def drops_decoder(event: Event) -> bool:
    """Whether the event also drops the decoder's memory: the picture is cut, not continued."""
    if isinstance(event, Reseed):
        return True
    return (
        isinstance(event, Prompt)
        and event.transition is not None
        and event.transition.kind is TransitionKind.CUT
    )
