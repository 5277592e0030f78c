"""From clean latents to pictures on the host, beside the model's passes where the device can.

On a GPU the decoder has a queue of its own and starts as soon as the latents are clean; the clean
pass runs meanwhile, and the pictures leave before it has ended.  On a processor it can have a
thread of its own with half of the cores: decoding uses two cores twice as well as small passes do.
"""

# mypy: allow-untyped-calls

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from streamer_kernels import ToI420
from torch import Tensor

from streamer.engine.timeline import Mark, Timeline
from streamer.models.vae import DecoderState, VideoVAE


@dataclass(frozen=True)
class Decoded:
    """Pictures and latents on their way to the host.

    pictures: uint8 [T, H, W, 3], or the planes that `to_planes` makes of them.  latents: float32
    [F, C, H, W].  marks: before decoding, before copying, when both are on the host.
    """

    pictures: Tensor
    latents: Tensor
    marks: tuple[Mark, Mark, Mark]

    def wait(self) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Both, when they have arrived."""
        end = self.marks[2]
        if isinstance(end, torch.cuda.Event):
            end.synchronize()
        return self.pictures.numpy(), np.array(self.latents.numpy())


def _begin(decoding: Decoding, latents: Tensor) -> Decoded:
    with torch.inference_mode():
        return decoding.begin(latents)


class DecodeThread:
    """A thread that decodes with a part of the processor while passes run on the rest of it.

    Owner: DiffusionModel, as long as it lives; serves all streams of the worker by turns.
    threads: how many cores decoding gets; spared: how many are left to the passes meanwhile.
    """

    def __init__(self, threads: int, spared: int) -> None:
        self.spared = spared
        self._pool = ThreadPoolExecutor(1, "decode", torch.set_num_threads, (threads,))

    def begin(self, decoding: Decoding, latents: Tensor) -> Future[Decoded]:
        """Start decoding clean latents [1, F, C, H, W]; one block of a stream at a time."""
        return self._pool.submit(_begin, decoding, latents)

    @contextlib.contextmanager
    def beside(self) -> Iterator[None]:
        """Leave this thread's share of the cores free meanwhile."""
        usual = torch.get_num_threads()
        torch.set_num_threads(self.spared)
        try:
            yield
        finally:
            torch.set_num_threads(usual)


class Decoding:
    """The decoder's memory of one stream, and its queue on the device.  Owner: DiffusionStream."""

    def __init__(
        self, decoder: VideoVAE, device: torch.device, to_planes: ToI420 | None = None
    ) -> None:
        """to_planes: what turns pictures into planes before they leave; None hands RGB over."""
        self._decoder = decoder
        self._to_planes = to_planes
        self._timeline = Timeline(device)
        self._queue = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._state: DecoderState | None = None

    @property
    def decoder(self) -> VideoVAE:
        """The decoder in use."""
        return self._decoder

    def turn_to(self, decoder: VideoVAE) -> None:
        """Use another decoder from now on; it remembers nothing yet."""
        self._decoder = decoder
        self.forget()

    def forget(self) -> None:
        """The next latents begin a clip."""
        self._state = None

    def remember(self, latents: Tensor) -> None:
        """Take latents [1, F, C, H, W] as shown; their pictures are not wanted."""
        with self._beside(latents):
            _, self._state = self._decoder.decode(latents)

    def begin(self, latents: Tensor) -> Decoded:
        """Start decoding clean latents [1, F, C, H, W]."""
        with self._beside(latents):
            started = self._timeline.mark()
            pixels, self._state = self._decoder.decode(latents, self._state)
            picture = (pixels[0] * 255.0).round_().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
            if self._to_planes is not None:
                picture = self._to_planes(picture)
            decoded = self._timeline.mark()
            pictures, kept = self._to_host(picture), self._to_host(latents[0].float())
            return Decoded(pictures, kept, (started, decoded, self._timeline.mark()))

    @contextlib.contextmanager
    def _beside(self, latents: Tensor) -> Iterator[None]:
        """Work in the decoder's own queue, behind what the current one has been given so far."""
        if self._queue is None:
            yield
            return
        self._queue.wait_stream(torch.cuda.current_stream(latents.device))
        latents.record_stream(self._queue)
        with torch.cuda.stream(self._queue):
            yield

    def _to_host(self, tensor: Tensor) -> Tensor:
        if self._queue is None:
            return tensor
        pinned = torch.empty_like(tensor, device="cpu", pin_memory=True)
        return pinned.copy_(tensor, non_blocking=True)
