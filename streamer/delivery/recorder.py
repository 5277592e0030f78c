"""Records a stream: the packets that are sent anyway, written as they go.

One recording is a folderless set of files with one name: the `.mp4`, and beside it the prompts as
`.vtt` and the script as `.jsonl`, both up to date while it grows.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from streamer.delivery.fanout import Broadcast
from streamer.delivery.mp4 import SUFFIXES, Cue, GrowingFile, finish, webvtt, write_clip
from streamer.delivery.subscription import Packet, Subscription, SubscriptionClosedError
from streamer.errors import OutputError, StreamStateError
from streamer.pacing import CLOCK_RATE

log = logging.getLogger(__name__)

State = Literal["recording", "finished", "failed"]

DISK_LAG_S = 5.0
"""How much video may wait for a slow disk before frames are lost."""


class Recorder:
    """One recording of one stream.

    Owner: the server's Recordings, on the event loop; the disk is touched in threads only.
    tags: asked for the metadata of the file when it begins and when it ends.  script: asked for the
    script so far.  cues: the prompts shown so far, as (pts, text), oldest first.
    on_changed: called when `state` changes.
    A disk that refuses ends the recording with a reason and leaves the stream alone.
    """

    def __init__(
        self,
        path: Path,
        broadcast: Broadcast,
        *,
        tags: Callable[[], dict[str, str]],
        script: Callable[[], str],
        cues: Sequence[tuple[int, str]] = (),
        on_changed: Callable[[], None] = lambda: None,
    ) -> None:
        self.path = path
        self.state: State = "recording"
        self.detail = ""
        self.seconds = 0.0
        self._broadcast = broadcast
        self._tags, self._script, self._on_changed = tags, script, on_changed
        self._prompts = list(cues)
        self._origin: int | None = None
        self._subscription = Subscription(
            broadcast,
            "H264",
            lag_limit_s=DISK_LAG_S,
            is_adaptive=False,
            keeps_rest=True,
            clock=broadcast.clock,
        )
        self._task: asyncio.Task[None] | None = None
        self._notes: set[asyncio.Task[None]] = set()

    def begin(self) -> None:
        """Start to write, from the next key frame on."""
        self._subscription.join()
        self._task = asyncio.get_running_loop().create_task(self._run(), name="recorder")

    async def stop(self) -> None:
        """Finish the file.  Idempotent; also after a failure."""
        self._subscription.close()
        if self._task is not None:
            await asyncio.shield(self._task)

    def note_prompt(self, pts: int, text: str) -> None:
        """The first frame of a prompt left, at that time of the stream's clock."""
        self._prompts.append((pts, text))
        if self.state == "recording" and self._origin is not None:
            noting = asyncio.get_running_loop().create_task(self._note())
            self._notes.add(noting)
            noting.add_done_callback(self._notes.discard)

    @property
    def num_dropped(self) -> int:
        """Frames lost because the disk was slow."""
        return self._subscription.num_dropped

    def cues(self) -> list[Cue]:
        """The prompts of the recording; the first is what played when it began."""
        return [] if self._origin is None else cues_from(self._prompts, self._origin)

    async def _run(self) -> None:
        try:
            await self._record()
        except OutputError as error:
            log.error("recording failed path=%s reason=%s", self.path, error)
            self._set_state("failed", str(error))
        except Exception as error:
            log.exception("recording failed unexpectedly path=%s", self.path)
            self._set_state("failed", f"unexpected failure: {error}")
        finally:
            self._subscription.close()

    async def _record(self) -> None:
        try:
            first = await self._subscription.next()
        except SubscriptionClosedError:
            self._set_state("failed", "it was stopped before the first frame came")
            return
        self._origin = first.pts
        file = await asyncio.to_thread(GrowingFile, self.path, first, self._tags())
        try:
            await self._write_companions()
            await self._fill(file, first)
            await asyncio.to_thread(file.close)
        except BaseException:
            await asyncio.to_thread(file.abandon)
            raise
        self.seconds = file.seconds
        await asyncio.gather(*self._notes)
        await self._write_companions()
        await asyncio.to_thread(finish, self.path, self.cues(), self._tags())
        self._set_state("finished")

    async def _fill(self, file: GrowingFile, first: Packet) -> None:
        """Write packets until the subscription is closed."""
        packet = first
        while True:
            await asyncio.to_thread(file.add, packet)
            self.seconds = file.seconds
            try:
                packet = await self._subscription.next()
            except SubscriptionClosedError:
                return

    async def _note(self) -> None:
        """Write what changed; whether the disk takes it at the end is what counts."""
        try:
            await self._write_companions()
        except OutputError as error:
            log.warning("captions not written path=%s reason=%s", self.path, error)

    async def _write_companions(self) -> None:
        captions = webvtt(self.cues(), self.seconds)
        await asyncio.to_thread(write_companions, self.path, captions, self._script())

    def _set_state(self, state: State, detail: str = "") -> None:
        self.state, self.detail = state, detail
        self._on_changed()


async def save_last(
    path: Path,
    broadcast: Broadcast,
    seconds: float,
    *,
    prompts: Sequence[tuple[int, str]],
    tags: dict[str, str],
    script: str,
) -> tuple[Path, float]:
    """Write what was sent in the last seconds as a clip; returns its path and how long it became.

    It begins with a key frame, so it may be some seconds longer than asked.  Where only VP8 was
    sent it is a `.webm`, since FFmpeg has no VP8 in MP4.
    Raises StreamStateError when nothing was sent yet, OutputError when the disk refuses; then no
    film is left.
    """
    rewind = broadcast.rewind
    packets = rewind.last(seconds)
    if len(packets) < 2 or rewind.codec is None or packets[0].pts is None:
        raise StreamStateError(
            "there is nothing to save yet: a stream is kept while somebody watches it"
        )
    newest = packets[-1].pts
    assert newest is not None
    shown = [(pts, text) for pts, text in prompts if pts <= newest]
    cues = cues_from(shown, packets[0].pts)
    path = path.with_suffix(SUFFIXES[rewind.codec])
    length_s = await asyncio.to_thread(write_clip, path, rewind.codec, packets, cues, tags)
    try:
        await asyncio.to_thread(write_companions, path, webvtt(cues, length_s), script)
    except OutputError:
        await asyncio.to_thread(path.unlink, missing_ok=True)
        raise
    return path, length_s


def cues_from(prompts: Sequence[tuple[int, str]], origin: int) -> list[Cue]:
    """Cues for prompts given as (pts, text), in a file whose time 0 is `origin`.

    Of those before it only the last counts: it is what the file begins with.
    """
    before = [Cue(0.0, text) for pts, text in prompts if pts <= origin][-1:]
    after = [Cue((pts - origin) / CLOCK_RATE, text) for pts, text in prompts if pts > origin]
    return before + after


def write_companions(path: Path, captions: str, script: str) -> None:
    """Write captions and script beside a recording.  Raises OutputError."""
    for suffix, text in ((".vtt", captions), (".jsonl", script)):
        target = path.with_suffix(suffix)
        part = target.with_name(f".{target.name}.part")
        try:
            part.write_text(text, encoding="utf-8")
            part.replace(target)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise OutputError(f"{target.name}: cannot be written: {error.strerror}") from error
