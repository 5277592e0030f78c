"""DiffusionStream: prompt -> noise -> denoise -> commit -> decode -> FrameBlock.

A stream is a function of (weights, spec, script): its noise comes from (seed, block, draw) and its
caches are rebuilt from the clean latents that the truth keeps.  Runs inside the worker.

Positions in time are those of the whole stream; a cut empties the ring and goes on counting.  The
model sees distances only, and against the sinks the distance to the window's edge, so a context
rebuilt from kept blocks closes the gap between sinks and window and gives every key the distance
that it would have had.
"""

from __future__ import annotations

import contextlib
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from streamer.config import Config, ModelSection, weights_path
from streamer.engine.steering import Mixture, Steering
from streamer.errors import ConfigError, EngineError, OutOfMemoryError
from streamer.models.cache import RingLayout
from streamer.models.checkpoint import load_weights
from streamer.models.context import RollingContext
from streamer.models.sampler import (
    DenoisingSteps,
    FlowMatchTable,
    block_noise,
    denoise_block,
    write_block,
)
from streamer.models.text import TextEncoder, load_text_encoder
from streamer.models.tiny_vae import DecoderState, TinyVAEConfig, load_vae
from streamer.models.transformer import CausalWanTransformer, TransformerConfig
from streamer.stream import (
    BlockTimings,
    Event,
    FrameBlock,
    History,
    Prompt,
    Reseed,
    Script,
    StreamSpec,
    TransitionKind,
    Truth,
)

MOST_THREADS = 8
KEPT_TEXTS = 64
WIDE = 1024
"""Transformers from this width on are built without initial weights."""
UNLIMITED_WINDOW_FRAMES = 240
"""Latent frames that a stream without a window (window 0) can hold before it ends."""


