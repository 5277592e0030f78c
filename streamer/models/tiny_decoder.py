"""FoldedVAE: the embedded autoencoder with its decoder laid out for inference.

On a processor, two fifths of the plain decoder's time go into moving numbers between its products.
Here pixels stay channels-last from the latents to the picture, and all that is linear is done
ahead: shortcuts are added to the weights of the maps beside them, the linear map takes normalised
latents, and channels are in the order in which the growing picture lies in memory, so that a pixel
shuffle moves whole runs of numbers.

`TinyVAE` is the specification.  Only decoders with growth "shuffle" can be folded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamer.models.tiny_vae import ShortcutMemBlock, ShuffleGrow, TinyVAE, TinyVAEConfig
from streamer.models.vae import DecoderState, widened


class FoldedVAE:
    """A TinyVAE that decodes faster, with a second copy of its decoder's weights.

    The weights are copied when it is made: changing the autoencoder's own afterwards changes only
    what is decoded with gradients, which goes the plain way.  Safe to share between any number of
    streams.
    """

    def __init__(self, vae: TinyVAE) -> None:
        """Raises ValueError for a decoder that grows otherwise."""
        if not vae.is_linear:
            raise ValueError(
                f"growth is {vae.config.growth!r}; only 'shuffle' decoders can be folded"
            )
        self.vae = vae
        with torch.no_grad():
            self._decoder = _Decoder.of(vae)

    @property
    def config(self) -> TinyVAEConfig:
        """Its sizes."""
        return self.vae.config

    def parameters(self) -> Iterator[nn.Parameter]:
        """The autoencoder's own weights."""
        return self.vae.parameters()

    def encode(
        self, pixels: Tensor, state: DecoderState | None = None
    ) -> tuple[Tensor, DecoderState]:
        """See TinyVAE."""
        return self.vae.encode(pixels, state)

    def decode(
        self, latents: Tensor, state: DecoderState | None = None
    ) -> tuple[Tensor, DecoderState]:
        """See TinyVAE; the pixels [B,T,3,H,W] are laid out channels-last.

        A state of one serves the other.
        """
        if torch.is_grad_enabled():
            return self.vae.decode(latents, state)
        self.vae.check(latents, state)
        seen, memories = (0, None) if state is None else (state.frames, state.memories)
        pixels, kept = self._decoder(latents.to(self._decoder.basis.dtype), memories)
        if seen == 0:
            pixels = pixels[:, self.config.frames_to_trim :]
        return widened(pixels.clamp_(0, 1)), DecoderState(kept, seen + latents.shape[1])


@dataclass(frozen=True)
class _Conv:
    """A 3x3 convolution.  weight: [O,I,3,3], channels-last.  bias: [O]."""

    weight: Tensor
    bias: Tensor

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor) -> _Conv:
        return cls(weight.contiguous(memory_format=torch.channels_last), bias)

    def __call__(self, x: Tensor) -> Tensor:
        """x: [N,I,h,w] -> [N,O,h,w], both channels-last."""
        return F.conv2d(x, self.weight, self.bias, padding=1)


@dataclass(frozen=True)
class _Grow:
    """A ShuffleGrow with the shortcut in its weights.

    weight: [stride*2*2*O, I], rows ordered new frame, new row, new column, channel.
    """

    weight: Tensor
    bias: Tensor
    stride: int

    @classmethod
    def of(cls, layer: ShuffleGrow) -> _Grow:
        weight, bias = layer.conv.weight.flatten(1), _bias(layer.conv)
        shortcut = torch.eye(weight.shape[1], dtype=weight.dtype, device=weight.device)
        size = (-1, layer.channels, 2, 2)
        rows = torch.unflatten(weight + shortcut.repeat_interleave(layer.repeats, 0), 0, size)
        shifts = bias.reshape(size).permute(0, 2, 3, 1)
        return cls(rows.permute(0, 2, 3, 1, 4).flatten(0, 3), shifts.flatten(), len(rows))

    def __call__(self, x: Tensor) -> Tensor:
        """x: [N,I,h,w] -> [N*stride,O,2h,2w], both channels-last."""
        count, _, height, width = x.shape
        grown = F.linear(x.permute(0, 2, 3, 1), self.weight, self.bias)
        # The two columns and their channels lie side by side and move together.
        moved = grown.view(count, height, width, self.stride, 2, -1).permute(0, 3, 1, 4, 2, 5)
        frames = moved.reshape(count * self.stride, 2 * height, 2 * width, -1)
        return frames.permute(0, 3, 1, 2)


