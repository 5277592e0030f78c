"""StudentStage: trains the causal few-step transformer on latent clips.

Teacher forcing with a twin sequence: one pass holds the clean clip and a noisy copy; a noisy block
sees the clean blocks before it, through the window it will have when serving, and learns the flow
at the noise levels of the serving steps (Huang et al. 2025, arXiv:2506.08009, section 3.1, names
the scheme).  Alone it drifts: it never saw its own mistakes.  So a share of the history is made by
the student itself: true blocks are noised and denoised again, block after block through its own
cache, and the target stays the true clip (self-resampling, Guo et al. 2025, arXiv:2512.15702).
After a prompt change everything is seen under the new text, which is what `recache` does.  In a
share of the rest, tokens of the history are swapped for those of another clip: what a stream once
got wrong must not be believed for ever.

Only the first block takes a scene from nothing but its text, and a clip has one of it among many.
So a share of the steps trains on beginnings alone, many at a time.

A last run can fold guidance in: a frozen copy of the student is asked with and without the text,
and what begins (a first block, or the block of a change) learns its guided flow, so that serving
needs no second pass; what goes on still learns from the data, which keeps long streams in place.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from streamer.config import load_config
from streamer.distill.blueprint import TRANSFORMER_FILE, new_transformer, write_transformer
from streamer.distill.canvas_stage import load_canvas
from streamer.distill.checkpoints import find_checkpoints
from streamer.distill.losses import flow_matching_loss, guided_flow
from streamer.distill.optimizer import Muon, build_optimizer
from streamer.distill.shards import LatentClips, read_clips
from streamer.distill.trainer import Trainer, TrainerConfig
from streamer.errors import ConfigError
from streamer.models.cache import RingLayout
from streamer.models.checkpoint import load_weights
from streamer.models.context import BlockCausalContext, RollingContext, UnrolledContext
from streamer.models.sampler import (
    DenoisingSteps,
    FlowMatchTable,
    add_noise,
    block_noise,
    denoise_block,
    to_clean,
)
from streamer.models.text import TextEncoder, load_text_encoder
from streamer.models.tiny_vae import TinyVAE, load_vae
from streamer.models.transformer import CausalWanTransformer, TransformerConfig


@dataclass(frozen=True)
class StudentStageConfig:
    """What a step is made of.

    clips: per step.  beginnings: per step of beginnings.  beginning_share: share of such steps.
    step_share: share of blocks at the serving noise levels; the others anywhere.
    swapped_share: share of clips, among those whose history is true, with tokens of another clip.
    caption_dropout: share of beginnings that are told nothing.
    context_noise: greatest noise level mixed into the clean history, whose timestep stays 0.
    resampled_share: share of steps in which the student makes the history itself.
    guidance: how far the text is exaggerated where a scene begins; 1 learns from the data alone.
    reread_every: steps before the shards are read again (they may still be growing).
    """

    clips: int = 6
    beginnings: int = 36
    beginning_share: float = 0.0
    step_share: float = 0.75
    context_noise: float = 0.15
    resampled_share: float = 0.0
    swapped_share: float = 0.25
    caption_dropout: float = 0.1
    guidance: float = 1.0
    muon_lr: float = 0.02
    adam_lr: float = 2e-3
    reread_every: int = 100


class StudentStage:
    """The transformer, its clips and its losses.  Clips are read whole; text is encoded already."""

    def __init__(
        self,
        transformer: TransformerConfig,
        layout: RingLayout,
        steps: DenoisingSteps,
        shards: Path,
        vae: TinyVAE,
        encoder: TextEncoder,
        config: StudentStageConfig | None = None,
        examples: tuple[str, ...] = (),
        device: torch.device | str = "cpu",
        seed: int = 0,
        beginnings: Path | None = None,
    ) -> None:
        self.config = config or StudentStageConfig()
        self.layout, self.steps = layout, steps
        self.device = torch.device(device)
        self.student = new_transformer(transformer, seed)
        if transformer.text_canvas:  # learned before by regression; a flow's gradient only blurs it
            self.student.text_canvas.picture.requires_grad_(False)
        self.student.to(self.device)
        self._shards = shards
        self._vae, self._encoder, self._examples = vae, encoder, examples
        self._clips = read_clips(shards)
        self._beginnings = beginnings
        self._first_blocks = self._read_beginnings()
        self._held_out = read_clips(shards, held_out=True)
        self._nothing = encoder.encode([""]).to(self.device)
        self._guide: CausalWanTransformer | None = None

    def begin_guidance(self) -> None:
        """Freeze a copy of the student as it is now; it is asked for guided flows from now on."""
        self._guide = copy.deepcopy(self.student).requires_grad_(False)

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """The transformer."""
        return {"student": self.student}

    @property
    def averaged(self) -> tuple[str, ...]:
        """The transformer."""
        return ("student",)

    def build_optimizer(self) -> Muon:
        """Muon for the matrices of the blocks, AdamW for embeddings, head, norms and biases."""
        return build_optimizer(
            [self.student], muon_lr=self.config.muon_lr, adam_lr=self.config.adam_lr
        )

    def loss(self, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Flow matching on some clips; see the module's docstring."""
        if step % self.config.reread_every == 0:
            with torch.autocast(self.device.type, enabled=False):  # it refuses to join float16
                self._clips = read_clips(self._shards)
                self._first_blocks = self._read_beginnings()
        if bool(torch.rand((), generator=generator) < self.config.beginning_share):
            clips = self._first_blocks.draw(self.config.beginnings, generator)
            told = torch.rand(len(clips), 1, 1, 1, generator=generator)
            is_told = told >= self.config.caption_dropout
            clips = replace(clips, text=torch.where(is_told, clips.text, self._nothing.cpu()))
            return self._flow_loss(clips, generator, False)
        is_resampled = bool(torch.rand((), generator=generator) < self.config.resampled_share)
        return self._flow_loss(
            self._clips.draw(self.config.clips, generator), generator, is_resampled
        )

    @torch.no_grad()
    def sample_sheet(self, path: Path) -> dict[str, float]:
        """Streams of the examples, and the loss on combinations that training never saw."""
        generator = torch.Generator().manual_seed(1)
        indices = torch.arange(min(16, len(self._held_out)))
        loss, _ = self._flow_loss(self._held_out.rows(indices), generator, False)
        rows = [self._frames_of(text, seed) for seed, text in enumerate(self._examples)]
        if rows:
            Image.fromarray(torch.cat(rows, 0).numpy()).save(path)
        return {"held_out_loss": loss.item()}

    @torch.no_grad()
    def export(self, directory: Path) -> None:
        """Write the transformer as it serves, float16."""
        write_transformer(self.student, directory)

    def _flow_loss(
        self, clips: LatentClips, generator: torch.Generator, is_resampled: bool
    ) -> tuple[Tensor, dict[str, float]]:
        clean = clips.latents.to(self.device)
        batch, frames = clean.shape[:2]
        block = self.layout.block
        num_blocks = frames // block
        chosen = torch.where(clips.switch > 0, 1, 0)
        text = clips.text[torch.arange(batch), chosen].to(self.device)
        is_alone = num_blocks == 1
        sigma = self._draw_levels((batch, num_blocks), generator).repeat_interleave(block, 1)
        noise = torch.randn(clean.shape, generator=generator).to(self.device)
        context = BlockCausalContext(
            [block] * num_blocks, self.layout, teacher_forcing=not is_alone
        )
        noisy = add_noise(clean, noise, sigma)
        latents, told = noisy, sigma * 1000
        if not is_alone:
            history = self._history(clean, text, generator, is_resampled)
            latents = torch.cat([history, noisy], 1)
            told = torch.cat([torch.zeros_like(sigma), told], 1)
        flow = self.student(latents, told, self.student.encode_text(text), context)[:, -frames:]
        # Blocks before a change do not belong to the text that the pass was told, and a piece from
        # the middle of a world does not show how one begins.
        first = torch.arange(num_blocks).repeat_interleave(block)
        teaches = (first >= clips.switch[:, None]) & ((first > 0) | clips.begins[:, None])
        weight = teaches.float().to(self.device)
        target = noise - clean
        if self._guide is not None:
            begins = (first == clips.switch[:, None]).to(self.device)[:, :, None, None, None]
            guided = self._guided(self._guide, latents, told, text, context)[:, -frames:]
            target = torch.where(begins, guided, target)
        loss = flow_matching_loss(flow, target, weight)
        with torch.no_grad():
            made = to_clean(noisy, flow, sigma)
            gap = (made - clean).square().mean((2, 3, 4))
            numbers = {
                f"x0_{name}": (gap * mask).sum().item() / max(1e-9, mask.sum().item())
                for name, mask in (
                    ("start", weight * (first == 0).to(self.device) * (sigma > 0.99)),
                    ("next", weight * (first > 0).to(self.device) * (sigma > 0.99)),
                    ("last", weight * (sigma < self.steps.sigmas[-1] + 0.01)),
                )
            }
        return loss, {**numbers, "resampled": float(is_resampled)}

    def _read_beginnings(self) -> LatentClips:
        """The first blocks there are: those of their own shards, or those of clips."""
        if self._beginnings is not None:
            return read_clips(self._beginnings)
        return self._clips.beginnings(self.layout.block)

    def _history(
        self, clean: Tensor, text: Tensor, generator: torch.Generator, is_resampled: bool
    ) -> Tensor:
        """What the noisy blocks of a step look back at, with mistakes of some kind."""
        if is_resampled:
            return self._resample(clean, text, generator)
        batch, frames = clean.shape[:2]
        level = torch.rand(batch, 1, generator=generator) * self.config.context_noise
        extra = torch.randn(clean.shape, generator=generator).to(self.device)
        history = add_noise(clean, extra, level.expand(batch, frames).to(self.device))
        return swap_tokens(
            history, self.config.swapped_share, self.student.config.patch[1:], generator
        )

    @torch.no_grad()
    def _guided(
        self,
        guide: CausalWanTransformer,
        latents: Tensor,
        timestep: Tensor,
        text: Tensor,
        context: BlockCausalContext,
    ) -> Tensor:
        told, untold = (
            guide(latents, timestep, guide.encode_text(embeds), context)
            for embeds in (text, self._nothing.expand_as(text))
        )
        return guided_flow(told, untold, self.config.guidance)

    def _draw_levels(self, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
        """Noise levels of blocks: those of the serving steps, and some anywhere.  [B, blocks]."""
        serving = torch.tensor(self.steps.sigmas)
        picked = serving[torch.randint(len(serving), shape, generator=generator)]
        anywhere = torch.rand(shape, generator=generator)
        is_serving = torch.rand(shape, generator=generator) < self.config.step_share
        return torch.where(is_serving, picked, anywhere).to(self.device)

    @torch.no_grad()
    def _resample(self, clean: Tensor, text: Tensor, generator: torch.Generator) -> Tensor:
        """The clip as the student itself would have made it from a noisy copy, block after block.

        Each block starts at one of the serving levels below pure noise, so it stays the same clip.
        """
        keys = self.student.encode_text(text)
        context = UnrolledContext(len(self.student.blocks), self.layout)
        made = []
        for part in torch.split(clean, self.layout.block, dim=1):
            first = int(torch.randint(1, len(self.steps.sigmas), (), generator=generator))
            context.begin()
            latents = part
            for sigma, timestep in list(zip(self.steps.sigmas, self.steps.timesteps, strict=True))[
                first:
            ]:
                noise = torch.randn(part.shape, generator=generator).to(self.device)
                latents = add_noise(latents, noise, sigma)
                told = torch.full((len(part),), timestep, device=self.device)
                latents = to_clean(latents, self.student(latents, told, keys, context), sigma)
            self.student(latents, torch.zeros(len(part), device=self.device), keys, context)
            context.commit()
            made.append(latents)
        return torch.cat(made, 1)

    def _frames_of(self, text: str, seed: int) -> Tensor:
        """One row of a sheet: a frame of every block of a short stream.  uint8 [H, n * W, 3]."""
        latents = self.stream(text, seed, 6)
        pixels, _ = self._vae.decode(latents)
        per_block = self.layout.block * self._vae.config.temporal_reduction
        shown = pixels[0, per_block - 1 :: per_block]
        return (torch.cat(list(shown), 2).permute(1, 2, 0) * 255).round().to(torch.uint8).cpu()

    @torch.no_grad()
    def stream(self, text: str, seed: int, num_blocks: int) -> Tensor:
        """The first blocks of a stream, as the server would make them: [1, F, C, H, W]."""
        keys = self.student.encode_text(self._encoder.encode([text]).to(self.device))
        shape = self._clips.latents.shape[2:]
        context = RollingContext(
            self.student.config.cache_shape(*shape[1:]), self.layout, device=self.device
        )

        made = []
        for index in range(num_blocks):
            noise = partial(self._noise, seed, index)
            made.append(denoise_block(self.student, self.steps, noise, keys, context))
        return torch.cat(made, 1)

    def _noise(self, seed: int, index: int, draw: int) -> Tensor:
        size = (1, self.layout.block, *self._clips.latents.shape[2:])
        return block_noise(seed, index, draw, size, self.device)


def swap_tokens(
    latents: Tensor, share: float, patch: tuple[int, int], generator: torch.Generator
) -> Tensor:
    """Put tokens of the next clip into some clips, at the same places in every frame of a clip.

    latents: [B, F, C, H, W].  share: of clips.  patch: height and width of a token.  Up to a tenth
    of a clip's tokens are swapped.
    """
    batch, _, _, height, width = latents.shape
    rows, columns = height // patch[0], width // patch[1]
    is_swapped = torch.rand(batch, 1, 1, generator=generator) < share
    how_many = 0.1 * torch.rand(batch, 1, 1, generator=generator)
    places = (torch.rand(batch, rows, columns, generator=generator) < how_many) & is_swapped
    mask = places.repeat_interleave(patch[0], 1).repeat_interleave(patch[1], 2)
    return torch.where(mask[:, None, None].to(latents.device), latents.roll(1, 0), latents)


@dataclass(frozen=True)
class StudentOptions:
    """A run of `train_student`.

    config: the model to train, by name or file; its sizes, window and steps are used.
    beginnings: a folder of shards of one block; None: the first blocks of the clips.
    start: an earlier export whose weights the run begins with; None: new weights.
    canvas: an export of `canvas` whose pictures it begins with.
    """

    config: str
    shards: Path
    vae: Path
    text: Path
    out: Path
    minutes: float
    stage: StudentStageConfig = StudentStageConfig()
    beginnings: Path | None = None
    start: Path | None = None
    canvas: Path | None = None
    is_resumed: bool = False
    threads: int = 2
    device: str = "cpu"
    seed: int = 0
    is_bf16: bool = False


def train_student(options: StudentOptions) -> bool:
    """Train to the end of the time given; checkpoints, sheets, losses and the export lie in `out`.

    Returns whether the end was reached, False after a signal.

    Raises ConfigError for a configuration without a transformer, WeightsError for files that do
    not fit it.
    """
    torch.set_num_threads(options.threads)
    config = load_config(options.config)
    if config.model is None:
        raise ConfigError(f"{config.name}: there is no transformer to train")
    sizes, sampler, stream = config.model.transformer, config.model.sampler, config.stream
    table = FlowMatchTable(sampler.shift)
    stage = StudentStage(
        TransformerConfig.of(sizes),
        RingLayout(stream.window, stream.sink, stream.num_frame_per_block),
        table.steps([int(step) for step in sampler.denoising_step_list], warp=sampler.warp),
        options.shards,
        load_vae(options.vae, options.device),
        load_text_encoder(options.text, options.device),
        options.stage,
        tuple(config.examples),
        options.device,
        options.seed,
        options.beginnings,
    )
    if options.start is not None:
        load_weights(stage.student, [options.start / TRANSFORMER_FILE])
        stage.student.to(options.device)
    if options.canvas is not None:
        load_canvas(stage.student, options.canvas)
        stage.student.to(options.device)
    if options.stage.guidance != 1:
        stage.begin_guidance()
    trainer = Trainer(
        stage,
        TrainerConfig(
            out=options.out,
            seed=options.seed,
            max_seconds=options.minutes * 60,
            ema_decay=0.995,
            sheet_every_s=300.0,
            is_bf16=options.is_bf16,
        ),
    )
    if options.is_resumed and (checkpoints := find_checkpoints(options.out)):
        trainer.resume(checkpoints[-1])
    return trainer.train()
