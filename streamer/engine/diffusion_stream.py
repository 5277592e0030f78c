"""DiffusionStream: prompt -> noise -> denoise -> commit -> decode -> FrameBlock.

A stream is a function of (weights, spec, script): its noise comes from (seed, block, draw) and its
caches are rebuilt from the clean latents that the truth keeps.  Runs inside the worker.

Positions in time are those of the whole stream; a cut empties the ring and goes on counting.  The
model sees distances only, and against the sinks the distance to the window's edge, so a context
rebuilt from kept blocks closes the gap between sinks and window and gives every key the distance
that it would have had.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import wait
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from streamer.engine.decoding import Decoded, DecodeThread, Decoding
from streamer.engine.memory import memory_guard
from streamer.engine.steering import Mixture, Steering
from streamer.engine.timeline import Mark, Timeline
from streamer.errors import EngineError
from streamer.models.context import StreamingContext
from streamer.models.sampler import (
    BlockSolver,
    block_noise,
    recache_together,
    write_and_begin,
    write_block,
)
from streamer.models.transformer import PromptKV
from streamer.stream import (
    BlockTimings,
    Economy,
    Event,
    FrameBlock,
    History,
    Prompt,
    Reseed,
    TransitionKind,
    Truth,
    blocks_covering,
)

if TYPE_CHECKING:
    from streamer.engine.diffusion import DiffusionModel


@dataclass(frozen=True)
class Ahead:
    """What has been done of the next block: its first steps, and when.

    Good for a block that begins without any event, and never used for another.
    """

    solver: BlockSolver
    marks: tuple[tuple[Mark, Mark], ...] = ()


class DiffusionStream:
    """One endless video.  Owner: the worker, until the stream is closed or parked.

    Holds caches only: the ring, the prompt's keys and values, the decoder's memory, the last clean
    latents.  All of it can be rebuilt from the truth that the parent keeps.
    """

    def __init__(self, model: DiffusionModel, truth: Truth) -> None:
        section = model.stream
        self._model = model
        self._section = section
        self._steering = Steering.at(
            truth.script, truth.next_block, section.transition.transition()
        )
        self._block = truth.next_block
        self._frame = truth.first_frame
        self._history = History(section.window, section.sink)
        economy = self._steering.economy
        self._steps = model.means.steps_for(economy)
        self._decoding = Decoding(model.means.decoder_for(economy), model.device, model.to_planes)
        self._seat = model.take_seat()
        self._context, self._prompt = self._seat.context, self._seat.prompt
        self._mixture: Mixture = ()
        self._ahead: Ahead | None = None
        self._timeline = Timeline(model.device)
        self._marks: list[tuple[Mark, Mark]] = []
        self._clean_marks: list[tuple[Mark, Mark]] = []
        self._restore(truth)

    def next_block(self, events: Sequence[Event]) -> FrameBlock:
        """Make the next block; events take effect at its start.

        Raises OutOfMemoryError, and EngineError when a stream without a window is full.
        """
        with memory_guard(), torch.inference_mode():
            return self._next_block(events)

    def close(self) -> None:
        """Free the device memory."""
        self._model.give_back(self._seat)
        del self._context, self._prompt, self._seat, self._decoding
        if self._model.device.type == "cuda":
            torch.cuda.empty_cache()

    def _next_block(self, events: Sequence[Event]) -> FrameBlock:
        started = time.perf_counter()
        ahead, self._ahead = None if events else self._ahead, None
        self._check_room(events)
        self._apply(events)
        written = time.perf_counter()
        self._marks[:] = ahead.marks if ahead else ()
        solver = ahead.solver if ahead else self._new_solver(self._block)
        self._context.begin(solver.num_frames)
        while solver.num_left:
            solver.advance(self._flow, self._prompt, self._context)
        clean, solving = solver.solved.clean, list(self._marks)
        self._marks.clear()
        thread = self._model.decode_thread
        # What a change leads to is shown as soon as can be, with all cores.
        if thread is not None and not events:
            decoded = self._decode_beside(thread, clean)
        else:
            decoded = self._decoding.begin(clean)
            self._finish(clean)
        frames, kept = decoded.wait()
        passes = self._spent(solving) + self._spent(self._clean_pass())
        started_decoding, ended_decoding, copied = decoded.marks
        block = FrameBlock(
            index=self._block,
            first_frame=self._frame,
            frames=frames,
            latents=kept,
            prompt_id=self._steering.prompt_id,
            timings=BlockTimings(
                text_ms=(written - started) * 1000,
                denoise_ms=sum(passes),
                decode_ms=self._timeline.milliseconds(started_decoding, ended_decoding),
                total_ms=(time.perf_counter() - started) * 1000,
                passes_ms=passes,
                copy_ms=self._timeline.milliseconds(ended_decoding, copied),
            ),
        )
        self._history.add(self._block, kept)
        self._block += 1
        self._frame += len(frames)
        return block

    def _flow(
        self, latents: Tensor, timestep: Tensor, text: PromptKV, context: StreamingContext
    ) -> Tensor:
        """One pass of the model, with its time noted; the sampler's `Model`."""
        first = self._timeline.mark()
        flow = self._seat.replayed(latents, timestep, text, context)
        self._marks.append((first, self._timeline.mark()))
        self._model.on_pass()
        return flow

    def _clean_pass(self) -> list[tuple[Mark, Mark]]:
        """The marks of the clean pass; on a GPU of the one before, since this one is under way."""
        newest = list(self._marks)
        known, self._clean_marks = self._clean_marks, newest
        return (known or newest) if self._model.device.type == "cuda" else newest

    def _spent(self, marks: Sequence[tuple[Mark, Mark]]) -> tuple[float, ...]:
        return tuple(self._timeline.milliseconds(*each) for each in marks)

    def _finish(self, clean: Tensor) -> None:
        """Make the block history and, where that is on, begin the next one in the same pass.

        What will change the next block is not known yet; then its first step is taken again, and
        this block is history all the same.  It is begun whether or not anybody asks for it soon:
        the same script must launch the same work, or a replay would differ in its rounding.
        """
        if not self._model.is_fused or not self._has_room_for(2):
            self._write(clean)
            return
        noise, text = self._draw_noise(self._block + 1), self._prompt
        mixture = self._steering.mixture(self._block + 1)
        if mixture != self._mixture:
            text = text.beside(self._model.encode_text(mixture))
        flow = write_and_begin(
            self._flow,
            clean,
            noise[0],
            self._steps.timesteps[0],
            text,
            self._context,
            self._model.context_timestep,
        )
        self._ahead = Ahead(BlockSolver(self._steps, noise.__getitem__, flow))

    def _decode_beside(self, thread: DecodeThread, clean: Tensor) -> Decoded:
        """Decode in a thread; meanwhile make the block history and take steps of the next one.

        Their number is the same every time, as in `_finish`.
        """
        decoding = thread.begin(self._decoding, clean)
        try:
            with thread.beside():
                self._write(clean)
                if self._has_room_for(1):
                    self._go_ahead()
        finally:
            wait([decoding])
        return decoding.result()

    def _go_ahead(self) -> None:
        """Take the first steps of the next block, as if nothing changed with it."""
        written = len(self._marks)
        solver = self._new_solver(self._block + 1)
        self._set_text(self._steering.mixture(self._block + 1))
        self._context.begin(solver.num_frames)
        for _ in range(min(self._model.num_ahead, solver.num_left - 1)):
            solver.advance(self._flow, self._prompt, self._context)
        self._ahead = Ahead(solver, tuple(self._marks[written:]))
        del self._marks[written:]

    def _write(self, clean: Tensor) -> None:
        """Make clean latents [1, F, C, H, W] the newest history of the ring."""
        timestep = self._model.context_timestep
        write_block(self._flow, clean, self._prompt, self._context, timestep)

    def _apply(self, events: Sequence[Event]) -> None:
        """Let the events take effect: forget what a transition forgets, set the text, recache."""
        is_recached = False
        for event in events:
            if isinstance(event, Economy):
                self._save(event)
            self._steering.apply(self._block, event)
            kind = self._kind_of(event)
            # What a stream begins with was written before there was any text.
            is_recached |= kind is TransitionKind.RECACHE or (kind is not None and not self._block)
            if kind in (TransitionKind.CUT, TransitionKind.SCENE):
                self._forget(keeps_decoder=kind is TransitionKind.SCENE)
        self._set_text(self._steering.mixture(self._block))
        if is_recached:
            self._recache()

    def _save(self, economy: Economy) -> None:
        """Go on with this decoder and these steps; a decoder that was not in use is shown what it
        would remember."""
        decoder = self._model.means.decoder_for(economy)
        self._steps = self._model.means.steps_for(economy)
        if decoder is not self._decoding.decoder:
            self._decoding.turn_to(decoder)
            self._remember()

    def _recache(self) -> None:
        """Write the window's keys again under the present text."""
        if not self._section.recache_together or not self._context.num_frames:
            self._rebuild(self._history.kept(), self._context.layout.num_slots)
            return
        kept = np.concatenate([latents for _, latents in self._history.kept()])
        count = min(self._section.window or len(kept), self._context.num_frames)
        recache_together(
            self._flow,
            self._to_device(kept[-count:]),
            self._prompt,
            self._context,
            self._model.context_timestep,
        )

    def _kind_of(self, event: Event) -> TransitionKind | None:
        """How an event changes the state; a new seed begins the picture anew, like a cut."""
        if isinstance(event, Reseed):
            return TransitionKind.CUT
        if isinstance(event, Prompt):
            return self._steering.transition_of(event).kind
        return None

    def _forget(self, *, keeps_decoder: bool) -> None:
        self._history.restart()
        self._context.reset(self._origin(0))
        if not keeps_decoder:
            self._decoding.forget()

    def _set_text(self, mixture: Mixture) -> None:
        if mixture == self._mixture:
            return
        self._prompt.copy_(self._model.encode_text(mixture))
        self._mixture = mixture

    def _restore(self, truth: Truth) -> None:
        """Rebuild ring and decoder memory from the kept latents, under the last block's text."""
        for index, latents in truth.history:
            self._history.add(index, latents)
        self._set_text(self._steering.mixture(max(0, self._block - 1)))
        self._rebuild(truth.history)
        self._remember()

    def _remember(self) -> None:
        """Rebuild the decoder's memory from the kept latents."""
        if kept := self._history.kept():
            latest = self._latest(kept, self._decoding.decoder.config.remembered_frames)
            self._decoding.remember(self._to_device(latest))

    @staticmethod
    def _latest(
        blocks: Sequence[tuple[int, NDArray[np.float32]]], count: int
    ) -> NDArray[np.float32]:
        """The last `count` latent frames, or as many as follow each other without a gap."""
        first = len(blocks) - 1
        while first > 0 and blocks[first - 1][0] == blocks[first][0] - 1:
            first -= 1
        return np.concatenate([latents for _, latents in blocks[first:]])[-count:]

    def _rebuild(
        self, blocks: Sequence[tuple[int, NDArray[np.float32]]], most: int | None = None
    ) -> None:
        """Write clean latents into an emptied ring: all, or sinks and newest, `most` frames."""
        sizes = [len(latents) for _, latents in blocks]
        if most is not None and sum(sizes) > most:
            sinks = blocks_covering(sizes, self._section.sink)
            newest, held = len(blocks), sum(sizes[:sinks])
            while held + sizes[newest - 1] <= most:
                newest -= 1
                held += sizes[newest]
            blocks = [*blocks[:sinks], *blocks[newest:]]
        self._context.reset(self._origin(sum(len(latents) for _, latents in blocks)))
        for _, latents in blocks:
            self._write(self._to_device(latents))

    def _origin(self, num_frames: int) -> int:
        """Position of the ring's first frame, if `num_frames` frames end where this block starts.

        Published absolute positions begin at 0 with every picture.
        """
        if self._section.absolute_positions:
            return 0
        return self._block * self._section.num_frame_per_block - num_frames

    def _new_solver(self, block: int) -> BlockSolver:
        """The steps of a block, none of them taken."""
        return BlockSolver(self._steps, self._draw_noise(block).__getitem__)

    def _draw_noise(self, block: int) -> list[Tensor]:
        """All noise of a block, on its way to the device before the first pass wants it."""
        shape = (
            1,
            self._section.num_frame_per_block,
            self._model.transformer.config.in_channels,
            *self._model.latent_size,
        )
        steps, device = self._steps, self._model.device
        num_draws = 1 if steps.solver == "unipc" else len(steps.timesteps)
        draws = [block_noise(self._steering.seed, block, draw, shape) for draw in range(num_draws)]
        if device.type != "cuda":
            return draws
        return [draw.pin_memory().to(device, non_blocking=True) for draw in draws]

    def _to_device(self, latents: NDArray[np.float32]) -> Tensor:
        """[F, C, H, W] on the host to [1, F, C, H, W] on the device."""
        return torch.from_numpy(np.array(latents)).to(self._model.device)[None]

    def _has_room_for(self, num_blocks: int) -> bool:
        """Whether the ring takes so many more blocks; one with a window always does."""
        layout = self._context.layout
        end = self._context.num_frames + num_blocks * self._section.num_frame_per_block
        return layout.window is not None or end <= layout.num_slots

    def _check_room(self, events: Sequence[Event]) -> None:
        begins_anew = any(
            self._kind_of(event) in (TransitionKind.CUT, TransitionKind.SCENE) for event in events
        )
        if not self._has_room_for(1) and not begins_anew:
            num_slots = self._context.layout.num_slots
            raise EngineError(
                f"a stream with window 0 keeps everything and is full after {num_slots} "
                "latent frames; set stream.window for an endless one"
            )
