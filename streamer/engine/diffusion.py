"""DiffusionModel: the weights of a worker, and what all of its streams share.

Each stream is a `DiffusionStream`; it asks its model for kernels, decoders, texts and room.
"""

from __future__ import annotations

import logging
import math
import statistics
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from streamer_kernels.quantise import Kind
from torch import Tensor

from streamer.config import Config, ModelSection
from streamer.engine.decoding import DecodeThread
from streamer.engine.diffusion_stream import DiffusionStream
from streamer.engine.economy import Means
from streamer.engine.figures import ModelFigures
from streamer.engine.memory import memory_guard
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
from streamer.engine.seat import Seat
from streamer.engine.steering import Mixture
from streamer.errors import ConfigError
from streamer.models.cache import RingLayout
from streamer.models.flops import pass_flops
from streamer.models.graph import CudaRecorder, Recorder, ReplayedPass
from streamer.models.guidance import FlowModel
from streamer.models.opening import encode_pictures
from streamer.models.quantised import quantise
from streamer.models.rolling import RollingContext
from streamer.models.sampler import block_noise
from streamer.models.transformer import PromptKV
from streamer.stream import (
    BlockTimings,
    Economy,
    History,
    Saving,
    Script,
    StreamSpec,
    Truth,
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

    def settle(self) -> None:
        """Wait until the device has done all that it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

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
