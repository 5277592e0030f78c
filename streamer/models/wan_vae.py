"""WanVAE: the causal autoencoder of Wan2.1, streamed, its memory outside the module.

Parameter names are those of the published Wan2.1_VAE.pth, so a checkpoint loads with strict=True.
The pruned LightVAE (lightvaew2_1) is the same network with narrower layers: another `width`.

Everything is causal in time: a 3-wide temporal convolution sees its frame and the two before it,
zeros at the start.  The first frame of a clip is special: it passes every change of rate on its
own, so a clip of F latent frames is one picture and F - 1 groups of four.  Wan, 2025,
arXiv:2503.20314, section 4.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from streamer.models.vae import DecoderState, widened
from streamer.models.wan_vae_layers import (
    FIRST_PICTURES,
    LOOK_BACK,
    CausalConv3d,
    ChannelNorm,
    FrameAttention,
    Grow,
    Memory,
    ResidualBlock,
    Shrink,
    run_layers,
)

# One number per latent channel: the scale at which the transformer sees latents, from the paper's
# training data; published beside the weights, not in them.
LATENT_MEAN = (
    *(-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508),
    *(0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921),
)
LATENT_STD = (
    *(2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743),
    *(3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160),
)


@dataclass(frozen=True)
class WanVAEConfig:
    """Sizes of one Wan autoencoder.

    width: channels at the picture's end; the published one has 96, LightVAE 24.
    multiples: channels of the four scales in units of width, from the picture inwards.
    blocks_per_stage: residual blocks at each scale of the encoder; the decoder has one more.
    shrinks_time: whether the encoder halves the rate, after each scale but the last.
    Raises ValueError when these do not fit each other.
    """

    width: int = 96
    latent_channels: int = 16
    multiples: tuple[int, ...] = (1, 2, 4, 4)
    blocks_per_stage: int = 2
    shrinks_time: tuple[bool, ...] = (False, True, True)

    def __post_init__(self) -> None:
        if self.blocks_per_stage < 1:
            raise ValueError(f"blocks_per_stage is {self.blocks_per_stage}; expected at least 1")
        if len(self.shrinks_time) != len(self.multiples) - 1:
            raise ValueError(
                f"shrinks_time has {len(self.shrinks_time)} entries for {len(self.multiples)} "
                "scales; expected one between each two"
            )
        if self.latent_channels != len(LATENT_MEAN):
            raise ValueError(
                f"latent_channels is {self.latent_channels}; the scale of Wan2.1's latents is "
                f"known for {len(LATENT_MEAN)} channels"
            )

    @property
    def spatial_reduction(self) -> int:
        """Pixels per side of one latent position."""
        return 1 << len(self.shrinks_time)

    @property
    def temporal_reduction(self) -> int:
        """Frames per latent frame, after the first."""
        return 1 << sum(self.shrinks_time)

    @property
    def has_single_first(self) -> bool:
        """The first latent frame of a clip is one picture."""
        return True

    @property
    def encodes_single_first(self) -> bool:
        """The first latent frame is made of one picture."""
        return True

    @property
    def remembered_frames(self) -> int:
        """How many latent frames back the decoder sees: two frames for each temporal convolution.

        A convolution behind an increase of the rate looks back for half the time.
        """
        per_stage = 2 * (self.blocks_per_stage + 1)
        rate, convolutions = 1.0, 1.0 + 2 * 2
        for grows in (*reversed(self.shrinks_time), False):
            convolutions += (per_stage + grows) / rate
            rate *= 2 if grows else 1
        convolutions += 1 / rate
        return -int(-LOOK_BACK * convolutions // 1)


class Encoder(nn.Module):
    """Pictures [B,3,T,H,W] to twice the latent channels: mean and log-variance."""

    def __init__(self, config: WanVAEConfig) -> None:
        super().__init__()
        widths = [config.width * multiple for multiple in config.multiples]
        self.conv1 = CausalConv3d(3, config.width, (3, 3, 3))
        layers: list[nn.Module] = []
        before = config.width
        for scale, here in enumerate(widths):
            for _ in range(config.blocks_per_stage):
                layers.append(ResidualBlock(before, here))
                before = here
            if scale < len(config.shrinks_time):
                layers.append(Shrink(here, config.shrinks_time[scale]))
        self.downsamples = nn.Sequential(*layers)
        self.middle = _middle(before)
        self.head = _head(before, 2 * config.latent_channels)

    def run(self, x: Tensor, memory: Memory) -> Tensor:
        """x: [B,3,T,H,W] -> [B,2C,F,h,w]."""
        return run_layers([self.conv1, *self.downsamples, *self.middle, *self.head], x, memory)


class Decoder(nn.Module):
    """Latents [B,C,F,h,w] to pictures [B,3,T,H,W]."""

    def __init__(self, config: WanVAEConfig) -> None:
        super().__init__()
        widths = [config.width * multiple for multiple in reversed(config.multiples)]
        grows = [*reversed(config.shrinks_time)]
        self.conv1 = CausalConv3d(config.latent_channels, widths[0], (3, 3, 3))
        self.middle = _middle(widths[0])
        layers: list[nn.Module] = []
        before = widths[0]
        for scale, here in enumerate(widths):
            for _ in range(config.blocks_per_stage + 1):
                layers.append(ResidualBlock(before, here))
                before = here
            if scale < len(grows):
                layers.append(Grow(here, grows[scale]))
                before = here // 2
        self.upsamples = nn.Sequential(*layers)
        self.head = _head(before, 3)

    def run(self, x: Tensor, memory: Memory) -> Tensor:
        """x: [B,C,F,h,w] -> [B,3,T,H,W]."""
        return run_layers([self.conv1, *self.middle, *self.upsamples, *self.head], x, memory)


class WanVAE(nn.Module):
    """Encoder and decoder with explicit state.  Weights only; safe to share between streams."""

    def __init__(self, config: WanVAEConfig | None = None) -> None:
        super().__init__()
        self.config = config or WanVAEConfig()
        channels = self.config.latent_channels
        self.encoder = Encoder(self.config)
        self.conv1 = CausalConv3d(2 * channels, 2 * channels, (1, 1, 1))
        self.conv2 = CausalConv3d(channels, channels, (1, 1, 1))
        self.decoder = Decoder(self.config)
        self._num_encoder = _count_memories(self.encoder)
        self._num_decoder = _count_memories(self.decoder)

    def normalise(self, raw: Tensor) -> Tensor:
        """The mean of the encoder's posterior [B,F,C,h,w] -> the transformer's scale."""
        return (raw - _column(LATENT_MEAN, raw)) / _column(LATENT_STD, raw)

    def denormalise(self, latents: Tensor) -> Tensor:
        """Inverse of `normalise`."""
        return latents * _column(LATENT_STD, latents) + _column(LATENT_MEAN, latents)

    def encode(
        self, pixels: Tensor, state: DecoderState | None = None
    ) -> tuple[Tensor, DecoderState]:
        """pixels [B,T,3,H,W] in 0..1 -> (latents [B,F,C,h,w] as the transformer reads them, state).

        A clip begins with one picture by itself, then groups of four: F = 1 + (T-1) // 4; later
        chunks hold groups of four.  Pictures behind the last whole group are left out, as in Wan.
        The mean of the posterior is taken, never a sample.
        Raises ValueError for sides that are no multiples of the spatial reduction, and for a chunk
        without a whole group.
        """
        side, step = self.config.spatial_reduction, self.config.temporal_reduction
        if pixels.ndim != 5 or pixels.shape[2] != 3 or any(n % side for n in pixels.shape[3:]):
            raise ValueError(
                f"pixels are {tuple(pixels.shape)}, need [B,T,3,H,W], H and W multiples of {side}"
            )
        is_first = state is None or state.frames == 0
        count = pixels.shape[1] - (FIRST_PICTURES if is_first else 0)
        groups = [step] * (count // step)
        if is_first and pixels.shape[1]:
            groups.insert(0, FIRST_PICTURES)
        if not groups:
            raise ValueError(
                f"{pixels.shape[1]} pictures make no latent frame; expected at least "
                f"{1 if is_first else step}"
            )
        video = (pixels.to(self._dtype) * 2.0 - 1.0).transpose(1, 2)
        parts = []
        # One group at a time: memory stays that of four pictures, and chunks equal the whole.
        for part in torch.split(video[:, :, : sum(groups)], groups, dim=2):
            memory = Memory(state, self._num_encoder)
            encoded = self.conv1(self.encoder.run(part, memory))
            parts.append(encoded.chunk(2, dim=1)[0])
            state = _after(memory, state, part.shape[2])
        raw = widened(torch.cat(parts, dim=2).transpose(1, 2))
        return self.normalise(raw), cast(DecoderState, state)

    def decode(
        self, latents: Tensor, state: DecoderState | None = None
    ) -> tuple[Tensor, DecoderState]:
        """latents [B,F,C,h,w] -> (pixels [B,T,3,H,W] in 0..1, state).

        T = 4F, or 4F - 3 where a clip begins.
        """
        raw, state = self.decode_raw(latents, state)
        return raw.clamp(0, 1), state

    def decode_raw(
        self, latents: Tensor, state: DecoderState | None = None
    ) -> tuple[Tensor, DecoderState]:
        """As `decode`, but not clamped to 0..1.  Raises ValueError for another shape."""
        channels = self.config.latent_channels
        if latents.ndim != 5 or latents.shape[2] != channels or not latents.shape[1]:
            raise ValueError(f"latents are {tuple(latents.shape)}, need [B,F,{channels},h,w]")
        raw = self.denormalise(widened(latents)).to(self._dtype).transpose(1, 2)
        parts = []
        for part in torch.split(raw, 1, dim=2):
            memory = Memory(state, self._num_decoder)
            parts.append(self.decoder.run(self.conv2(part), memory))
            state = _after(memory, state, part.shape[2])
        pixels = widened(torch.cat(parts, dim=2).transpose(1, 2))
        return pixels * 0.5 + 0.5, cast(DecoderState, state)

    @property
    def _dtype(self) -> torch.dtype:
        return self.conv2.weight.dtype


def _middle(channels: int) -> nn.Sequential:
    return nn.Sequential(
        ResidualBlock(channels, channels),
        FrameAttention(channels),
        ResidualBlock(channels, channels),
    )


def _head(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(
        ChannelNorm(channels_in, 3), nn.SiLU(), CausalConv3d(channels_in, channels_out, (3, 3, 3))
    )


def _count_memories(half: nn.Module) -> int:
    """How many layers of a half remember something."""
    count = 0
    for layer in half.modules():
        if isinstance(layer, CausalConv3d):
            count += layer.kernel_size[0] > 1
        elif isinstance(layer, Shrink):
            count += layer.shrinks_time
    return count


def _after(memory: Memory, state: DecoderState | None, num_frames: int) -> DecoderState:
    return DecoderState(tuple(memory.kept), (0 if state is None else state.frames) + num_frames)


def _column(numbers: tuple[float, ...], like: Tensor) -> Tensor:
    """One number per channel of [B,F,C,h,w]."""
    return torch.tensor(numbers, dtype=like.dtype, device=like.device)[:, None, None]
