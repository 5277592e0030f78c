"""StudentStage: trains the causal few-step transformer on latent clips.

Teacher forcing with a twin sequence: one pass holds the clean clip and a noisy copy; a noisy block
sees the clean blocks before it, through the window it will have when serving, and learns the flow
at the noise levels of the serving steps (Huang et al. 2025, arXiv:2506.08009, section 3.1, names
the scheme).  Alone it drifts: it never saw its own mistakes.  So a share of the history is made by
the student itself: true blocks are noised and denoised again, block after block through its own
cache, and the target stays the true clip (self-resampling, Guo et al. 2025, arXiv:2512.15702).
What comes out is noised and denoised again in later steps, so that a history may be as worn as a
stream is after many blocks, and is still that of the clip.
After a prompt change everything is seen under the new text, which is what `recache` does.  In a
share of the rest, tokens of the history are swapped for those of another clip, and pieces of it for
what the student's own long streams became: what a stream once got wrong must not be believed for
ever.

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
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamer.distill.blueprint import (
    load_blueprint,
    new_transformer,
    transformer_files,
    write_transformer,
)
from streamer.distill.canvas_stage import load_canvas
from streamer.distill.checkpoints import find_checkpoints
from streamer.distill.losses import flow_matching_loss, guided_flow
from streamer.distill.mistakes import AgeingClips, DriftBank, put_pieces, swap_tokens
from streamer.distill.optimizer import Muon, build_optimizer
from streamer.distill.preview import Previewer
from streamer.distill.shards import LatentClips, read_clips
from streamer.distill.trainer import Trainer, TrainerConfig
from streamer.models.cache import RingLayout
from streamer.models.carry import grow_carry
from streamer.models.checkpoint import load_weights
from streamer.models.context import BlockCausalContext, UnrolledContext
from streamer.models.sampler import (
    DenoisingSteps,
    add_noise,
    denoise_block,
    to_clean,
)
from streamer.models.text import TextEncoder, load_text_encoder
from streamer.models.tiny_vae import TinyVAE, load_vae
from streamer.models.transformer import CausalWanTransformer, TransformerConfig

_BANK_BLOCKS = 384
"""How many drifted blocks are remembered."""
_MOST_MOVING = 8.0
"""Times the mean motion of a clip's tokens beyond which more motion does not count more."""
_DRIFT_KEPT_EVERY = 6
"""Every which block of a drifting stream is kept."""
_AGEING_BATCHES = 4
"""How many steps' clips are being made again and again at a time."""
_LARGEST_LATENT = 16.0
"""No latent of a render is beyond it; what the student makes is cut there before it is used."""