@dataclass(frozen=True)
class _Remember:
    """A ShortcutMemBlock.  first: takes the current frame's channels, then those before it."""

    first: _Conv
    others: tuple[_Conv, ...]

    @classmethod
    def of(cls, block: ShortcutMemBlock) -> _Remember:
        first, *others = (_conv(layer) for layer in block.conv if isinstance(layer, nn.Conv2d))
        return cls(first, tuple(others))

    def __call__(self, x: Tensor, batch: int, memory: Tensor | None) -> tuple[Tensor, Tensor]:
        """x, result: [B*F,C,h,w].  memory, second result: [B,C,h,w], the last frame seen."""
        frames = torch.unflatten(x.permute(0, 2, 3, 1), 0, (batch, -1))
        channels = frames.shape[-1]
        # Every frame is activated once, though two of them look at it.
        active = F.silu(frames)
        pairs = frames.new_empty(*frames.shape[:-1], 2 * channels)
        pairs[..., :channels] = active
        pairs[:, 1:, ..., channels:] = active[:, :-1]
        past = pairs[:, 0, ..., channels:]
        if memory is None:
            past.zero_()
        else:
            past.copy_(F.silu(memory).permute(0, 2, 3, 1))
        out = self.first(pairs.flatten(0, 1).permute(0, 3, 1, 2))
        for conv in self.others:
            out = conv(F.silu(out, inplace=True))
        return out.add_(x), frames[:, -1].permute(0, 3, 1, 2)


@dataclass(frozen=True)
class _Decoder:
    """The decoder.  Works in place, so it gives no gradients.

    last: before the final pixel shuffle, channels ordered row, column, colour.
    basis, basis_shift: [P,C] and [P], from one latent position to its space-time patch, whose
    pixels are in the order of the last layer: frame, row, column of that layer, then row, column,
    colour within one of its positions.
    side: positions of the last layer per side of a patch.  fold: pixels per side of a position.
    """

    head: _Conv
    layers: tuple[_Remember | _Grow, ...]
    tail: _Conv
    last: _Conv
    basis: Tensor
    basis_shift: Tensor
    side: int
    fold: int

    @classmethod
    def of(cls, vae: TinyVAE) -> _Decoder:
        head, *middle = vae.decoder
        *middle, _, tail, _, last = middle
        layers: list[_Remember | _Grow] = []
        for layer in middle:
            if isinstance(layer, ShortcutMemBlock):
                layers.append(_Remember.of(layer))
            else:
                assert isinstance(layer, ShuffleGrow)
                layers.append(_Grow.of(layer))
        fold, side = vae.config.patch_size, vae.config.spatial_reduction // vae.config.patch_size
        weight, bias = _weights(last)
        colours = torch.unflatten(weight, 0, (3, fold, fold)).movedim(0, 2).flatten(0, 2)
        shades = bias.reshape(3, fold, fold).movedim(0, 2).flatten()
        # The linear map of all channels at zero, and what each channel adds to it.
        zero = torch.zeros_like(vae.basis[:, :1, None])
        mean = vae.denormalise(zero).flatten()
        scale = vae.denormalise(zero + 1).flatten() - mean
        patch = (vae.config.temporal_reduction, 3, side, fold, side, fold)

        def ordered(rows: Tensor) -> Tensor:
            """[..., P], P ordered frame, colour, row, column."""
            cut = torch.unflatten(rows, -1, patch).movedim(-5, -1)
            return cut.transpose(-4, -3).flatten(-6)

        return cls(
            _conv(head),
            tuple(layers),
            _conv(tail),
            _Conv.of(colours, shades),
            ordered(vae.basis * scale[:, None]).T.contiguous(),
            ordered(vae.basis_mean + mean @ vae.basis),
            side,
            fold,
        )

    def __call__(
        self, latents: Tensor, memories: tuple[Tensor, ...] | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """latents [B,F,C,h,w] -> (pixels [B,T,3,H,W], not clamped, the blocks' new memories)."""
        batch, _, _, height, width = latents.shape
        x = latents.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        patches = F.linear(x.permute(0, 2, 3, 1), self.basis, self.basis_shift)
        x = self.head(x)
        previous = iter(memories or ())
        kept: list[Tensor] = []
        for layer in self.layers:
            if isinstance(layer, _Remember):
                x, memory = layer(x, batch, next(previous, None))
                kept.append(memory)
            else:
                x = layer(x)
        x = self.tail(F.silu(x, inplace=True))
        x = self.last(F.silu(x, inplace=True)).permute(0, 2, 3, 1)
        # One row of a patch is side by side in both, and is added as one.
        run = self.side * x.shape[-1]
        rows = patches.view(len(patches), height, width, -1, self.side, run)
        x.view(len(patches), -1, height, self.side, width, run).add_(rows.permute(0, 3, 1, 4, 2, 5))
        grid, fold = x.shape[1:3], self.fold
        folded = x.view(-1, *grid, fold, 3 * fold).permute(0, 1, 3, 2, 4)
        pixels = folded.reshape(batch, -1, grid[0] * fold, grid[1] * fold, 3)
        return pixels.permute(0, 1, 4, 2, 3), tuple(kept)


def _weights(layer: nn.Module) -> tuple[Tensor, Tensor]:
    assert isinstance(layer, nn.Conv2d)
    return layer.weight, _bias(layer)


def _bias(layer: nn.Conv2d) -> Tensor:
    assert layer.bias is not None
    return layer.bias


def _conv(layer: nn.Module) -> _Conv:
    return _Conv.of(*_weights(layer))
