"""PatternStream: colour bars that follow the prompt.  No weights, no torch; the simplest stream.

For tests and for checking a network path.  Each picture is a function of (seed, frame number, texts
in force) and carries its frame number as a small barcode.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from streamer.config import Config
from streamer.engine.figures import ModelFigures, process_peak_bytes
from streamer.engine.steering import Mixture, Steering
from streamer.errors import PictureError
from streamer.stream import BlockTimings, Event, FrameBlock, Saving, Script, StreamSpec, Truth

FRAMES_PER_LATENT = 4
BARS = 8
PLACES = 4096
FRAMES_PER_ROUND = 256
"""Frames after which the bars are where they began."""
BARCODE_COLUMNS = 8
BARCODE_BITS = 16
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 48, 49),
    "orange": (240, 140, 40),
    "yellow": (250, 210, 60),
    "green": (50, 160, 80),
    "cyan": (60, 200, 210),
    "blue": (45, 90, 200),
    "purple": (130, 70, 180),
    "pink": (240, 130, 180),
    "brown": (130, 85, 50),
    "black": (20, 20, 20),
    "white": (240, 240, 240),
    "grey": (130, 130, 130),
    "gray": (130, 130, 130),
    "gold": (220, 170, 50),
    "night": (15, 20, 60),
    "evening": (200, 100, 80),
    "snow": (230, 240, 250),
    "sea": (30, 110, 150),
}


class PatternModel:
    """What opens pattern streams.  Owner: the worker process, as long as it lives."""

    def __init__(self, config: Config, report: Callable[[float, str], None]) -> None:
        """report: told how far loading is, 0..1, and with what it is busy."""
        self._config = config
        self.max_frames = config.stream.num_frame_per_block * FRAMES_PER_LATENT
        self.able: frozenset[Saving] = frozenset()
        report(1.0, "colour bars")

    def follow(self, on_pass: Callable[[], None]) -> None:
        """There are no passes: a block is made at once."""

    def encode(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Raises PictureError: there is no model that could go on from pictures."""
        raise PictureError(
            f"{self._config.name} draws colour bars and cannot begin with a picture; choose a "
            "configuration with a model, such as storybook"
        )

    def measure(self) -> ModelFigures:
        """There is no model, so there is nothing to judge its times by."""
        return ModelFigures(device="NumPy on one thread", peak_bytes=process_peak_bytes())

    def settle(self) -> None:
        """Nothing is ever under way."""

    def open(self, spec: StreamSpec) -> PatternStream:
        """A new stream at block 0."""
        return self.restore(Truth(Script(spec), 0, 0, ()))

    def restore(self, truth: Truth) -> PatternStream:
        """A stream that goes on from its truth."""
        return PatternStream(self._config, truth)


class PatternStream:
    """Bars in the colours that the prompt names, moving smoothly.

    Owner: the worker, until the stream is closed.  All of its state is the position and the texts.
    """

    def __init__(self, config: Config, truth: Truth) -> None:
        self._section = config.stream
        self._spec = truth.script.spec
        self._steering = Steering.at(
            truth.script, truth.next_block, config.stream.transition.transition()
        )
        self._block = truth.next_block
        self._frame = truth.first_frame

    def next_block(self, events: Sequence[Event]) -> FrameBlock:
        """Draw the next block; events take effect at its start."""
        started = time.perf_counter()
        for event in events:
            self._steering.apply(self._block, event)
        colours = palette(self._steering.mixture(self._block))
        count = self._section.num_frame_per_block * FRAMES_PER_LATENT
        numbers = range(self._frame, self._frame + count)
        spec = self._spec
        frames = draw(colours, self._steering.seed, numbers, spec.width, spec.height)
        block = FrameBlock(
            index=self._block,
            first_frame=self._frame,
            frames=frames,
            latents=np.zeros((0, 0, 0, 0), np.float32),
            prompt_id=self._steering.prompt_id,
            timings=BlockTimings(total_ms=(time.perf_counter() - started) * 1000),
        )
        self._block += 1
        self._frame += count
        return block

    def close(self) -> None:
        """Nothing is held outside the object itself."""


def palette(mixture: Mixture) -> NDArray[np.float64]:
    """Colours of the bars, [BARS, 3] in 0..255: the texts' own colours, mixed by their weights."""
    colours = np.zeros((BARS, 3))
    for text, weight in mixture:
        colours += weight * _colours_of(text)
    return colours


def draw(
    colours: NDArray[np.float64], seed: int, numbers: range, width: int, height: int
) -> NDArray[np.uint8]:
    """Pictures, uint8 [T, H, W, 3]: bars that wander with the frame number, and its barcode."""
    rng = np.random.default_rng(seed)
    start, direction, slope = rng.uniform(0.0, 1.0), rng.choice([-1, 1]), rng.uniform(-0.25, 0.25)
    x = np.arange(width) / width
    y = np.arange(height)[:, None] / height
    places = ((x + y * slope + start) * PLACES).astype(np.int64)
    table = _table(colours)
    frames = np.empty((len(numbers), height, width, 3), np.uint8)
    for frame, number in zip(frames, numbers, strict=True):
        moved = number * (PLACES // FRAMES_PER_ROUND) * int(direction)
        np.take(table, (places + moved) % PLACES, axis=0, out=frame)
        _stamp(frame, number)
    return frames


def _table(colours: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Colour at each of PLACES places across the bars, uint8 [PLACES, 3]; edges are soft."""
    place = np.arange(PLACES) / PLACES * BARS
    left = place.astype(np.int64)
    part = np.clip((place - left - 0.9) * 10.0, 0.0, 1.0)[:, None]
    mixed = colours[left] * (1.0 - part) + colours[(left + 1) % BARS] * part
    table: NDArray[np.uint8] = mixed.round().astype(np.uint8)
    return table


def read_barcode(frame: NDArray[np.uint8]) -> int:
    """The frame number, modulo 65,536, that a picture carries; also after lossy coding."""
    side = _cell(frame.shape[1])
    number = 0
    for bit in range(BARCODE_BITS):
        row, column = divmod(bit, BARCODE_COLUMNS)
        middle = frame[row * side :, column * side :][
            side // 4 : side - side // 4, side // 4 : side - side // 4
        ]
        number |= int(middle.mean() > 127) << bit
    return number


def _stamp(frame: NDArray[np.uint8], number: int) -> None:
    """Write the frame number into the top left corner: 16 cells in two rows, white is 1."""
    side = _cell(frame.shape[1])
    for bit in range(BARCODE_BITS):
        row, column = divmod(bit, BARCODE_COLUMNS)
        frame[row * side : (row + 1) * side, column * side : (column + 1) * side] = (
            255 if number >> bit & 1 else 0
        )


def _cell(width: int) -> int:
    """Side of a barcode cell, in pixels."""
    return max(4, width // 32)


def _colours_of(text: str) -> NDArray[np.float64]:
    named = [COLOURS[word] for word in re.findall(r"[a-z]+", text.lower()) if word in COLOURS]
    if named:
        return np.array([named[i % len(named)] for i in range(BARS)], np.float64)
    digest = hashlib.sha256(text.encode()).digest()
    return np.frombuffer(digest[: BARS * 3], np.uint8).reshape(BARS, 3).astype(np.float64)
