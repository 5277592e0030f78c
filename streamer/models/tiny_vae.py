"""TinyVAE: a small streaming autoencoder in the manner of TAEHV, its memory outside the module.

One class serves the published taew2_1 (madebyollin/taehv; layer order and key numbering of the
file) and the embedded storybook model, which differs in its configuration only: pixel shuffle with
shortcuts, fewer channels, 16-fold reduction.

Each memory block looks at the current frame and at the frame before it, nothing else; so a stream
is decoded in chunks of any size with one remembered frame per block, and the chunks together equal
the whole clip.  This module knows nothing of prompts, blocks of a stream or devices.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import TypeAdapter, ValidationError
from safetensors.torch import save_file
from torch import Tensor, nn

from streamer.errors import WeightsError
from streamer.models.checkpoint import load_weights
from streamer.models.vae import DecoderState, widened

CONFIG_FILE = "vae.json"
WEIGHTS_FILE = "vae.safetensors"


@dataclass(frozen=True)
class TinyVAEConfig:
    """Shape of one autoencoder.  Four channel counts a side: at the picture's end, and after
    each halving (or doubling).

    patch_size: pixels per side folded into channels before the first and after the last layer.
    blocks_per_stage, convs_per_block: memory blocks at each of the three coded scales, and 3x3
    convolutions in each.
    growth: "nearest" as published.  "shuffle": the encoder is one linear map of space-time patches,
    fitted by principal components (`fit_basis`), and the decoder network adds to the inverse map
    what that cannot show.  It grows by pixel shuffle with parameter-free shortcuts, which train
    far faster (DC-AE, Chen et al. 2024, arXiv:2410.10733, section 3.2); channel counts must divide
    each other, and encoder_channels mean nothing.
    encoder_strides, decoder_strides: frames merged (made) at each of the three scales; their
    products are equal.
    frames_to_trim: frames dropped once at the start of a stream.
    is_normalised: whether buffers `latent_mean` and `latent_std` map the network's latents to
    unit scale.
    """

    patch_size: int = 1
    latent_channels: int = 16
    encoder_channels: tuple[int, int, int, int] = (64, 64, 64, 64)
    decoder_channels: tuple[int, int, int, int] = (256, 128, 64, 64)
    blocks_per_stage: int = 3
    convs_per_block: int = 3
    growth: Literal["nearest", "shuffle"] = "nearest"
    encoder_strides: tuple[int, int, int] = (2, 2, 1)
    decoder_strides: tuple[int, int, int] = (1, 2, 2)
    frames_to_trim: int = 3
    is_normalised: bool = False

    @property
    def spatial_reduction(self) -> int:
        """Pixels per side of one latent position."""
        return 8 * self.patch_size

    @property
    def temporal_reduction(self) -> int:
        """Frames per latent frame."""
        a, b, c = self.decoder_strides
        return a * b * c

    @property
    def has_single_first(self) -> bool:
        """Whether the first latent frame of a stream is one picture: what is trimmed is gone."""
        return self.frames_to_trim == self.temporal_reduction - 1

    @property
    def encodes_single_first(self) -> bool:
        """The encoder merges as many pictures into the first latent frame as into all others."""
        return False

    @property
    def remembered_frames(self) -> int:
        """How many latent frames back the decoder remembers: each memory block looks one back.

        The frame in question is one at the block's own rate, which the strides before it raised.
        """
        rate, frames = 1, 0.0
        for stride in self.decoder_strides:
            frames += self.blocks_per_stage / rate
            rate *= stride
        return math.ceil(frames)

    def __post_init__(self) -> None:
        """Raise ValueError when the two halves do not fit each other."""
        merged = self.encoder_strides[0] * self.encoder_strides[1] * self.encoder_strides[2]
        if merged != self.temporal_reduction:
            raise ValueError(
                f"encoder_strides {self.encoder_strides} merge {merged} frames, decoder_strides "
                f"{self.decoder_strides} make {self.temporal_reduction}; they must agree"
            )
        if not 0 <= self.frames_to_trim < self.temporal_reduction:
            raise ValueError(
                f"frames_to_trim is {self.frames_to_trim}, must be 0..{self.temporal_reduction - 1}"
            )


TAEW2_1 = TinyVAEConfig()
STORYBOOK = TinyVAEConfig(
    patch_size=2,
    latent_channels=64,
    decoder_channels=(256, 128, 48, 24),
    blocks_per_stage=1,
    convs_per_block=2,
    growth="shuffle",
    frames_to_trim=0,
    is_normalised=True,
)


class MemBlock(nn.Module):
    """Residual 3x3 convolutions over the current frame and the frame before it."""

    def __init__(self, channels: int, num_convs: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [_conv(2 * channels, channels)]
        for _ in range(num_convs - 1):
            layers += [nn.ReLU(), _conv(channels, channels)]
        self.conv = nn.Sequential(*layers)

    def forward(self, x: Tensor, batch: int, memory: Tensor | None) -> tuple[Tensor, Tensor]:
        """x, result: [B*F,C,h,w], F frames in time order.  memory, second result:
        [B,C,h,w], the last frame seen."""
        past, last = _with_past(x, batch, memory)
        return F.relu(self.conv(past) + x), last


class TPool(nn.Module):
    """Merge `stride` consecutive frames with a 1x1 convolution."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(channels * stride, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: [B*F,C,h,w] -> [B*F/stride,C,h,w]."""
        merged: Tensor = self.conv(x.reshape(-1, self.stride * x.shape[1], *x.shape[2:]))
        return merged


