"""DiffusionStream: prompt -> noise -> denoise -> commit -> decode -> FrameBlock.

A stream is a function of (weights, spec, script): its noise comes from (seed, block, draw) and its
caches are rebuilt from the clean latents that the truth keeps.  Runs inside the worker.

Positions in time are those of the whole stream; a cut empties the ring and goes on counting.  The
model sees distances only, and against the sinks the distance to the window's edge, so a context
rebuilt from kept blocks closes the gap between sinks and window and gives every key the distance
that it would have had.
"""

from __future__ import annotations

import logging
import math
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import wait
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from streamer_kernels.quantise import Kind
from torch import Tensor

from streamer.config import Config, ModelSection
from streamer.engine.decoding import Decoded, DecodeThread, Decoding
from streamer.engine.economy import Means
from streamer.engine.figures import ModelFigures
from streamer.engine.memory import memory_guard as memory_guard
from streamer.engine.operations import choose_operations
from streamer.engine.parts import (
    TextMemory,
    check_text,
    choose_device,
    latent_size,
    load_small_vae,
    load_text,
    load_transformer,
    load_vae,
    read_reduced_steps,
    read_steps,
)
from streamer.engine.quality import Trial, change_within, check_eight_bit
from streamer.engine.rates import copy_rate, device_name, forget_peak, matrix_rate, peak_bytes
from streamer.engine.steering import Mixture, Steering
from streamer.engine.timeline import Mark, Timeline
from streamer.errors import ConfigError, EngineError
from streamer.models.cache import RingLayout
from streamer.models.context import StreamingContext
from streamer.models.flops import pass_flops
from streamer.models.graph import CudaRecorder, Recorder, ReplayedPass
from streamer.models.guidance import FlowModel
from streamer.models.opening import encode_pictures
from streamer.models.quantised import quantise
from streamer.models.rolling import RollingContext
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
    Saving,
    Script,
    StreamSpec,
    TransitionKind,
    Truth,
    blocks_covering,
)

log = logging.getLogger(__name__)

MOST_THREADS = 8
UNLIMITED_WINDOW_FRAMES = 240
"""Latent frames that a stream without a window (window 0) can hold before it ends."""


