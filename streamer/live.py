"""One live stream: the asyncio loop that turns wanted changes into blocks and blocks into viewing.

The loop keeps one order: room -> newest prompt -> next block -> publish.  Waiting for room first
is what makes a prompt take effect soon: nothing is made before there is a place for it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Literal, Protocol, TextIO

from streamer.changes import Changes, ShownPrompt, ShownSeed
from streamer.config import Config
from streamer.delivery.encoder import H264Encoder, best_h264
from streamer.delivery.fanout import Broadcast
from streamer.driver import Engine, StreamDriver
from streamer.errors import EngineError, OutputError, StreamerError, StreamStateError
from streamer.governor import Governor, Reading
from streamer.metrics import Metrics
from streamer.pacing import Playout
from streamer.server.protocol import (
    Error,
    Message,
    PastPrompt,
    PromptAccepted,
    PromptApplied,
    PromptField,
    PromptHistory,
    RenditionField,
    SeedApplied,
    StagesField,
    Statistics,
    Status,
    StreamInfo,
    TransitionField,
)
from streamer.stream import (
    NO_ECONOMY,
    Economy,
    Event,
    FrameBlock,
    Opening,
    Prompt,
    StreamSpec,
)

log = logging.getLogger(__name__)

State = Literal["starting", "playing", "paused", "restoring", "parked", "ended"]

STATISTICS_EVERY_S = 1.0
BLOCKS_MEASURED = 8
"""The speed shown is that of so many newest blocks."""


class Client(Protocol):
    """One connection attached to a stream: a director or a viewer."""

    def tell(self, message: Message) -> None:
        """Send a message soon; returns at once."""

    def rtp_timestamp(self, pts: int) -> int | None:
        """What a frame with that pts carries to this client; None without video."""


class LiveStream:
    """One stream with its clock, its viewers and its state.

    Owner: the server's `Streams`; lives on the event loop until `end`, an error, or until nobody
    has watched for `forget_after_s`.  Never touches torch; only its own loop advances its driver.
    broadcast: the fan-out to use, None for a real one.  on_ended: called once everything is freed.
    """

    def __init__(
        self,
        stream_id: str,
        config: Config,
        engine: Engine,
        prompt: Prompt,
        seed: int,
        *,
        opening: Opening | None = None,
        broadcast: Broadcast | None = None,
        metrics: Metrics | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        on_ended: Callable[[LiveStream], None] = lambda stream: None,
    ) -> None:
        """Raises OutputError when the script cannot be written where the configuration says."""
        section, server = config.stream, config.server
        self.id = stream_id
        self.state: State = "starting"
        self.spec = StreamSpec(
            config.name, seed, section.width, section.height, section.fps, opening
        )
        self.playout = Playout(section.fps, clock=clock, sleep=sleep)
        self.broadcast = broadcast or Broadcast(
            section.width,
            section.height,
            section.fps,
            server.bitrate_kbps,
            h264=_h264(server.h264_encoder),
            rewind_s=server.rewind_s,
        )
        self.changes = Changes(prompt, seed, clock=clock)
        self._metrics = metrics or Metrics()
        self._engine = engine
        self._governor = Governor()
        self._economy = NO_ECONOMY
        self._script_file = _open_script(server.script_dir, stream_id)
        self._driver = StreamDriver(
            engine,
            self.spec,
            section,
            script_file=self._script_file,
            on_restoring=self._worker_died,
        )
        self._park_after_s = server.park_after_s
        self._forget_after_s = server.forget_after_s
        self._clock, self._sleep, self._on_ended = clock, sleep, on_ended
        self._clients: list[Client] = []
        self._watching: list[Client] = []
        self._keeping: list[Client] = []
        self._unwatched_since: float | None = clock()
        self._is_paused = self._is_making = self._was_restored = False
        self._made: deque[tuple[int, float]] = deque(maxlen=BLOCKS_MEASURED)
        self._num_pushed = 0
        self._changed, self._end_wanted = asyncio.Event(), asyncio.Event()
        self._end_detail = ""
        self._life: asyncio.Task[None] | None = None

    # ---- what the server asks for ---------------------------------------------------------------

    def begin(self) -> None:
        """Start the loop.  The stream is `starting` until its first block is made."""
        self._life = asyncio.get_running_loop().create_task(self._live(), name=f"live {self.id}")

    async def end(self, detail: str) -> None:
        """End for everybody, with a sentence for people, and free everything.  Idempotent."""
        self._ask_to_end(detail)
        if self._life is not None:
            await asyncio.shield(self._life)

    def attach(self, client: Client) -> None:
        """From now on `client` is told what happens to the stream."""
        self._require_alive()
        if client not in self._clients:
            self._clients.append(client)

    def detach(self, client: Client) -> None:
        """`client` is gone, with its video.  Idempotent."""
        self.unwatch(client)
        if client in self._clients:
            self._clients.remove(client)

    def watch(self, client: Client, *, is_viewer: bool = True) -> None:
        """`client` watches from now on; a parked stream comes back.

        is_viewer false: it keeps the stream going, as a recording does, and is not counted.
        """
        self._require_alive()
        group = self._watching if is_viewer else self._keeping
        if client not in group:
            group.append(client)
        self._unwatched_since = None
        if self.state == "parked":
            back: State = "restoring" if self._driver.next_block else "starting"
            self._set_state("paused" if self._is_paused else back)
        self._changed.set()

    def unwatch(self, client: Client) -> None:
        """`client` watches no longer.  Idempotent."""
        for group in (self._watching, self._keeping):
            if client in group:
                group.remove(client)
                if not (self._watching or self._keeping):
                    self._unwatched_since = self._clock()

    def set_prompt(self, prompt: Prompt) -> PromptAccepted:
        """Want this prompt from the next block on; the newest wins."""
        self._require_alive()
        self.changes.want_prompt(prompt)
        return PromptAccepted(
            prompt_id=prompt.id,
            block=self._driver.next_block + int(self._is_making),
            applies_in_s=round(self.playout.applies_in_s, 3),
        )

    def set_seed(self, seed: int) -> None:
        """Begin the picture anew with other noise from the next block on."""
        self._require_alive()
        self.changes.want_seed(seed)

    def pause(self) -> None:
        """Make no more blocks; the last picture stays.  Idempotent."""
        self._require_alive()
        self._is_paused = True
        self.playout.pause()
        if self.state != "parked":
            self._set_state("paused")
        self._changed.set()

    def resume(self) -> None:
        """Go on after a pause.  Idempotent."""
        self._require_alive()
        if not self._is_paused:
            return
        self._is_paused = False
        self.playout.resume()
        if self.state != "parked":
            self._set_state("playing" if self._driver.next_block else "starting")
        self._changed.set()

    def park(self) -> None:
        """Give up the worker's side after the block being made, unless somebody watches."""
        if self._unwatched_since is not None:
            self._unwatched_since = self._clock() - self._park_after_s
            self._changed.set()

    @property
    def num_viewers(self) -> int:
        """How many clients watch."""
        return len(self._watching)

    @property
    def unwatched_s(self) -> float:
        """For how long nobody has watched."""
        return 0.0 if self._unwatched_since is None else self._clock() - self._unwatched_since

    @property
    def holds_place(self) -> bool:
        """Whether it takes up room in a worker, or is about to."""
        return self.state not in ("parked", "ended") and not self._is_parking_due

    def info(self, token: str | None) -> StreamInfo:
        """What a client that attaches is told; token: for the director only."""
        spec = self.spec
        return StreamInfo(
            id=self.id,
            token=token,
            model=spec.model,
            seed=self.changes.seed,
            width=spec.width,
            height=spec.height,
            fps=spec.fps,
            prompt=_prompt_field(self.changes.prompt),
            state=self.state,
        )

    def history(self) -> PromptHistory:
        """What was shown so far, for a client that comes late."""
        return PromptHistory(
            prompts=[
                PastPrompt(
                    prompt_id=each.prompt.id,
                    text=each.prompt.text,
                    block=each.block,
                    frame=each.frame,
                )
                for each in self.changes.shown
            ],
            frame=0 if (last := self.broadcast.last_frame) is None else last.number,
        )

    def script(self) -> str:
        """The script so far, as JSON Lines for `streamer replay`."""
        return "".join(f"{line}\n" for line in self._driver.script.lines())

    # ---- the life of the stream -----------------------------------------------------------------

    async def _live(self) -> None:
        """Run the three tasks until one fails or the end is wanted; then free everything."""
        parts = [
            asyncio.ensure_future(part)
            for part in (self._make(), self._play(), self._keep_watch(), self._end_wanted.wait())
        ]
        try:
            await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for part in parts:
                part.cancel()
            outcomes = await asyncio.gather(*parts, return_exceptions=True)
            failures = [e for e in outcomes if isinstance(e, Exception)]
            await self._free(_as_streamer_error(failures[0]) if failures else None)

    async def _free(self, error: StreamerError | None) -> None:
        if error is not None:
            log.error("stream ended stream=%s code=%s reason=%s", self.id, error.code, error)
            self.tell_all(Error(code=error.code, message=str(error)))
        self._set_state("ended", str(error) if error else self._end_detail)
        self.playout.close()
        freeing = await asyncio.gather(
            self._driver.end(), self.broadcast.close(), return_exceptions=True
        )
        for failure in freeing:
            if isinstance(failure, Exception):
                log.error("freeing failed stream=%s reason=%r", self.id, failure)
        if self._script_file is not None:
            try:
                self._script_file.close()
            except OSError as failure:  # a full disk fails again: what could be kept is kept
                log.error("script not closed stream=%s reason=%s", self.id, failure)
        self._clients.clear()
        self._watching.clear()
        self._keeping.clear()
        self._on_ended(self)

    async def _make(self) -> None:
        """Make blocks for ever, in the one order."""
        while True:
            await self._until_wanted()
            if await self._is_there_room():
                await self._make_block(self.changes.take(self._driver.next_block))

    async def _until_wanted(self) -> None:
        """Return when blocks are wanted: not while paused or when nobody has watched for long."""
        while True:
            if self._is_parking_due:
                if self.state != "parked":
                    self._set_state("parked", "nobody watches; the stream waits where it is")
                    self.playout.clear()
                    await self._driver.park()
                    continue
            elif not self._is_paused:
                return
            self._changed.clear()
            await self._changed.wait()

    async def _is_there_room(self) -> bool:
        """Wait for room in the queue; False when a pause or parking must be looked at first."""
        self._changed.clear()
        room = asyncio.ensure_future(self.playout.wait_for_room())
        changed = asyncio.ensure_future(self._changed.wait())
        try:
            await asyncio.wait((room, changed), return_when=asyncio.FIRST_COMPLETED)
            if room.done():
                room.result()
                return True
            return False
        finally:
            for waiting in (room, changed):
                waiting.cancel()
            await asyncio.gather(room, changed, return_exceptions=True)

    async def _make_block(self, events: list[Event]) -> None:
        is_cold, self._was_restored = self._driver.is_parked, False
        began_s = self._clock()
        self._is_making = True
        try:
            block = await self._driver.advance(events)
        finally:
            self._is_making = False
        self._note(block, self._clock() - began_s, is_cold or self._was_restored)
        if self.state in ("starting", "restoring"):
            self._set_state("paused" if self._is_paused else "playing")

    def _note(self, block: FrameBlock, took_s: float, was_cold: bool) -> None:
        """Queue the block.  Loading or restoring before it says nothing about the next one."""
        alone_s = block.timings.total_ms / 1000
        made_in_s = alone_s if was_cold and alone_s > 0 else took_s
        self._made.append((len(block.frames), made_in_s))
        self.playout.put(block, made_in_s)
        self._metrics.note_block(made_in_s)
        self.changes.note_made(block)
        self._govern(made_in_s, len(block.frames) / self.spec.fps)

    def _govern(self, made_s: float, shown_s: float) -> None:
        """Let the governor look at the block just made, and do from the next one on as it says."""
        governor = self._governor
        governor.able = self._engine.able
        before = governor.decision.measure
        measure = governor.note(Reading(made_s, shown_s)).measure
        if measure == before:
            return
        log.info("governor stream=%s from=%s to=%s", self.id, before, measure)
        self._metrics.note_measure(measure)
        self.playout.shorten_lead(governor.holds("lead"))
        economy = Economy(governor.holds("decoder"), governor.holds("steps"))
        if economy != self._economy:
            self._economy = economy
            self.changes.want_economy(economy)

    async def _play(self) -> None:
        """Hand each frame to the viewers when it is due."""
        async for frame in self.playout.frames():
            await self.broadcast.push(frame)
            self._num_pushed += 1
            self._metrics.note_frame(self.broadcast.encode_s)
            if (seed := self.changes.seed_shown_with(frame)) is not None:
                self._tell_reseeded(seed)
            if (
                prompt := self.changes.prompt_shown_with(frame, self.broadcast.encode_s)
            ) is not None:
                self._tell_applied(prompt)

    async def _keep_watch(self) -> None:
        """Once a second: statistics, and whether anybody is still there."""
        then_s, pushed = self._clock(), self._num_pushed
        while True:
            await self._sleep(STATISTICS_EVERY_S)
            now_s = self._clock()
            fps_played = (self._num_pushed - pushed) / max(now_s - then_s, 1e-3)
            then_s, pushed = now_s, self._num_pushed
            self.tell_all(self._statistics(fps_played))
            if self.unwatched_s >= self._forget_after_s:
                self._ask_to_end("nobody watched for a long time; start a new stream")
            elif self._is_parking_due and self.state != "parked":
                self._changed.set()

    # ---- what is told ---------------------------------------------------------------------------

    def _statistics(self, fps_played: float) -> Statistics:
        frames = sum(made[0] for made in self._made)
        seconds = sum(made[1] for made in self._made)
        return Statistics(
            fps_generated=round(frames / seconds, 2) if seconds > 0 else 0.0,
            fps_played=round(fps_played, 2),
            playback_rate=round(self.playout.playback_rate, 3),
            queued_s=round(self.playout.queued_s, 3),
            lead_s=round(self.playout.lead_s, 3),
            block_ms=round(1000 * seconds / len(self._made), 1) if self._made else 0.0,
            block=max(0, self._driver.next_block - 1),
            viewers=self.num_viewers,
            dropped=self.playout.dropped + self.broadcast.dropped,
            bitrate_kbps=round(self.broadcast.bitrate_kbps, 1),
            key_frames=self.broadcast.num_keyframes,
            renditions=[
                RenditionField(
                    codec=each.codec,
                    tier=each.tier,
                    width=each.width,
                    height=each.height,
                    kbps=each.kbps,
                    viewers=each.viewers,
                )
                for each in self.broadcast.renditions
            ],
            measure=self._governor.decision.measure,
            measure_reason=self._governor.decision.reason,
        )

    def _tell_applied(self, shown: ShownPrompt) -> None:
        """Tell each client which of its pictures is the first of the newest prompt."""
        self._metrics.note_shown(shown.stages)
        stages = shown.stages
        for client in list(self._clients):
            client.tell(
                PromptApplied(
                    prompt_id=shown.prompt.id,
                    text=shown.prompt.text,
                    block=shown.block,
                    frame=shown.frame,
                    rtp_timestamp=client.rtp_timestamp(shown.pts),
                    pts=shown.pts,
                    stages_ms=StagesField(
                        wait=_ms(stages.wait_s),
                        text=_ms(stages.text_s),
                        block=_ms(stages.block_s),
                        decode=_ms(stages.decode_s),
                        queue=_ms(stages.queue_s),
                        encode=_ms(stages.encode_s),
                    ),
                )
            )

    def _tell_reseeded(self, shown: ShownSeed) -> None:
        """Tell everybody the seed of the picture from this frame on."""
        self.tell_all(SeedApplied(seed=shown.seed, block=shown.block, frame=shown.frame))

    def tell_all(self, message: Message) -> None:
        """Tell everybody attached."""
        for client in list(self._clients):
            client.tell(message)

    def _set_state(self, state: State, detail: str = "") -> None:
        if self.state in (state, "ended"):
            return
        log.info("stream state stream=%s from=%s to=%s", self.id, self.state, state)
        self.state = state
        self.tell_all(Status(state=state, detail=detail))

    def _worker_died(self) -> None:
        self._was_restored = True
        self._set_state("restoring", "the engine stopped; the stream goes on where it was")

    def _ask_to_end(self, detail: str) -> None:
        if not self._end_wanted.is_set():
            self._end_detail = detail
            self._end_wanted.set()

    def _require_alive(self) -> None:
        if self.state == "ended" or self._end_wanted.is_set():
            raise StreamStateError(f"the stream {self.id} has ended; start a new one")

    @property
    def _is_parking_due(self) -> bool:
        return self._unwatched_since is not None and self.unwatched_s >= self._park_after_s


def _open_script(folder: str | None, stream_id: str) -> TextIO | None:
    """The file the script goes to as the stream goes; None when no folder is configured."""
    if folder is None:
        return None
    path = Path(folder).expanduser() / f"{stream_id}.jsonl"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("w", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path}: the script cannot be written: {error.strerror}") from error


def _h264(wanted: H264Encoder | Literal["auto"]) -> H264Encoder:
    return best_h264() if wanted == "auto" else wanted


def _prompt_field(prompt: Prompt) -> PromptField:
    transition = None
    if (wanted := prompt.transition) is not None:
        transition = TransitionField.model_validate(
            {"kind": wanted.kind.value, "blocks": wanted.blocks}
        )
    return PromptField(id=prompt.id, text=prompt.text, transition=transition)


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 1)


def _as_streamer_error(error: Exception) -> StreamerError:
    if isinstance(error, StreamerError):
        return error
    if isinstance(error, OSError):
        return OutputError(f"writing failed: {error}")
    log.error("unexpected failure in a stream", exc_info=error)
    return EngineError(f"unexpected failure: {type(error).__name__}: {error}")