@dataclass(frozen=True)
class StudentStageConfig:
    """What a step is made of.

    clips: per step.  beginnings: per step of beginnings.  beginning_share: share of such steps.
    step_share: share of blocks at the serving noise levels; the others anywhere.
    swapped_share: share of clips, among those whose history is true, with tokens of another clip.
    drifted_share: share of the steps with true history that get pieces of drifted streams in it.
    drifted_blocks, drifted_streams: how long such streams are, and how many are made at a time.
    drift_every: steps after which new ones are made.
    motion_emphasis: how much more faults count in tokens that move; 0: all count the same.
    caption_dropout: share of beginnings that are told nothing.
    context_noise: greatest noise level mixed into the clean history, whose timestep stays 0.
    resampled_share: share of steps in which the student makes the history itself.
    resampled_times: how many times it makes that of a clip, in the mean: each time from the last.
    guidance: how far the text is exaggerated where a scene begins; 1 learns from the data alone.
    reread_every: steps before the shards are read again (they may still be growing).
    """

    clips: int = 6
    beginnings: int = 36
    beginning_share: float = 0.0
    step_share: float = 0.75
    context_noise: float = 0.12
    resampled_share: float = 0.0
    resampled_times: float = 6.0
    swapped_share: float = 0.25
    drifted_share: float = 0.0
    drifted_blocks: int = 36
    drifted_streams: int = 12
    drift_every: int = 150
    motion_emphasis: float = 0.5
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
        self._encoder = encoder
        self._clips = read_clips(shards)
        self._beginnings = beginnings
        self._first_blocks = self._read_beginnings()
        self._held_out = read_clips(shards, held_out=True)
        self._nothing = encoder.encode([""]).to(self.device)
        texts = tuple(encoder.encode([text]).to(self.device) for text in examples)
        shape = self._clips.frame_shape
        self._previewer = Previewer(layout, steps, vae, texts, shape, self.device)
        self._guide: CausalWanTransformer | None = None
        block_shape = (layout.block, *self._clips.frame_shape)
        num_drifted = _BANK_BLOCKS if self.config.drifted_share else 0
        self._drifted = DriftBank(num_drifted, block_shape).to(self.device)
        clip_shape = (self._clips.latents.shape[1], *self._clips.frame_shape)
        num_ageing = _AGEING_BATCHES * self.config.clips if self.config.resampled_share else 0
        self._ageing = AgeingClips(num_ageing, clip_shape).to(self.device)

    def begin_guidance(self) -> None:
        """Freeze a copy of the student as it is now; it is asked for guided flows from now on."""
        self._guide = copy.deepcopy(self.student).requires_grad_(False)

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """The transformer, and what its streams and clips became where that is used."""
        modules: dict[str, nn.Module] = {"student": self.student}
        if self.config.drifted_share:
            modules["drifted"] = self._drifted
        if self.config.resampled_share:
            modules["ageing"] = self._ageing
        return modules

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
        if self.config.drifted_share and step % self.config.drift_every == 0:
            self._drift(generator)
        if bool(torch.rand((), generator=generator) < self.config.beginning_share):
            clips = self._first_blocks.draw(self.config.beginnings, generator)
            told = torch.rand(len(clips), 1, 1, 1, generator=generator)
            is_told = told >= self.config.caption_dropout
            clips = replace(clips, text=torch.where(is_told, clips.text, self._nothing.cpu()))
            return self._flow_loss(clips, generator)
        if bool(torch.rand((), generator=generator) < self.config.resampled_share):
            slots = self._ageing.draw(
                self.config.clips, 1 / self.config.resampled_times, self._clips, generator
            )
            clips = self._clips.rows(self._ageing.rows[slots].cpu())
            return self._flow_loss(clips, generator, slots=slots)
        if bool(torch.rand((), generator=generator) < self.config.drifted_share):
            drifted, rows = self._drifted.draw(self.config.clips, generator)
            return self._flow_loss(self._clips.rows(rows), generator, drifted)
        return self._flow_loss(self._clips.draw(self.config.clips, generator), generator)

    @torch.no_grad()
    def sample_sheet(self, path: Path) -> dict[str, float]:
        """Streams of the examples, and the loss on combinations that training never saw."""
        generator = torch.Generator().manual_seed(1)
        indices = torch.arange(min(16, len(self._held_out)))
        loss, _ = self._flow_loss(self._held_out.rows(indices), generator)
        self._previewer.draw(self.student, path)
        return {"held_out_loss": loss.item()}

    @torch.no_grad()
    def export(self, directory: Path) -> None:
        """Write the transformer as it serves, float16."""
        write_transformer(self.student, directory)

    def _flow_loss(
        self,
        clips: LatentClips,
        generator: torch.Generator,
        drifted: Tensor | None = None,
        slots: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, float]]:
        """drifted: blocks for pieces of the history.  slots: these clips among the ageing ones."""
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
            if slots is None:
                history = self._blemish(clean, generator)
            else:
                history = self._age(clean, text, slots, generator)
            if drifted is not None:
                patch = self.student.config.patch[1:]
                history = put_pieces(history, drifted.to(self.device), patch, generator)
            latents = torch.cat([history, noisy], 1)
            told = torch.cat([torch.zeros_like(sigma), told], 1)
        flow = self.student(latents, told, self.student.encode_text(text), context)[:, -frames:]
        first = torch.arange(num_blocks).repeat_interleave(block)
        weight = clips.taught(block).float().to(self.device)
        target = noise - clean
        if self._guide is not None:
            begins = (first == clips.switch[:, None]).to(self.device)[:, :, None, None, None]
            guided = self._guided(self._guide, latents, told, text, context)[:, -frames:]
            target = torch.where(begins, guided, target)
        emphasis = self._emphasis(clean)
        if self.student.config.predicts_clean:
            # Faults of the clean latents count, alike at all levels.  Those of the flow are larger
            # by 1 / sigma: the last step would count most, which only polishes what it is given.
            emphasis = emphasis * sigma[:, :, None, None, None]
        loss = flow_matching_loss(flow * emphasis, target * emphasis, weight)
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
        kind = "_drifted" if drifted is not None else "_resampled" if slots is not None else ""
        return loss, {f"{name}{kind}": number for name, number in numbers.items()}

    @torch.no_grad()
    def _emphasis(self, clean: Tensor) -> Tensor:
        """What faults are multiplied by, [B, F, 1, H, W]: tokens that move more than the rest of
        their clip count more.

        A figure covers a few tokens of forty; the mean over all of them hardly notices it.
        """
        batch, frames, _, height, width = clean.shape
        if self.layout.block == 1:  # nothing moves within a block
            return torch.ones(batch, frames, 1, height, width, device=clean.device)
        blocks = torch.unflatten(clean, 1, (-1, self.layout.block))
        moves = blocks.diff(dim=2).square().mean((2, 3))
        rows, columns = self.student.config.patch[1:]
        moves = F.avg_pool2d(moves, (rows, columns))
        relative = moves / moves.mean((1, 2, 3), keepdim=True).clamp_min(1e-6)
        counts = 1 + self.config.motion_emphasis * relative.clamp(max=_MOST_MOVING)
        counts = F.interpolate(counts, (height, width), mode="nearest")
        shape = (batch, frames, 1, height, width)
        return counts.sqrt().repeat_interleave(self.layout.block, 1).reshape(shape)

    @torch.no_grad()
    def _drift(self, generator: torch.Generator) -> None:
        """Run streams under texts of clips, and keep what they become, every few blocks."""
        count = self.config.drifted_streams
        rows = self._clips.draw_steady(count, generator)
        keys = self.student.encode_text(self._clips.rows(rows).text[:, 0].to(self.device))
        context = UnrolledContext(self.student.config.num_caches, self.layout)
        size = (count, self.layout.block, *self._clips.frame_shape)

        def noise(draw: int) -> Tensor:
            return torch.randn(size, generator=generator).to(self.device)

        for number in range(1, self.config.drifted_blocks + 1):
            latents = denoise_block(self.student, self.steps, noise, keys, context)
            if number % min(_DRIFT_KEPT_EVERY, self.config.drifted_blocks) == 0:
                self._drifted.add(latents, rows)

    def _read_beginnings(self) -> LatentClips:
        """The first blocks there are: those of their own shards, or those of clips."""
        if self._beginnings is not None:
            return read_clips(self._beginnings)
        return self._clips.beginnings(self.layout.block)

    def _blemish(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        """True clips as a history: with some noise and with swapped tokens."""
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
        if self.student.config.predicts_clean:  # its flow is not to be trusted far below
            anywhere = serving[-1] + (1 - serving[-1]) * anywhere
        is_serving = torch.rand(shape, generator=generator) < self.config.step_share
        return torch.where(is_serving, picked, anywhere).to(self.device)

    @torch.no_grad()
    def _age(
        self, clean: Tensor, text: Tensor, slots: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Ageing clips as the student makes them from noisy copies, block after block.

        Each block starts at one of the serving levels below pure noise, so it stays the same clip.
        The first one, which a stream keeps in sight for ever, is made from the true one; the last
        one, which no other looks back at, stays as it is.
        """
        block = self.layout.block
        worn = torch.cat([clean[:, :block], self._ageing.latents[slots][:, block:]], 1)
        keys = self.student.encode_text(text)
        context = UnrolledContext(self.student.config.num_caches, self.layout)
        made = []
        *parts, last = torch.split(worn, block, dim=1)
        for part in parts:
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
            latents = latents.float().clamp(-_LARGEST_LATENT, _LARGEST_LATENT)
            self.student(latents, torch.zeros(len(part), device=self.device), keys, context)
            context.commit()
            made.append(latents)
        history = torch.cat([*made, last], 1)
        self._ageing.latents[slots] = history
        return history

    def stream(self, text: str, seed: int, num_blocks: int) -> Tensor:
        """The first blocks of a stream, as the server would make them: [1, F, C, H, W]."""
        embeds = self._encoder.encode([text]).to(self.device)
        return self._previewer.stream(self.student, embeds, seed, num_blocks)


@dataclass(frozen=True)
class StudentOptions:
    """A run of `train_student`.

    config: the model to train, by name or file; its sizes, window and steps are used.
    beginnings: a folder of shards of one block; None: the first blocks of the clips.
    start: an earlier export whose weights the run begins with, where it has them; None: new
        weights.
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
    blueprint = load_blueprint(options.config)
    stage = StudentStage(
        blueprint.transformer,
        blueprint.layout,
        blueprint.steps,
        options.shards,
        load_vae(options.vae, options.device),
        load_text_encoder(options.text, options.device),
        options.stage,
        blueprint.examples,
        options.device,
        options.seed,
        options.beginnings,
    )
    if options.start is not None:
        load_weights(stage.student, transformer_files(options.start), grow_carry)
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