class TGrow(nn.Module):
    """Make `stride` consecutive frames of each with a 1x1 convolution."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(channels, channels * stride, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: [B*F,C,h,w] -> [B*F*stride,C,h,w]."""
        grown: Tensor = self.conv(x)
        return grown.reshape(-1, *x.shape[1:])


class ShortcutMemBlock(nn.Module):
    """As MemBlock, but activated before each convolution, so that the frame itself passes through
    untouched."""

    def __init__(self, channels: int, num_convs: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for index in range(num_convs):
            layers += [nn.SiLU(), _conv(2 * channels if index == 0 else channels, channels)]
        self.conv = nn.Sequential(*layers)

    def forward(self, x: Tensor, batch: int, memory: Tensor | None) -> tuple[Tensor, Tensor]:
        """See MemBlock."""
        past, last = _with_past(x, batch, memory)
        return self.conv(past) + x, last


class ShuffleGrow(nn.Module):
    """Double the size and make `stride` frames of each; the shortcut repeats channels."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.channels = channels_out
        self.repeats = channels_out * 4 * stride // channels_in
        self.conv = nn.Conv2d(channels_in, channels_out * 4 * stride, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x: [B*F,C,h,w] -> [B*F*stride,channels_out,2h,2w]."""
        grown = self.conv(x) + x.repeat_interleave(self.repeats, 1)
        return F.pixel_shuffle(grown.reshape(-1, 4 * self.channels, *x.shape[2:]), 2)


class SoftClamp(nn.Module):
    """3 tanh(x / 3): leaves usual latents alone and bounds strange ones."""

    def forward(self, x: Tensor) -> Tensor:
        """Element-wise."""
        return torch.tanh(x / 3) * 3


class TinyVAE(nn.Module):
    """Encoder and decoder with explicit state.  Weights only; safe to share between any number
    of streams."""

    latent_mean: Tensor
    latent_std: Tensor
    basis: Tensor
    basis_mean: Tensor

    def __init__(self, config: TinyVAEConfig) -> None:
        super().__init__()
        self.config = config
        self.is_linear = config.growth == "shuffle"
        self.decoder = nn.Sequential(*_decoder_layers(config))
        if self.is_linear:
            size = 3 * config.temporal_reduction * config.spatial_reduction**2
            self.register_buffer("basis", torch.eye(config.latent_channels, size))
            self.register_buffer("basis_mean", torch.zeros(size))
        else:
            self.encoder = nn.Sequential(*_encoder_layers(config))
        if config.is_normalised:
            self.register_buffer("latent_mean", torch.zeros(config.latent_channels))
            self.register_buffer("latent_std", torch.ones(config.latent_channels))
            self._initialise()

    def normalise(self, raw: Tensor) -> Tensor:
        """The encoder network's latents [...,C,h,w] -> unit scale per channel."""
        if not self.config.is_normalised:
            return raw
        return (raw - self.latent_mean[:, None, None]) / self.latent_std[:, None, None]

    def denormalise(self, latents: Tensor) -> Tensor:
        """Inverse of `normalise`."""
        if not self.config.is_normalised:
            return latents
        return latents * self.latent_std[:, None, None] + self.latent_mean[:, None, None]

    def _initialise(self) -> None:
        """Weights from which training starts fast: shortcuts, and a head that adds nothing."""
        for layer in self.modules():
            if isinstance(layer, ShuffleGrow):
                nn.init.zeros_(layer.conv.weight)
        for block in _memory_blocks(self):
            nn.init.zeros_(block.conv[-1].weight)  # type: ignore[arg-type]
        for parameter in self.decoder[-1].parameters():
            nn.init.zeros_(parameter)

    def patches(self, pixels: Tensor) -> Tensor:
        """pixels [B,T,3,H,W] -> the space-time patch of every latent position [B,F,h,w,P]."""
        side, step = self.config.spatial_reduction, self.config.temporal_reduction
        batch, frames, _, height, width = pixels.shape
        size = (batch, frames // step, step, 3, height // side, side, width // side, side)
        return pixels.reshape(size).permute(0, 1, 4, 6, 2, 3, 5, 7).flatten(4)

    def _from_patches(self, patches: Tensor) -> Tensor:
        """Inverse of `patches`."""
        side, step = self.config.spatial_reduction, self.config.temporal_reduction
        batch, frames, rows, columns, _ = patches.shape
        cut = patches.reshape(batch, frames, rows, columns, step, 3, side, side)
        cut = cut.permute(0, 1, 4, 5, 2, 6, 3, 7)
        return cut.reshape(batch, frames * step, 3, rows * side, columns * side)

    def encode(
        self, pixels: Tensor, state: DecoderState | None = None
    ) -> tuple[Tensor, DecoderState]:
        """pixels [B,T,3,H,W] in 0..1 -> (latents [B,ceil(T/t),C,h,w] at unit scale, state),
        t the temporal reduction.

        The end is padded by repeating the last frame to a multiple of t, so every chunk but
        a stream's last must be such a multiple.
        Raises ValueError for sides that are not multiples of the spatial reduction.
        """
        batch, frames, channels, height, width = pixels.shape
        side = self.config.spatial_reduction
        if channels != 3 or height % side or width % side:
            raise ValueError(
                f"pixels are {tuple(pixels.shape)}, need [B,T,3,H,W], H and W multiples of {side}"
            )
        if missing := -frames % self.config.temporal_reduction:
            pixels = torch.cat([pixels, pixels[:, -1:].expand(-1, missing, -1, -1, -1)], 1)
        seen = 0 if state is None else state.frames
        if self.is_linear:
            raw = F.linear(self.patches(pixels) - self.basis_mean, self.basis).movedim(-1, 2)
            return self.normalise(raw), DecoderState((), seen + frames)
        x = F.pixel_unshuffle(pixels.flatten(0, 1).to(self._dtype), self.config.patch_size)
        raw, memories = _run(self.encoder, x, batch, None if state is None else state.memories)
        latents = self.normalise(raw)
        return widened(latents), DecoderState(memories, seen + frames)

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def decode(
        self, latents: Tensor, state: DecoderState | None = None
    ) -> tuple[Tensor, DecoderState]:
        """latents [B,F,C,h,w] at unit scale -> (pixels [B,T,3,H,W] in 0..1, state); T =
        F*t, less the stream's trim."""
        raw, state = self.decode_raw(latents, state)
        return raw.clamp(0, 1), state

    def decode_linear(self, latents: Tensor) -> Tensor:
        """What the linear map alone makes of latents: [B,F,C,h,w] -> [B,F*t,3,H,W], not clamped."""
        raw = self.denormalise(latents).movedim(2, -1)
        return self._from_patches(F.linear(raw, self.basis.T) + self.basis_mean)

    def check(self, latents: Tensor, state: DecoderState | None) -> None:
        """Raise ValueError for latents or a state that this decoder cannot take."""
        channels = self.config.latent_channels
        if latents.dim() != 5 or latents.shape[2] != channels:
            raise ValueError(f"latents are {tuple(latents.shape)}, need [B,F,{channels},h,w]")
        if state is not None:
            _check_memories(self.decoder, state.memories)

    def decode_raw(
        self, latents: Tensor, state: DecoderState | None = None
    ) -> tuple[Tensor, DecoderState]:
        """As `decode`, but not clamped to 0..1: what training compares."""
        self.check(latents, state)
        batch, frames = latents.shape[:2]
        latents = latents.to(self._dtype)
        # The network reads unit scale; the linear map needs its own.
        x = (latents if self.is_linear else self.denormalise(latents)).flatten(0, 1)
        grown, memories = _run(self.decoder, x, batch, None if state is None else state.memories)
        pixels = F.pixel_shuffle(grown.flatten(0, 1), self.config.patch_size)
        pixels = pixels.reshape(batch, -1, *pixels.shape[1:])
        if self.is_linear:
            pixels = pixels + self.decode_linear(latents)
        seen = 0 if state is None else state.frames
        if seen == 0:
            pixels = pixels[:, self.config.frames_to_trim :]
        return widened(pixels), DecoderState(memories, seen + frames)


@torch.no_grad()
def fit_basis(vae: TinyVAE, clips: Tensor, start: TinyVAE | None = None) -> None:
    """Set the linear map of a "shuffle" autoencoder, and the scale of its latents, from clips.

    clips: float [B,T,3,H,W] in 0..1.  The basis is that of the largest principal components of the
    patches (Hotelling 1933).  Latents are scaled to mean square 1 overall and keep the square root
    of their spread, so that what matters more in the picture also is larger in the latents.
    start: an autoencoder of fewer channels, which stay the first ones, scale and all; the others
    are the principal components of what it leaves.
    """
    kept = 0 if start is None else start.config.latent_channels
    patches = vae.patches(clips).flatten(0, 3)
    mean = patches.mean(0) if start is None else start.basis_mean
    centred = patches - mean
    if start is not None:
        centred -= (centred @ start.basis.T) @ start.basis
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(centred))
    count = vae.config.latent_channels - kept
    spread = values[-count:].flip(0).clamp_min(1e-12).sqrt()
    vae.basis[kept:] = vectors[:, -count:].flip(1).T
    if start is not None:  # where it leaves nothing, any direction is as good, but not one it has
        vae.basis[kept:] -= (vae.basis[kept:] @ start.basis.T) @ start.basis
    vae.basis_mean.copy_(mean)
    vae.latent_mean.zero_()
    scale = spread.mean().sqrt()
    if start is not None:
        vae.basis[:kept] = start.basis
        vae.latent_std[:kept] = start.latent_std
        vae.latent_mean[:kept] = start.latent_mean
        # latent_std = sqrt(spread * mean spread): the last one tells the mean of all.
        last = (patches - mean) @ start.basis[-1]
        scale = start.latent_std[-1] / last.std().sqrt()
    vae.latent_std[kept:] = spread.sqrt() * scale


def save_vae(vae: TinyVAE, directory: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write the configuration, and the weights as `dtype` (the normalisation stays float32)."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / CONFIG_FILE).write_text(json.dumps(asdict(vae.config), indent=1) + "\n")
    tensors = {
        name: value.detach()
        .to("cpu", torch.float32 if name.startswith("latent_") else dtype)
        .contiguous()
        for name, value in vae.state_dict().items()
    }
    save_file(tensors, directory / WEIGHTS_FILE)


def load_vae(directory: Path, device: torch.device | str = "cpu") -> TinyVAE:
    """Read what `save_vae` wrote, as float32, ready for inference.

    Raises WeightsError when a file is missing or damaged, or when the two do not fit each other.
    """
    path = directory / CONFIG_FILE
    try:
        config = TypeAdapter(TinyVAEConfig).validate_json(path.read_text())
    except (OSError, ValidationError) as error:
        raise WeightsError(f"{path}: not the configuration of an autoencoder: {error}") from error
    vae = TinyVAE(config)
    load_weights(vae, [directory / WEIGHTS_FILE])
    vae.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return vae.eval().requires_grad_(False)


def trim_published_growth(tensors: Mapping[str, Tensor], vae: TinyVAE) -> dict[str, Tensor]:
    """Published weights with TGrow kernels cut to the model's frame count.

    Older files carry kernels for a larger stride; the model's frames are the last ones, so the
    last rows are kept.
    """
    result = dict(tensors)
    for name, layer in vae.named_modules():
        key = f"{name}.conv.weight"
        if isinstance(layer, TGrow) and key in result:
            result[key] = result[key][-layer.conv.out_channels :]
    return result


def _conv(channels_in: int, channels_out: int, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=bias)


def _encoder_layers(config: TinyVAEConfig) -> Iterator[nn.Module]:
    channels = config.encoder_channels
    yield _conv(3 * config.patch_size**2, channels[0])
    yield nn.ReLU()
    for here, after, stride in zip(
        channels[:-1], channels[1:], config.encoder_strides, strict=True
    ):
        yield TPool(here, stride)
        yield _conv(here, after, stride=2, bias=False)
        for _ in range(config.blocks_per_stage):
            yield MemBlock(after, config.convs_per_block)
    yield _conv(channels[-1], config.latent_channels)


def _decoder_layers(config: TinyVAEConfig) -> Iterator[nn.Module]:
    channels = config.decoder_channels
    is_published = config.growth == "nearest"
    if is_published:
        yield SoftClamp()
    yield _conv(config.latent_channels, channels[0])
    if is_published:
        yield nn.ReLU()
    for here, after, stride in zip(
        channels[:-1], channels[1:], config.decoder_strides, strict=True
    ):
        for _ in range(config.blocks_per_stage):
            block = MemBlock if is_published else ShortcutMemBlock
            yield block(here, config.convs_per_block)
        if is_published:
            yield nn.Upsample(scale_factor=2)
            yield TGrow(here, stride)
            yield _conv(here, after, bias=False)
        else:
            yield ShuffleGrow(here, after, stride)
    if is_published:
        yield nn.ReLU()
    else:
        yield nn.SiLU()
        yield _conv(channels[-1], channels[-1])
        yield nn.SiLU()
    yield _conv(channels[-1], 3 * config.patch_size**2)


def _with_past(x: Tensor, batch: int, memory: Tensor | None) -> tuple[Tensor, Tensor]:
    """x [B*F,C,h,w] -> (x beside the frame before it [B*F,2C,h,w], the last frame [B,C,h,w])."""
    frames = x.reshape(batch, -1, *x.shape[1:])
    first = torch.zeros_like(frames[:, :1]) if memory is None else memory.unsqueeze(1)
    past = torch.cat([first, frames[:, :-1]], 1).flatten(0, 1)
    return torch.cat([x, past], 1), frames[:, -1]


def _memory_blocks(module: nn.Module) -> list[MemBlock | ShortcutMemBlock]:
    kinds = (MemBlock, ShortcutMemBlock)
    return [layer for layer in module.modules() if isinstance(layer, kinds)]


def _check_memories(layers: nn.Sequential, memories: tuple[Tensor, ...]) -> None:
    count = len(_memory_blocks(layers))
    if len(memories) != count:
        raise ValueError(
            f"the state holds {len(memories)} memories, this half has {count} memory blocks"
        )


def _run(
    layers: nn.Sequential, x: Tensor, batch: int, memories: tuple[Tensor, ...] | None
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """x [B*F,...] through the layers -> ([B,F',...], the memory blocks' new memories)."""
    if memories is not None:
        _check_memories(layers, memories)
    previous: Iterator[Tensor] = iter(memories or ())
    kept: list[Tensor] = []
    x = x.contiguous(memory_format=torch.channels_last)
    for layer in layers:
        if isinstance(layer, MemBlock | ShortcutMemBlock):
            x, memory = layer(x, batch, next(previous, None))
            kept.append(memory)
        else:
            x = layer(x)
    return x.reshape(batch, -1, *x.shape[1:]), tuple(kept)
