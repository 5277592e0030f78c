"""What every latent autoencoder here offers: streams of pictures and latents, memory outside it.

A module holds weights and is shared by all streams; what it remembers of a stream is a
`DecoderState` that goes in and comes out.  Chunks together equal the whole clip.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn


@dataclass(frozen=True)
class DecoderState:
    """What a decoder (or encoder) remembers between chunks of one stream.  Owned by the stream,
    never by the module.

    memories: one tensor per remembering layer, in layer order.  frames: latent frames (encoder:
    frames) seen so far.
    """

    memories: tuple[Tensor, ...]
    frames: int


class VAESizes(Protocol):
    """The numbers of an autoencoder that the rest of the house asks for."""

    @property
    def latent_channels(self) -> int:
        """Channels of a latent frame."""

    @property
    def spatial_reduction(self) -> int:
        """Pixels per side of one latent position."""

    @property
    def temporal_reduction(self) -> int:
        """Frames per latent frame."""

    @property
    def remembered_frames(self) -> int:
        """How many latent frames back the decoder's memory reaches."""

    @property
    def has_single_first(self) -> bool:
        """Whether the decoder shows one picture for a clip's first latent frame, then several."""

    @property
    def encodes_single_first(self) -> bool:
        """Whether the encoder makes a clip's first latent frame of its first picture alone."""


class VideoVAE(Protocol):
    """A causal video autoencoder with explicit state."""

    @property
    def config(self) -> VAESizes:
        """Its sizes."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Its weights."""

    def encode(
        self, pixels: Tensor, state: DecoderState | None = None
    ) -> tuple[Tensor, DecoderState]:
        """pixels [B,T,3,H,W] in 0..1 -> (latents [B,F,C,h,w] as the transformer reads them, state).

        Raises ValueError for sides that are not multiples of the spatial reduction.
        """

    def decode(
        self, latents: Tensor, state: DecoderState | None = None
    ) -> tuple[Tensor, DecoderState]:
        """latents [B,F,C,h,w] -> (pixels [B,T,3,H,W] in 0..1, state); None begins a clip."""


def widened(x: Tensor) -> Tensor:
    """Sixteen-bit numbers as float32, others as they are: what leaves an autoencoder."""
    return x.float() if x.itemsize == 2 else x
