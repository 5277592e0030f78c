"""A stream without viewers: rendered as fast as it comes, into an MP4.

`generate` makes a script from options, `replay` reads one; both go through the same StreamDriver
as a live stream, so the same script gives the same frames.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import numpy as np
from av.container import OutputContainer
from numpy.typing import NDArray

from streamer.config import Config, StreamSection
from streamer.delivery.planes import video_frame
from streamer.driver import StreamDriver
from streamer.errors import ConfigError, OutputError
from streamer.stream import Ended, Event, FrameBlock, Prompt, Script, drops_decoder

TAIL_S = 10.0
"""What is rendered behind the last event of a script that does not say where it ended."""


class ClipWriter:
    """An MP4 file (H.264, yuv420p, faststart) that is playable however the writing ended.

    A place that cannot be written to is found when it is made, before anything is generated; a file
    that is there already is replaced with the first picture, not before.
    Owner: one rendering; used as a context manager.  Raises OutputError.
    """

    def __init__(self, path: Path, width: int, height: int, fps: int) -> None:
        self.path = path
        self.num_frames = 0
        self._size, self._fps = (width, height), fps
        self._was_there = path.exists()
        self._container: OutputContainer | None = None
        try:
            with path.open("ab"):
                pass
        except OSError as error:
            raise OutputError(
                f"{path}: cannot be written: {error.strerror}; choose another place with --out"
            ) from error

    def __enter__(self) -> ClipWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def write(self, frames: NDArray[np.uint8]) -> None:
        """Append frames, RGB or planes (`FrameBlock`).  Raises OutputError: a full disk, say."""
        try:
            if self._container is None:
                self._container = self._open()
            stream = self._container.streams.video[0]
            for pixels in frames:
                frame = video_frame(pixels)
                frame.pts = self.num_frames
                self._container.mux(stream.encode(frame))
                self.num_frames += 1
        except (OSError, av.FFmpegError) as error:
            raise OutputError(f"{self.path}: cannot be written: {error}") from error

    def close(self) -> None:
        """Finish the file; without a single frame, leave the place as it was found."""
        container, self._container = self._container, None
        try:
            if container is not None:
                container.mux(container.streams.video[0].encode(None))
                container.close()
            if not self.num_frames and not self._was_there:
                self.path.unlink(missing_ok=True)
        except (OSError, av.FFmpegError) as error:
            raise OutputError(f"{self.path}: cannot be written: {error}") from error

    def _open(self) -> OutputContainer:
        container = av.open(str(self.path), "w", format="mp4", options={"movflags": "+faststart"})
        stream = container.add_stream("libx264", rate=self._fps)
        stream.width, stream.height = self._size
        stream.pix_fmt = "yuv420p"
        stream.time_base = Fraction(1, self._fps)
        stream.codec_context.options = {"crf": "18", "preset": "veryfast"}
        container.start_encoding()
        return container


@dataclass(frozen=True)
class Score:
    """What happens when, by block, and how many frames are wanted."""

    events: tuple[tuple[int, Event], ...]
    num_frames: int

    def at(self, block: int) -> tuple[Event, ...]:
        """The events of one block."""
        return tuple(event for index, event in self.events if index == block)

    def starts_before_end(self, frames_per_block: int) -> None:
        """Raise ConfigError when an event lies behind the end."""
        last = max(index for index, _ in self.events)
        if last * frames_per_block >= self.num_frames:
            raise ConfigError(
                f"a prompt at block {last} ({last * frames_per_block} frames) lies behind the end "
                f"of a clip of {self.num_frames} frames; make it longer with --seconds"
            )


def frames_per_block(section: StreamSection) -> int:
    """Pixel frames in one block: four a latent frame."""
    return 4 * section.num_frame_per_block


def score_from_prompts(
    section: StreamSection, prompts: Sequence[tuple[float, Prompt]], seconds: float
) -> Score:
    """Place prompts, given in seconds, at the nearest block starts.

    Raises ConfigError for a length that is not positive, a time below 0, or one behind the end.
    """
    frames = _frames_of(section, seconds)
    block_s = frames_per_block(section) / section.fps
    events: list[tuple[int, Event]] = []
    for at_s, prompt in sorted(prompts, key=lambda pair: pair[0]):
        if not 0 <= at_s < float("inf"):
            raise ConfigError(f"--prompt-at {at_s}: the time must be 0 or more")
        events.append((round(at_s / block_s), prompt))
    score = Score(tuple(events), frames)
    score.starts_before_end(frames_per_block(section))
    return score


def pictures_before(config: Config, script: Script, block: int) -> int:
    """How many pictures the blocks before `block` show.

    The decoders of Wan show one picture for the first latent frame of a clip, which begins at block
    0 unless the stream goes on from pictures, and with every cut and new seed.
    """
    per_block = frames_per_block(config.stream)
    if config.model is None or config.model.decoder.kind == "tiny":
        return block * per_block
    begun = set() if script.spec.opening is not None else {0}
    begun |= {at for at, event in script.events if drops_decoder(event)}
    short = per_block // config.stream.num_frame_per_block - 1
    return block * per_block - short * sum(at < block for at in begun)


def score_from_script(config: Config, script: Script, seconds: float | None = None) -> Score:
    """What a recorded script asks for, to its recorded end, or `seconds` long.

    Raises ConfigError when the script holds no prompt at block 0 or ended there, and for a length
    that is not positive.
    """
    if not any(isinstance(event, Prompt) for event in script.at(0)):
        raise ConfigError("the script has no prompt at block 0; it is not of a played stream")
    section = config.stream
    ends = [index for index, event in script.events if isinstance(event, Ended)]
    if seconds is not None:
        frames = _frames_of(section, seconds)
    elif ends:
        frames = pictures_before(config, script, ends[0])
        if frames == 0:
            raise ConfigError(
                "the stream ended before its first picture; say with --seconds how much of it to "
                "render"
            )
    else:
        last = max(index for index, _ in script.events)
        frames = pictures_before(config, script, last) + round(TAIL_S * section.fps)
    events = tuple((i, e) for i, e in script.events if not isinstance(e, Ended))
    return Score(events, frames)


def _frames_of(section: StreamSection, seconds: float) -> int:
    """How many pictures a length in seconds is, at least one.  Raises ConfigError."""
    if not 0 < seconds < float("inf"):
        raise ConfigError(f"--seconds is {seconds}; it must be above 0")
    return max(1, round(seconds * section.fps))


async def render(driver: StreamDriver, score: Score) -> AsyncGenerator[FrameBlock, None]:
    """Make the blocks of a score one after the other; the last is cut to the wanted length."""
    made = 0
    while made < score.num_frames:
        block = await driver.advance(score.at(driver.next_block))
        made += len(block.frames)
        yield block
    await driver.end()


@dataclass(frozen=True)
class Rendered:
    """What a rendering made.  wall_s: seconds from the first block's start to the file's end."""

    num_frames: int
    num_blocks: int
    wall_s: float


async def render_to_file(
    driver: StreamDriver,
    score: Score,
    writer: ClipWriter,
    on_progress: Callable[[int], None] = lambda frames: None,
) -> Rendered:
    """Render a score into an open clip; `on_progress(frames_done)` is called after each block."""
    start = time.perf_counter()
    blocks = 0
    async with aclosing(render(driver, score)) as made:
        async for block in made:
            room = score.num_frames - writer.num_frames
            writer.write(block.frames[:room])
            blocks += 1
            on_progress(writer.num_frames)
    return Rendered(writer.num_frames, blocks, time.perf_counter() - start)