class DiffusionModel:
    """Transformer, decoder and text encoder: what all streams of a worker share.  Holds weights.

    Owner: the worker process, as long as it lives.  No stream changes it.
    """

    def __init__(self, config: Config, report: Callable[[float, str], None]) -> None:
        """Load everything.  report: told how far loading is, 0..1, and with what it is busy.

        Raises WeightsError for files that do not fit, ConfigError for sizes that do not.
        """
        if config.model is None:
            raise ConfigError(f"{config.name}: the section 'model' is missing")
        model = config.model
        self.stream = config.stream
        self.device = _device(model.device)
        torch.set_num_threads(model.threads or min(MOST_THREADS, torch.get_num_threads()))
        report(0.4, "loading the transformer")
        self.transformer = _load_transformer(model, self.device)
        report(0.7, "loading the decoder")
        self.decoder = load_vae(weights_path(model.decoder.weights), self.device)
        report(0.8, "loading the text encoder")
        self.text = load_text_encoder(weights_path(model.text.weights), str(self.device))
        self.texts = TextMemory(self.text)
        self.steps = _steps(model)
        self.context_timestep = model.sampler.context_noise
        self.latent_size = _latent_size(config, self.decoder.config, model)
        _check_text(config.name, model, self.text)
        report(0.9, "making a first picture")
        self._warm_up(StreamSpec(config.name, 0, self.stream.width, self.stream.height, 1))
        report(1.0, "ready")

    @property
    def max_frames(self) -> int:
        """Pictures in the largest block."""
        return self.stream.num_frame_per_block * self.decoder.config.temporal_reduction

    def open(self, spec: StreamSpec) -> DiffusionStream:
        """A new stream at block 0.  Raises OutOfMemoryError."""
        return self.restore(Truth(Script(spec), 0, 0, ()))

    def restore(self, truth: Truth) -> DiffusionStream:
        """A stream that goes on from its truth.  Raises OutOfMemoryError."""
        with memory_guard(), torch.inference_mode():
            return DiffusionStream(self, truth)

    def new_context(self) -> RollingContext:
        """An empty ring on the device."""
        section = self.stream
        layout = RingLayout(
            section.window or None,
            section.sink,
            section.num_frame_per_block,
            None if section.window else UNLIMITED_WINDOW_FRAMES,
        )
        shape = self.transformer.config.cache_shape(*self.latent_size)
        return RollingContext(
            shape, layout, device=self.device, absolute_positions=section.absolute_positions
        )

    def _warm_up(self, spec: StreamSpec) -> None:
        """Let every operator choose its kernels now, so that the first viewer need not wait."""
        stream = self.open(spec)
        stream.next_block(())
        stream.close()


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
        self._history = History(section.window, section.sink, section.num_frame_per_block)
        self._context = model.new_context()
        self._mixture: Mixture = ()
        self._prompt = model.transformer.encode_text(model.texts.embed((("", 1.0),)))
        self._decoder_state: DecoderState | None = None
        self._restore(truth)

    def next_block(self, events: Sequence[Event]) -> FrameBlock:
        """Make the next block; events take effect at its start.

        Raises OutOfMemoryError, and EngineError when a stream without a window is full.
        """
        with memory_guard(), torch.inference_mode():
            return self._next_block(events)

    def close(self) -> None:
        """Free the device memory."""
        del self._context, self._prompt, self._decoder_state
        if self._model.device.type == "cuda":
            torch.cuda.empty_cache()

    def _next_block(self, events: Sequence[Event]) -> FrameBlock:
        started = time.perf_counter()
        self._check_room(events)
        self._apply(events)
        written = time.perf_counter()
        latents = denoise_block(
            self._model.transformer,
            self._model.steps,
            self._noise,
            self._prompt,
            self._context,
            self._model.context_timestep,
        )
        kept = latents[0].float().cpu().numpy()
        denoised = time.perf_counter()
        frames = self._decode(latents)
        ended = time.perf_counter()
        block = FrameBlock(
            index=self._block,
            first_frame=self._frame,
            frames=frames,
            latents=kept,
            prompt_id=self._steering.prompt_id,
            timings=BlockTimings(
                text_ms=(written - started) * 1000,
                denoise_ms=(denoised - written) * 1000,
                decode_ms=(ended - denoised) * 1000,
                total_ms=(ended - started) * 1000,
            ),
        )
        self._history.add(self._block, kept)
        self._block += 1
        self._frame += len(frames)
        return block

    def _apply(self, events: Sequence[Event]) -> None:
        """Let the events take effect: forget what a transition forgets, set the text, recache."""
        is_recached = False
        for event in events:
            self._steering.apply(self._block, event)
            kind = self._kind_of(event)
            is_recached = is_recached or kind is TransitionKind.RECACHE
            if kind in (TransitionKind.CUT, TransitionKind.SCENE):
                self._forget(keeps_decoder=kind is TransitionKind.SCENE)
        self._set_text(self._steering.mixture(self._block))
        if is_recached:
            held = self._context.layout.num_slots // self._section.num_frame_per_block
            self._rebuild(self._history.kept(), held)

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
            self._decoder_state = None

    def _set_text(self, mixture: Mixture) -> None:
        if mixture == self._mixture:
            return
        embeds = self._model.texts.embed(mixture)
        self._prompt.copy_(self._model.transformer.encode_text(embeds))
        self._mixture = mixture

    def _restore(self, truth: Truth) -> None:
        """Rebuild ring and decoder memory from the kept latents, under the last block's text."""
        for index, latents in truth.history:
            self._history.add(index, latents)
        self._set_text(self._steering.mixture(max(0, self._block - 1)))
        self._rebuild(truth.history, len(truth.history))
        if truth.history:
            count = remembered_frames(self._model.decoder.config)
            latest = np.concatenate([latents for _, latents in truth.history])[-count:]
            _, self._decoder_state = self._model.decoder.decode(self._to_device(latest))

    def _rebuild(self, blocks: Sequence[tuple[int, NDArray[np.float32]]], most: int) -> None:
        """Write clean latents into an emptied ring: sinks and newest, `most` blocks in all."""
        sinks = -(-self._section.sink // self._section.num_frame_per_block)
        if len(blocks) > most:
            blocks = [*blocks[:sinks], *blocks[len(blocks) - (most - sinks) :]]
        self._context.reset(self._origin(sum(len(latents) for _, latents in blocks)))
        for _, latents in blocks:
            write_block(
                self._model.transformer,
                self._to_device(latents),
                self._prompt,
                self._context,
                self._model.context_timestep,
            )

    def _origin(self, num_frames: int) -> int:
        """Position of the ring's first frame, if `num_frames` frames end where this block starts.

        Published absolute positions begin at 0 with every picture.
        """
        if self._section.absolute_positions:
            return 0
        return self._block * self._section.num_frame_per_block - num_frames

    def _noise(self, draw: int) -> Tensor:
        shape = (
            1,
            self._section.num_frame_per_block,
            self._model.transformer.config.in_channels,
            *self._model.latent_size,
        )
        return block_noise(self._steering.seed, self._block, draw, shape, self._model.device)

    def _decode(self, latents: Tensor) -> NDArray[np.uint8]:
        """Clean latents [1, F, C, H, W] to pictures, uint8 [T, H, W, 3]; moves the decoder on."""
        pixels, self._decoder_state = self._model.decoder.decode(latents, self._decoder_state)
        picture = (pixels[0] * 255.0).round_().to(torch.uint8).permute(0, 2, 3, 1)
        result: NDArray[np.uint8] = picture.contiguous().cpu().numpy()
        return result

    def _to_device(self, latents: NDArray[np.float32]) -> Tensor:
        """[F, C, H, W] on the host to [1, F, C, H, W] on the device."""
        return torch.from_numpy(np.array(latents)).to(self._model.device)[None]

    def _check_room(self, events: Sequence[Event]) -> None:
        layout = self._context.layout
        end = self._context.num_frames + self._section.num_frame_per_block
        begins_anew = any(
            self._kind_of(event) in (TransitionKind.CUT, TransitionKind.SCENE) for event in events
        )
        if layout.window is None and end > layout.num_slots and not begins_anew:
            raise EngineError(
                f"a stream with window 0 keeps everything and is full after {layout.num_slots} "
                "latent frames; set stream.window for an endless one"
            )


class TextMemory:
    """Encodings of the texts used last, so that a blend or a return to a text costs nothing.

    Owner: DiffusionModel.  At most KEPT_TEXTS are kept.
    """

    def __init__(self, encoder: TextEncoder) -> None:
        self._encoder = encoder
        self._kept: OrderedDict[str, Tensor] = OrderedDict()

    def embed(self, mixture: Mixture) -> Tensor:
        """Weighted sum of the texts' encodings: [1, K, text_width]."""
        parts = [self._encoding(text) * weight for text, weight in mixture]
        return torch.stack(parts).sum(dim=0)

    def _encoding(self, text: str) -> Tensor:
        found = self._kept.get(text)
        if found is None:
            found = self._kept[text] = self._encoder.encode([text])
            if len(self._kept) > KEPT_TEXTS:
                self._kept.popitem(last=False)
        self._kept.move_to_end(text)
        return found


def remembered_frames(config: TinyVAEConfig) -> int:
    """How many latent frames back a decoder remembers: each memory block looks one frame back.

    The frame in question is one at the block's own rate, which the strides before it have raised.
    """
    rate, frames = 1, 0.0
    for stride in config.decoder_strides:
        frames += config.blocks_per_stage / rate
        rate *= stride
    return int(np.ceil(frames))


@contextlib.contextmanager
def memory_guard() -> Iterator[None]:
    """Turn the ways in which torch says that memory ran out into OutOfMemoryError."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise OutOfMemoryError(f"the device has no memory left for this stream: {error}") from error
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):
            raise
        raise OutOfMemoryError(
            f"the machine has no memory left for this stream: {error}"
        ) from error


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"model.device is {name!r}, which cannot be used here: {error}"
        ) from error
    return device


def _load_transformer(model: ModelSection, device: torch.device) -> CausalWanTransformer:
    section = model.transformer
    sizes = TransformerConfig.of(section)
    # The meta device saves a large model its initialisation, but costs a second of imports.
    with torch.device("meta" if sizes.width >= WIDE else "cpu"):
        transformer = CausalWanTransformer(sizes)
    load_weights(transformer, [weights_path(name) for name in section.weights])
    return transformer.to(device).eval().requires_grad_(False)


def _steps(model: ModelSection) -> DenoisingSteps:
    section = model.sampler
    table = FlowMatchTable(section.shift)
    if not all(step.is_integer() for step in section.denoising_step_list):
        raise ConfigError(
            f"model.sampler.denoising_step_list is {section.denoising_step_list}; "
            "only whole numbers are supported"
        )
    try:
        return table.steps([int(step) for step in section.denoising_step_list], warp=section.warp)
    except ValueError as error:
        raise ConfigError(f"model.sampler: {error}") from error


def _latent_size(config: Config, decoder: TinyVAEConfig, model: ModelSection) -> tuple[int, int]:
    """Rows and columns of the latents.  Raises ConfigError when sizes do not fit each other."""
    stream, side = config.stream, decoder.spatial_reduction
    if decoder.latent_channels != model.transformer.latent_channels:
        raise ConfigError(
            f"{config.name}: the decoder has {decoder.latent_channels} latent channels, "
            f"model.transformer.latent_channels is {model.transformer.latent_channels}"
        )
    if stream.width % (2 * side) or stream.height % (2 * side):
        raise ConfigError(
            f"{config.name}: {stream.width}x{stream.height} pixels do not divide into tokens of "
            f"{2 * side}x{2 * side}; choose multiples of {2 * side}"
        )
    return stream.height // side, stream.width // side


def _check_text(name: str, model: ModelSection, text: TextEncoder) -> None:
    section = model.transformer
    if text.text_width != section.text_width or text.text_length > section.text_length:
        raise ConfigError(
            f"{name}: the text encoder makes {text.text_length} rows of {text.text_width}, "
            f"model.transformer reads {section.text_length} of {section.text_width}"
        )
