"""Player: streams of a loaded model, made as the server makes them, for a judge or a sheet."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from streamer.config import Config
from streamer.distill.classifier import CLIP_FPS, CLIP_FRAMES
from streamer.engine.diffusion import DiffusionModel
from streamer.stream import FrameBlock, Prompt, StreamSpec


class Player:
    """Makes streams with a loaded model; counts the blocks, the frames and the time they took.

    Owned by one evaluation or one sheet.  on_block: told the number of blocks made so far.
    """

    def __init__(
        self,
        model: DiffusionModel,
        config: Config,
        on_block: Callable[[int], None] = lambda count: None,
    ) -> None:
        self._model = model
        self._config = config
        self._on_block = on_block
        self.num_blocks = 0
        self.num_frames = 0
        self.seconds = 0.0

    @property
    def fps(self) -> int:
        """Frames of a second of video."""
        return self._config.stream.fps

    @property
    def block_frames(self) -> int:
        """Frames of a block."""
        return self._model.max_frames

    @property
    def clip_frames(self) -> int:
        """Frames that the judge needs to see."""
        return (CLIP_FRAMES - 1) * max(1, round(self.fps / CLIP_FPS)) + 1

    def play(self, seed: int, prompts: Mapping[int, str]) -> Generator[FrameBlock, None, None]:
        """An endless stream; prompts: texts by the block they take effect at, the first at 0.

        Changes come in by the configuration's own transition.
        """
        section = self._config.stream
        spec = StreamSpec(self._config.name, seed, section.width, section.height, section.fps)
        stream = self._model.open(spec)
        number = 0
        try:
            while True:
                text = prompts.get(number)
                events = () if text is None else (Prompt(f"p{number}", text),)
                started = time.perf_counter()
                block = stream.next_block(events)
                self.seconds += time.perf_counter() - started
                self.num_frames += len(block.frames)
                self.num_blocks += 1
                self._on_block(self.num_blocks)
                yield block
                number += 1
        finally:
            stream.close()


def take(stream: Iterator[FrameBlock], num_blocks: int) -> NDArray[np.uint8]:
    """The frames of the next blocks of a stream: [T, H, W, 3]."""
    return np.concatenate([next(stream).frames for _ in range(num_blocks)])
