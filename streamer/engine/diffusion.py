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
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from streamer.config import Config
from streamer.engine.parts import (
    TextMemory,
    check_text,
    choose_device,
    latent_size,
    load_text,
    load_transformer,
    read_steps,
)
from streamer.engine.steering import Mixture, Steering
from streamer.errors import ConfigError, EngineError, OutOfMemoryError
from streamer.models.cache import RingLayout
from streamer.models.context import RollingContext
from streamer.models.decoders import load_decoder
from streamer.models.guidance import FlowModel
from streamer.models.opening import encode_pictures
from streamer.models.sampler import (
    block_noise,
    denoise_block,
    recache_together,
    write_block,
)
from streamer.models.transformer import PromptKV
from streamer.models.vae import DecoderState
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
    blocks_covering,
)

MOST_THREADS = 8
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
        self.decoder = load_decoder(model.decoder, device=self.device, dtype=self.flow.dtype)
        self.latent_size = latent_size(config, self.decoder.config, model)
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
        self.context_timestep = model.sampler.context_noise
        report(0.9, "making a first picture")
        self._warm_up(StreamSpec(config.name, 0, self.stream.width, self.stream.height, 1))
        report(1.0, "ready")

    @property
    def max_frames(self) -> int:
        """Pictures in the largest block."""
        return self.stream.num_frame_per_block * self.decoder.config.temporal_reduction

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
        )

    def encode_text(self, mixture: Mixture) -> PromptKV:
        """Keys and values of a mixture of texts, and of the negative prompt where it is asked."""
        negative = None
        if self.flow.batch > 1:
            negative = self.texts.embed(((self.negative_prompt, 1.0),))
        return self.flow.encode_text(self.texts.embed(mixture), negative)

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
        self._history = History(section.window, section.sink)
        self._context = model.new_context()
        self._mixture: Mixture = ()
        self._prompt = model.encode_text((("", 1.0),))
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
            self._model.flow,
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
            # What a stream begins with was written before there was any text.
            is_recached |= kind is TransitionKind.RECACHE or (kind is not None and not self._block)
            if kind in (TransitionKind.CUT, TransitionKind.SCENE):
                self._forget(keeps_decoder=kind is TransitionKind.SCENE)
        self._set_text(self._steering.mixture(self._block))
        if is_recached:
            self._recache()

    def _recache(self) -> None:
        """Write the window's keys again under the present text."""
        if not self._section.recache_together or not self._context.num_frames:
            self._rebuild(self._history.kept(), self._context.layout.num_slots)
            return
        kept = np.concatenate([latents for _, latents in self._history.kept()])
        count = min(self._section.window or len(kept), self._context.num_frames)
        recache_together(
            self._model.flow,
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
            self._decoder_state = None

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
        if truth.history:
            latest = self._latest(truth.history, self._model.decoder.config.remembered_frames)
            _, self._decoder_state = self._model.decoder.decode(self._to_device(latest))

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
            write_block(
                self._model.flow,
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
