"""The layers of the Wan VAE, each fed a stretch of a clip and its memory of the frames before.

Parameter names are the published ones.  No layer looks forward in time.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamer.models.vae import DecoderState

FIRST_PICTURES = 1
LOOK_BACK = 2


class Memory:
    """The frames that the layers of one pass remember: read in order, kept in the same order.

    Owner: one call of encode or decode.  is_first: whether the pass begins a clip.
    """

    def __init__(self, state: DecoderState | None, num_layers: int) -> None:
        self.is_first = state is None or state.frames == 0
        held = () if state is None else state.memories
        if not self.is_first and len(held) != num_layers:
            raise ValueError(
                f"the state holds {len(held)} memories, this half has {num_layers} layers with one"
            )
        self._held = iter(() if self.is_first else held)
        self.kept: list[Tensor] = []

    def extend(self, x: Tensor, count: int) -> Tensor:
        """x [B,C,T,h,w] behind the `count` frames before it: [B,C,count+T,h,w]; zeros at first."""
        past = next(self._held, None)
        if past is None:
            past = x.new_zeros(*x.shape[:2], count, *x.shape[3:])
        whole = torch.cat([past, x], dim=2)
        self.kept.append(whole[:, :, whole.shape[2] - count :].clone())
        return whole


class CausalConv3d(nn.Conv3d):
    """A convolution that pads space evenly, and looks back, never forward, in time."""

    def __init__(self, channels_in: int, channels_out: int, size: tuple[int, int, int]) -> None:
        super().__init__(channels_in, channels_out, size, padding=(0, size[1] // 2, size[2] // 2))

    def run(self, x: Tensor, memory: Memory) -> Tensor:
        """x: [B,C,T,h,w] -> [B,C',T,h,w], T may be 0."""
        whole = memory.extend(x, self.kernel_size[0] - 1)
        if not x.shape[2]:
            return x.new_zeros(len(x), self.out_channels, 0, *x.shape[3:])
        out: Tensor = self(whole)
        return out


class ChannelNorm(nn.Module):
    """Each position's channels scaled to length sqrt(C), times gamma.

    RMS norm, Zhang and Sennrich 2019, arXiv:1910.07467; the length has a floor instead of an eps.
    """

    def __init__(self, channels: int, num_axes: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels, *[1] * num_axes))

    def forward(self, x: Tensor) -> Tensor:
        """x, result: [B,C,...]."""
        scaled: Tensor = F.normalize(x, dim=1) * x.shape[1] ** 0.5 * self.gamma
        return scaled


class ResidualBlock(nn.Module):
    """Two normalised 3x3x3 convolutions and a shortcut."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            ChannelNorm(channels_in, 3),
            nn.SiLU(),
            CausalConv3d(channels_in, channels_out, (3, 3, 3)),
            ChannelNorm(channels_out, 3),
            nn.SiLU(),
            nn.Identity(),  # dropout, in training
            CausalConv3d(channels_out, channels_out, (3, 3, 3)),
        )
        self.shortcut = (
            CausalConv3d(channels_in, channels_out, (1, 1, 1))
            if channels_in != channels_out
            else nn.Identity()
        )

    def run(self, x: Tensor, memory: Memory) -> Tensor:
        """x: [B,C,T,h,w] -> [B,C',T,h,w]."""
        shortcut: Tensor = self.shortcut(x)
        return shortcut + run_layers(self.residual, x, memory)


class FrameAttention(nn.Module):
    """One head of attention among the positions of each frame, by itself."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels, 2)
        self.to_qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = nn.Conv2d(channels, channels, 1)

    def run(self, x: Tensor, memory: Memory) -> Tensor:
        """x, result: [B,C,T,h,w]."""
        frames = _to_frames(x)
        q, k, v = self.to_qkv(self.norm(frames)).flatten(2).transpose(1, 2).chunk(3, dim=2)
        seen = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
        out = self.proj(seen.transpose(1, 2).reshape(frames.shape))
        return x + _from_frames(out, len(x))


class Shrink(nn.Module):
    """Halve rows and columns; with `shrinks_time` also the rate, all but the first frame."""

    def __init__(self, channels: int, shrinks_time: bool) -> None:
        super().__init__()
        self.shrinks_time = shrinks_time
        self.resample = nn.Sequential(
            nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(channels, channels, 3, stride=2)
        )
        if shrinks_time:
            self.time_conv = nn.Conv3d(channels, channels, (3, 1, 1), stride=(2, 1, 1))

    def run(self, x: Tensor, memory: Memory) -> Tensor:
        """x: [B,C,T,h,w] -> [B,C,T',h/2,w/2]."""
        x = _from_frames(self.resample(_to_frames(x)), len(x))
        if not self.shrinks_time:
            return x
        first = x[:, :, :FIRST_PICTURES] if memory.is_first else x[:, :, :0]
        whole = memory.extend(x, 1)
        # Behind the first frame there is no history to look at: it is the history of the second.
        whole = whole[:, :, first.shape[2] :]
        if whole.shape[2] < self.time_conv.kernel_size[0]:
            return first
        return torch.cat([first, self.time_conv(whole)], dim=2)


class Grow(nn.Module):
    """Double rows and columns, halve the channels; with `grows_time` also double the rate.

    The first frame of a clip stays one frame, and the others do not see it.
    """

    def __init__(self, channels: int, grows_time: bool) -> None:
        super().__init__()
        self.grows_time = grows_time
        self.resample = nn.Sequential(
            nn.Upsample(scale_factor=2.0, mode="nearest"),
            nn.Conv2d(channels, channels // 2, 3, padding=1),
        )
        if grows_time:
            self.time_conv = CausalConv3d(channels, 2 * channels, (3, 1, 1))

    def run(self, x: Tensor, memory: Memory) -> Tensor:
        """x: [B,C,T,h,w] -> [B,C/2,T',2h,2w]."""
        if self.grows_time:
            first = x[:, :, :FIRST_PICTURES] if memory.is_first else x[:, :, :0]
            pairs = self.time_conv.run(x[:, :, first.shape[2] :], memory)
            pairs = torch.unflatten(pairs, 1, (2, -1)).movedim(1, 3).flatten(2, 3)
            x = torch.cat([first, pairs], dim=2)
        return _from_frames(self.resample(_to_frames(x)), len(x))


_Streamed = CausalConv3d | ResidualBlock | FrameAttention | Shrink | Grow


def run_layers(layers: Iterable[nn.Module], x: Tensor, memory: Memory) -> Tensor:
    """x [B,C,T,h,w] through layers; those with a memory get it."""
    for layer in layers:
        x = layer.run(x, memory) if isinstance(layer, _Streamed) else layer(x)
    return x


def _to_frames(x: Tensor) -> Tensor:
    """[B,C,T,h,w] -> [B*T,C,h,w]."""
    return x.transpose(1, 2).flatten(0, 1)


def _from_frames(frames: Tensor, batch: int) -> Tensor:
    """Inverse of `_to_frames`."""
    return torch.unflatten(frames, 0, (batch, -1)).transpose(1, 2)
