"""VAEStage: trains the embedded autoencoder on clips of the storybook world, rendered as it goes.

The encoder is linear and fitted in closed form from the first clips; what is trained is the decoder
network, which draws what the linear map leaves blurred.  Noise of a random level up to LATENT_NOISE
is added to the latents, half of it shared by the positions of one token, so that it learns to draw
clean pictures from latents that are slightly off in the way a transformer's are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from streamer.distill.draws import draw_noise, send
from streamer.distill.edition import Edition
from streamer.distill.optimizer import Muon, build_optimizer
from streamer.distill.trainer import Update
from streamer.distill.world import Renderer, sample_specs
from streamer.models.tiny_vae import (
    STORYBOOK,
    TinyVAE,
    TinyVAEConfig,
    fit_basis,
    load_vae,
    save_vae,
)

LATENT_NOISE = 0.4
_FAR_OFF = 0.06
"""Mean fault of colours, of 1, that is far off."""
_HELD_OUT = 1 << 40
_BASIS = 1 << 41


class ClipSource(Protocol):
    """Where clips come from."""

    def clips(self, index: int) -> Tensor:
        """The index-th pool of clips, always the same one: uint8 [B,T,3,H,W]."""


class WorldClips:
    """Pools of clips of the storybook world; every other clip changes its prompt on the way."""

    def __init__(
        self,
        edition: Edition,
        *,
        seed: int = 0,
        num_clips: int = 12,
        num_frames: int = 8,
        device: str = "cpu",
    ) -> None:
        self._renderer = Renderer(edition, device)
        self._seed = seed
        self._num_clips = num_clips
        self._num_frames = num_frames

    def clips(self, index: int) -> Tensor:
        """Render pool `index`: uint8 [B,T,3,H,W]."""
        generator = torch.Generator().manual_seed((self._seed << 48) + index)
        count = self._num_clips
        changing = count // 2
        edition = self._renderer.edition
        specs = sample_specs(edition, count, generator)
        targets = sample_specs(edition, changing, generator)
        seeds = torch.randint(1 << 31, (count,), generator=generator).tolist()
        starts = (torch.rand(count, generator=generator) * 60).tolist()
        # A morph takes a second and a clip half of one: it begins up to a second before the clip.
        ahead = torch.rand(changing, generator=generator).tolist()
        still = self._renderer.render(
            specs[changing:], seeds[changing:], self._num_frames, start_s=starts[changing:]
        )
        moving = self._renderer.render(
            specs[:changing],
            seeds[:changing],
            self._num_frames,
            start_s=starts[:changing],
            switch_to=targets,
            switch_s=[start - share for start, share in zip(starts, ahead, strict=False)],
        )
        return torch.cat([moving, still])


@dataclass(frozen=True)
class VAEStageConfig:
    """Weights of the losses and sizes of a batch.

    crop_px: side of the square crops, a multiple of the spatial reduction.  steps_per_pool: steps
    before a new pool, of pool_clips clips.  focus: how much more faults count where the linear map
    is far off, which is where figures are.
    """

    crop_px: int = 96
    crops: int = 6
    steps_per_pool: int = 8
    pool_clips: int = 12
    muon_lr: float = 0.005
    adam_lr: float = 1e-3
    edge_weight: float = 0.5
    fine_weight: float = 0.5
    motion_weight: float = 0.5
    focus: float = 3.0
    basis_pools: int = 12


class VAEStage:
    """The autoencoder, its losses and its clips.  Renders the next pool in a thread while the
    present one is used."""

    def __init__(
        self,
        clips: ClipSource,
        config: VAEStageConfig | None = None,
        vae_config: TinyVAEConfig = STORYBOOK,
        device: torch.device | str = "cpu",
        seed: int = 0,
        start: Path | None = None,
    ) -> None:
        """start: an earlier export to go on from; its linear map, and so its latents, stay.  If it
        has fewer channels, the map goes on where it ends.
        """
        self.config = config or VAEStageConfig()
        self.device = torch.device(device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            vae = TinyVAE(vae_config)
        self.vae = vae.to(self.device)
        self.vae.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._clips = clips
        earlier = None if start is None else load_vae(start, self.device)
        if earlier is not None:
            _take_over(self.vae, earlier)
        if earlier is None or earlier.config.latent_channels < vae_config.latent_channels:
            pools = [clips.clips(_BASIS + number) for number in range(self.config.basis_pools)]
            fit_basis(self.vae, torch.cat(pools).to(self.device).float() / 255, earlier)
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="render")
        self._pools: dict[int, Future[Tensor]] = {}

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """The autoencoder."""
        return {"vae": self.vae}

    @property
    def averaged(self) -> tuple[str, ...]:
        """The autoencoder."""
        return ("vae",)

    def build_optimizer(self) -> Muon:
        """Muon for the wide convolutions, AdamW for first and last layers and biases."""
        return build_optimizer([self.vae], muon_lr=self.config.muon_lr, adam_lr=self.config.adam_lr)

    def loss(self, step: int, generator: torch.Generator) -> Update:
        """Reconstruction of random crops: L1 of pixels, edges, fine detail and motion."""
        video = self._crops(self._pool(step // self.config.steps_per_pool), generator)
        latents, _ = self.vae.encode(video)
        noise = draw_latent_noise(latents.shape, generator, self.device)
        output, _ = self.vae.decode_raw(latents + noise)
        gap = output - video
        psnr = -10 * gap.detach().square().mean().log10()
        gap = gap * self._focus(latents, video)
        pixel = gap.abs().mean()
        edge, fine, motion = _edge(gap), _fine(gap), _motion(gap)
        config = self.config
        loss = pixel + config.edge_weight * edge + config.fine_weight * fine
        loss = loss + config.motion_weight * motion
        told = {"pixel": pixel, "edge": edge, "fine": fine, "psnr_db": psnr}
        return loss, {name: value.detach() for name, value in told.items()}

    @torch.no_grad()
    def _focus(self, latents: Tensor, video: Tensor) -> Tensor:
        """How much faults count, [B,T,1,H,W]: more where the linear map alone is far off."""
        off = (self.vae.decode_linear(latents) - video).abs().mean(2)
        near = F.avg_pool2d(off, 9, stride=1, padding=4, count_include_pad=False)
        return (1 + self.config.focus * (near / _FAR_OFF).clamp(max=1)).unsqueeze(2)

    @torch.no_grad()
    def sample_sheet(self, path: Path) -> dict[str, float]:
        """Held-out clips, their reconstruction and the difference times four; returns the held-out
        PSNR in dB."""
        video = self._held_out()[:8]
        latents, _ = self.vae.encode(video)
        output, _ = self.vae.decode(latents)
        psnr = -10 * (output - video).square().mean((1, 2, 3, 4)).clamp_min(1e-10).log10()
        rows = []
        for frame in (0, video.shape[1] - 1):
            true, made = video[:, frame], output[:, frame]
            for pictures in (true, made, ((made - true).abs() * 4).clamp(0, 1)):
                rows.append(torch.cat(list(pictures[:6]), dim=2))
        sheet = (torch.cat(rows, dim=1).permute(1, 2, 0).cpu() * 255).round().to(torch.uint8)
        Image.fromarray(sheet.numpy()).save(path)
        return {"held_out_psnr_db": psnr.mean().item(), "held_out_worst_db": psnr.min().item()}

    def export(self, directory: Path) -> None:
        """Write the autoencoder for `load_vae`, as float16."""
        save_vae(self.vae, directory, torch.float16)

    def _held_out(self) -> Tensor:
        pools = [self._clips.clips(_HELD_OUT + number) for number in range(2)]
        return torch.cat(pools).to(self.device).float() / 255

    def _pool(self, index: int) -> Tensor:
        for number in (index, index + 1):
            if number not in self._pools:
                self._pools[number] = self._executor.submit(self._clips.clips, number)
        self._pools = {n: pool for n, pool in self._pools.items() if n >= index}
        return self._pools[index].result()

    def _crops(self, pool: Tensor, generator: torch.Generator) -> Tensor:
        """Random clips and places: float [crops,T,3,crop_px,crop_px] in 0..1, mirrored half of the
        time."""
        count, _, _, height, width = pool.shape
        side = self.config.crop_px
        crops = []
        for _ in range(self.config.crops):
            clip, top, left, is_mirrored = (
                int(torch.randint(limit, (), generator=generator))
                for limit in (count, height - side + 1, width - side + 1, 2)
            )
            crop = pool[clip, :, :, top : top + side, left : left + side]
            crops.append(crop.flip(-1) if is_mirrored else crop)
        return torch.stack(crops).to(self.device).float() / 255


@torch.no_grad()
def _take_over(vae: TinyVAE, start: TinyVAE) -> None:
    """The weights of another autoencoder; channels that it lacks begin without effect.

    Raises ValueError when they differ in more than channels of latents.
    """
    channels = start.config.latent_channels
    fits = replace(vae.config, latent_channels=channels) == start.config
    if not fits or channels > vae.config.latent_channels:
        raise ValueError(f"cannot go on from {start.config} with {vae.config}")
    own = vae.state_dict()
    for name, tensor in start.state_dict().items():
        own[name].zero_()
        own[name][tuple(slice(size) for size in tensor.shape)] = tensor


def draw_latent_noise(
    shape: Sequence[int], generator: torch.Generator, device: torch.device | str = "cpu"
) -> Tensor:
    """Noise like a transformer's mistakes: [B,F,C,h,w], of one level for each clip.

    Half of its variance is independent, half is shared by the 2x2 positions of a token.
    """
    batch, frames, channels, height, width = shape
    level = LATENT_NOISE * send(torch.rand(batch, 1, 1, 1, 1, generator=generator), device)
    tokens = (batch, frames, channels, -(-height // 2), -(-width // 2))
    shared = draw_noise(tokens, generator, device)
    shared = shared.repeat_interleave(2, 3).repeat_interleave(2, 4)[..., :height, :width]
    return level * (draw_noise(shape, generator, device) + shared) / 2**0.5


def _edge(gap: Tensor) -> Tensor:
    """L1 of the horizontal and vertical differences of neighbours."""
    return gap.diff(dim=-1).abs().mean() + gap.diff(dim=-2).abs().mean()


def _fine(gap: Tensor) -> Tensor:
    """L1 of what a 4x4 mean cannot show, at full and at half size: the bands just above it."""
    flat = gap.flatten(0, 1)
    half = F.avg_pool2d(flat, 2)
    return _detail(flat) + _detail(half)


def _detail(flat: Tensor) -> Tensor:
    small = F.avg_pool2d(flat, 4)
    return (flat - F.interpolate(small, scale_factor=4, mode="nearest")).abs().mean()


def _motion(gap: Tensor) -> Tensor:
    """L1 of the differences of neighbouring frames: flicker costs more than a steady fault."""
    return gap.diff(dim=1).abs().mean()
