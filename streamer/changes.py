"""What somebody wants changed in a stream, on its way to the screen: wanted, taken, made, shown.

`Changes` owns the newest wishes and what became of the earlier ones.  It knows neither who wishes
nor who is told; times are seconds of the clock it is given.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from streamer.pacing import TimedFrame
from streamer.stream import Economy, Event, FrameBlock, Prompt, Reseed

HISTORY_LIMIT = 200
"""So many prompts are remembered."""


@dataclass(frozen=True)
class Stages:
    """Where the time from a prompt to its first encoded picture went, in seconds.

    wait: until a block was begun with it.  block: what the making of that block took besides the
    text and the decoding.  queue: from there until the picture was due.
    """

    wait_s: float
    text_s: float
    block_s: float
    decode_s: float
    queue_s: float
    encode_s: float


@dataclass(frozen=True)
class ShownPrompt:
    """A prompt and its first frame.  pts: when that left, in 1/90000 s of the stream's clock."""

    prompt: Prompt
    block: int
    frame: int
    pts: int
    stages: Stages


@dataclass(frozen=True)
class ShownSeed:
    """A seed and the first frame of the picture that began anew with it."""

    seed: int
    block: int
    frame: int


@dataclass
class _OnItsWay:
    """A prompt that a block was begun with."""

    block: int
    prompt: Prompt
    wait_s: float
    taken_s: float
    text_s: float = 0.0
    decode_s: float = 0.0
    made_s: float = 0.0


class Changes:
    """The changes of one stream.  Owner: LiveStream, for its life, on the event loop.

    prompt, seed: what the stream begins with.  shown: the prompts so far, oldest first.
    """

    def __init__(
        self, prompt: Prompt, seed: int, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.prompt, self.seed = prompt, seed
        self.seed_shown = seed
        self.shown: deque[ShownPrompt] = deque(maxlen=HISTORY_LIMIT)
        self._clock = clock
        self._wanted_prompt: Prompt | None = prompt
        self._wanted_at_s = clock()
        self._wanted_seed: int | None = None
        self._wanted_economy: Economy | None = None
        self._prompts: deque[_OnItsWay] = deque()
        self._seeds: deque[tuple[int, int]] = deque()  # blocks, and their new seeds

    def want_prompt(self, prompt: Prompt) -> None:
        """The newest wins."""
        self.prompt = self._wanted_prompt = prompt
        self._wanted_at_s = self._clock()

    def want_seed(self, seed: int) -> None:
        """Begin the picture anew."""
        self.seed = self._wanted_seed = seed

    def want_economy(self, economy: Economy) -> None:
        """Make blocks with less, or as usual."""
        self._wanted_economy = economy

    def take(self, block: int) -> list[Event]:
        """What takes effect at the block that is begun now."""
        prompt, self._wanted_prompt = self._wanted_prompt, None
        seed, self._wanted_seed = self._wanted_seed, None
        economy, self._wanted_economy = self._wanted_economy, None
        events: list[Event] = []
        if economy is not None:
            events.append(economy)  # first: another decoder looks back at what a scene drops
        if prompt is not None:
            events.append(prompt)
            now_s = self._clock()
            self._prompts.append(_OnItsWay(block, prompt, now_s - self._wanted_at_s, now_s))
        if seed is not None:
            events.append(Reseed(seed))
            self._seeds.append((block, seed))
        return events

    def note_made(self, block: FrameBlock) -> None:
        """A block was made."""
        for each in self._prompts:
            if each.block == block.index:
                each.text_s = block.timings.text_ms / 1000
                each.decode_s = block.timings.decode_ms / 1000
                each.made_s = self._clock()

    def prompt_shown_with(self, frame: TimedFrame, encode_s: float) -> ShownPrompt | None:
        """The newest prompt whose first frame has just left with this one.

        encode_s: how long it was encoded.  None: it shows what was shown before.
        """
        newest = None
        while self._prompts and self._prompts[0].block <= frame.block:
            newest = self._prompts.popleft()
        if newest is None:
            return None
        making_s = newest.made_s - newest.taken_s
        stages = Stages(
            wait_s=newest.wait_s,
            text_s=newest.text_s,
            block_s=max(0.0, making_s - newest.text_s - newest.decode_s),
            decode_s=newest.decode_s,
            queue_s=max(0.0, self._clock() - newest.made_s - encode_s),
            encode_s=encode_s,
        )
        shown = ShownPrompt(newest.prompt, newest.block, frame.number, frame.pts, stages)
        self.shown.append(shown)
        return shown

    def seed_shown_with(self, frame: TimedFrame) -> ShownSeed | None:
        """The newest seed whose first frame has just left with this one."""
        block = None
        while self._seeds and self._seeds[0][0] <= frame.block:
            block, self.seed_shown = self._seeds.popleft()
        return None if block is None else ShownSeed(self.seed_shown, block, frame.number)
