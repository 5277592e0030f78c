"""From clean latents to pictures on the host, beside the model's passes where the device can.

On a GPU the decoder has a queue of its own and starts as soon as the latents are clean; the clean
pass runs meanwhile, and the pictures leave before it has ended.
"""

# mypy: allow-untyped-calls

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from streamer.engine.timeline import Mark, Timeline
from streamer.models.vae import DecoderState, VideoVAE


@dataclass(frozen=True)
class Decoded:
    """Pictures and latents on their way to the host.

    pictures: uint8 [T, H, W, 3].  latents: float32 [F, C, H, W].  marks: before decoding, before
    copying, when both are on the host.
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


class Decoding:
    """The decoder's memory of one stream, and its queue on the device.  Owner: DiffusionStream."""

    def __init__(self, decoder: VideoVAE, device: torch.device) -> None:
        self._decoder = decoder
        self._timeline = Timeline(device)
        self._queue = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._state: DecoderState | None = None

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