class DiffusionModel:
    """Transformer, decoder and text encoder: what all streams of a worker share.  Holds weights.

    Owner: the worker process, as long as it lives.  No stream changes it.
    """

    def __init__(
        self,
        config: Config,
        report: Callable[[float, str], None],
        *,
        hands_planes: bool = False,
    ) -> None:
        """Load everything.  report: told how far loading is, 0..1, and with what it is busy.

        hands_planes: whether a GPU may hand pictures over as planes, see `FrameBlock`.
        Raises WeightsError for files that do not fit, ConfigError for sizes that do not.
        """
        if config.model is None:
            raise ConfigError(f"{config.name}: the section 'model' is missing")
        model = config.model
        self.stream = config.stream
        self.on_pass: Callable[[], None] = lambda: None
        self.device = choose_device(model.device)
        torch.set_num_threads(model.threads or min(MOST_THREADS, torch.get_num_threads()))
        report(0.4, "loading the transformer")
        self.transformer = load_transformer(
            model,
            self.device,
            lambda share, _: report(0.4 + 0.3 * share, "loading the transformer"),
        )
        self.flow = FlowModel(self.transformer, model.sampler.guidance_scale)
        report(0.7, "loading the decoder")
        self.decoder = load_vae(model, self.device, self.flow.dtype)
        self.latent_size = latent_size(config, self.decoder.config, model)
        small = load_small_vae(
            config.name, model, self.decoder.config, self.device, self.flow.dtype
        )
        report(0.75, "choosing kernels")
        self.ops, self.chosen = choose_operations(config, model, self.device, self.latent_size)
        self.transformer.use(self.ops)
        # A processor would only do the encoder's work earlier.
        self.to_planes = self.ops.to_i420 if hands_planes and self.device.type == "cuda" else None
        if self.device.type == "cuda" and model.eight_bit is None:
            # On a processor this pays little, and rounds differently.
            self.transformer.join_projections()
        self.recorder: Recorder | None = None
        if self.device.type == "cuda" and model.graphs:
            self.recorder = CudaRecorder()
        report(0.8, "loading the text encoder")
        self.text = load_text(
            model,
            self.device,
            lambda share, _: report(0.8 + 0.1 * share, "loading the text encoder"),
        )
        check_text(config.name, model, self.text)
        self.texts = TextMemory(self.text, self.device)
        self.negative_prompt = model.sampler.negative_prompt
        self.steps = read_steps(model)
        reduced = read_reduced_steps(model)
        self.means = Means(config.name, self.decoder, small, self.steps, reduced)
        self.context_timestep = model.sampler.context_noise
        self.is_fused = self.device.type == "cuda" if model.fused is None else model.fused
        self.cache_kind: Kind | None = None
        self.psnr_db: float | None = None
        if model.eight_bit is not None or model.eight_bit_cache is not None:
            report(0.85, "comparing eight-bit pictures")
            self.psnr_db = self._turn_to_eight_bits(config.name, model)
        self._seat: Seat | None = None
        self.num_graphs = 0
        self.decode_thread: DecodeThread | None = None
        self.num_ahead = 0
        forget_peak(self.device)
        report(0.9, "making a first picture")
        spec = StreamSpec(config.name, 0, self.stream.width, self.stream.height, 1)
        timings = self._warm_up(spec)
        if self.device.type == "cpu" and not self.is_fused:
            self._share_cores(timings)
        report(1.0, "ready")

    def _share_cores(self, timings: BlockTimings) -> None:
        """Decode in a thread of its own if that takes longer than a pass does.

        The thread has half of the cores; on the others run the clean pass and as many steps of the
        next block as fit beside.  timings: of a first block, whose passes see no history yet.
        """
        cores = torch.get_num_threads()
        if cores < 2:
            return
        whole, first = self._pass_flops(), self._pass_flops(self.stream.num_frame_per_block)
        pass_ms = statistics.median(timings.passes_ms) * whole / first
        fitting = timings.decode_ms / pass_ms
        if fitting < 1.0:
            return
        self.decode_thread = DecodeThread(cores // 2, cores - cores // 2)
        self.num_ahead = min(round(fitting), len(self.steps.timesteps) - 1)
        log.info("event=decode_thread cores=%d steps_ahead=%d", cores // 2, self.num_ahead)

    def _pass_flops(self, num_seen: int | None = None) -> float:
        """Arithmetic of one pass that sees so many latent frames, as many as the window holds if
        that is not said."""
        section, sizes = self.stream, self.transformer.config
        rows, columns = sizes.grid(*self.latent_size)
        frames = num_seen or section.window or section.num_frame_per_block
        tokens = section.num_frame_per_block * rows * columns
        return self.flow.batch * pass_flops(sizes, tokens, frames * rows * columns)

    @property
    def max_frames(self) -> int:
        """Pictures in the largest block."""
        return self.stream.num_frame_per_block * self.decoder.config.temporal_reduction

    @property
    def able(self) -> frozenset[Saving]:
        """What can be saved when blocks are made too slowly."""
        return self.means.able

    def follow(self, on_pass: Callable[[], None]) -> None:
        """From now on, call on_pass with every pass that is made."""
        self.on_pass = on_pass

    def open(self, spec: StreamSpec) -> DiffusionStream:
        """A new stream at block 0.  Raises OutOfMemoryError."""
        section = self.stream
        begin = History.of(spec, section.window, section.sink, section.num_frame_per_block)
        return self.restore(Truth(Script(spec), 0, 0, begin.kept()))

    def restore(self, truth: Truth) -> DiffusionStream:
        """A stream that goes on from its truth.  Raises OutOfMemoryError."""
        opening = truth.script.spec.opening
        wanted = (self.transformer.config.in_channels, *self.latent_size)
        if opening is not None and opening.shape[1:] != wanted:
            raise ConfigError(
                f"the stream begins with latents of {opening.shape[1:]}, the model makes {wanted}; "
                "start with the configuration it was made with"
            )
        with memory_guard(), torch.inference_mode():
            return DiffusionStream(self, truth)

    def encode(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Pictures [T, H, W, 3] of the stream's size to the latents [F, C, H, W] of an opening.

        Raises OutOfMemoryError.
        """
        section = self.stream
        with memory_guard(), torch.inference_mode():
            latents = encode_pictures(
                self.decoder,
                torch.from_numpy(np.array(pictures)).to(self.device),
                section.num_frame_per_block,
                section.window,
            )
        return latents[0].cpu().numpy()

    def measure(self) -> ModelFigures:
        """Figures to judge times by: the machine's own rates, and the arithmetic of a pass."""
        with torch.inference_mode():
            return ModelFigures(
                device=device_name(self.device),
                dtype=str(self.flow.dtype).removeprefix("torch."),
                operations=self.chosen,
                num_graphs=self.num_graphs,
                pass_flops=self._pass_flops(),
                num_passes=len(self.steps.timesteps) + 1,
                peak_bytes=peak_bytes(self.device),
                matrix_flops_per_s=matrix_rate(self.device, self.flow.dtype),
                copy_bytes_per_s=copy_rate(self.device),
                decodes_beside=self.device.type == "cuda" or self.decode_thread is not None,
                psnr_db=self.psnr_db,
                is_fused=self.is_fused,
            )

    def take_seat(self) -> Seat:
        """Room on the device for one stream: kept from the last one, or new."""
        seat, self._seat = self._seat, None
        if seat is None:
            context, prompt = self.new_context(), self.encode_text((("", 1.0),))
            replayed = ReplayedPass(self.flow, prompt, context, self.recorder)
            return Seat(context, prompt, replayed)
        seat.context.reset()
        seat.prompt.copy_(self.encode_text((("", 1.0),)))
        return seat

    def give_back(self, seat: Seat) -> None:
        """A stream is over.  One room with recorded passes is kept: the next begins at speed."""
        self.num_graphs = seat.replayed.num_recorded
        if self.num_graphs and self._seat is None:
            self._seat = seat

    def new_context(self) -> RollingContext:
        """An empty ring on the device."""
        section = self.stream
        layout = RingLayout(
            section.window or None,
            section.sink,
            section.num_frame_per_block,
            None if section.window else UNLIMITED_WINDOW_FRAMES,
        )
        shape = self.transformer.config.cache_shape(*self.latent_size, self.flow.batch)
        return RollingContext(
            shape,
            layout,
            device=self.device,
            dtype=self.flow.dtype,
            absolute_positions=section.absolute_positions,
            spare_frames=section.num_frame_per_block if self.is_fused else 0,
            kind=self.cache_kind,
            ops=self.ops,
        )

    def _turn_to_eight_bits(self, name: str, model: ModelSection) -> float:
        """Hold the linear maps or the cache in eight bits, as asked; how near the pictures stay.

        Raises ConfigError when they suffer, or the device cannot.
        """
        kinds = {"eight_bit": model.eight_bit, "eight_bit_cache": model.eight_bit_cache}
        asked = {key: kind for key, kind in kinds.items() if kind is not None}
        for key, kind in asked.items():
            check_eight_bit(name, key, kind, self.device)

        def change() -> None:
            if model.eight_bit is not None:
                quantise(self.transformer, model.eight_bit, self.ops)
            self.cache_kind = model.eight_bit_cache

        # Random weights draw nothing that could suffer.
        least_db = -math.inf if model.random_weights else model.min_psnr_db
        return change_within(self._trial(), change, least_db, name, tuple(asked))

    def _trial(self) -> Trial:
        """What shows whether a change of the model can be seen."""
        with torch.inference_mode():
            text = self.encode_text((("a red balloon over green hills", 1.0),))
        frames, channels = self.stream.num_frame_per_block, self.transformer.config.in_channels
        shape = (1, frames, channels, *self.latent_size)

        def noise(block: int, draw: int) -> Tensor:
            return block_noise(0, block, draw, shape, self.device)

        return Trial(self.flow, self.decoder, self.steps, text, self.new_context, noise)

    def encode_text(self, mixture: Mixture) -> PromptKV:
        """Keys and values of a mixture of texts, and of the negative prompt where it is asked."""
        negative = None
        if self.flow.batch > 1:
            negative = self.texts.embed(((self.negative_prompt, 1.0),))
        return self.flow.encode_text(self.texts.embed(mixture), negative)

    def _warm_up(self, spec: StreamSpec) -> BlockTimings:
        """Let every operator choose its kernels now, so that the first viewer need not wait.

        result: of the last block that was made with everything.
        """
        stream = self.open(spec)
        section = self.stream
        count = 1
        if self.recorder is not None and section.window:
            # Until the window is full and moves, so that every kind of pass is recorded.
            count = -(-section.window // section.num_frame_per_block) + 1
        timings = [stream.next_block(()).timings for _ in range(count)]
        if "decoder" in self.able:
            stream.next_block((Economy(decoder=True),))
        stream.close()
        return timings[-1]


@dataclass(frozen=True)
class Ahead:
    """What has been done of the next block: its first steps, and when.

    Good for a block that begins without any event, and never used for another.
    """

    solver: BlockSolver
    marks: tuple[tuple[Mark, Mark], ...] = ()


@dataclass(frozen=True)
class Seat:
    """What one stream takes of the device at fixed addresses, so that passes can be replayed."""

    context: RollingContext
    prompt: PromptKV
    replayed: ReplayedPass


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
