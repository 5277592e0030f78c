"""TeacherStage: a bidirectional flow-matching model of whole clips, which students learn from.

Every frame sees every other.  Noise levels follow a logit-normal law: Esser et al. 2024,
arXiv:2403.03206, section 3.1.  Captions are dropped now and then, so that guidance has a flow
without a text to move away from: Ho and Salimans 2022, arXiv:2207.12598.  Some clips keep a clean
beginning, whose timestep is 0, and only the rest is noised: in clips whose prompt changes all that
comes before the change, in a share of the others some blocks.  So the teacher knows how a clip goes
on and how it turns to another text, and can judge rollouts that have a history.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from streamer.distill.blueprint import Blueprint, write_transformer
from streamer.distill.draws import draw_noise, send
from streamer.distill.losses import flow_matching_loss
from streamer.distill.optimizer import Muon, build_optimizer
from streamer.distill.preview import Previewer
from streamer.distill.shards import ClipSource
from streamer.distill.trajectories import PathSolver
from streamer.models.context import FullContext
from streamer.models.sampler import NUM_TRAIN_TIMESTEPS, add_noise
from streamer.models.transformer import CausalWanTransformer


@dataclass(frozen=True)
class TeacherStageConfig:
    """What a step is made of.

    clips: per step.  level_mean, level_spread: of the logit of the noise level.
    shift: moves levels towards noise, as in FlowMatchTable.
    caption_dropout: share of clips that are told nothing.
    prefix_share: of clips without a change that keep a clean beginning.
    first_block_share: of clips of which only the first block is used, all by itself.
    context_noise: greatest noise level mixed into clean beginnings, whose timestep stays 0.
    sheet_steps, sheet_guidance: of the clips on the sheet.
    """

    clips: int = 16
    level_mean: float = 0.0
    level_spread: float = 1.0
    shift: float = 1.0
    caption_dropout: float = 0.1
    prefix_share: float = 0.4
    first_block_share: float = 0.2
    context_noise: float = 0.1
    sheet_steps: int = 24
    sheet_guidance: float = 3.0
    muon_lr: float = 0.02
    adam_lr: float = 2e-3


class TeacherStage:
    """The teacher, its clips and its loss."""

    def __init__(
        self,
        blueprint: Blueprint,
        teacher: CausalWanTransformer,
        clips: ClipSource,
        nothing: Tensor,
        config: TeacherStageConfig | None = None,
        previewer: Previewer | None = None,
    ) -> None:
        """nothing: embedding of the empty text, [1, K, E]."""
        self.config = config or TeacherStageConfig()
        self.blueprint, self.teacher, self._clips = blueprint, teacher, clips
        self.device = next(teacher.parameters()).device
        self._nothing = nothing.to(self.device)
        self._everything = FullContext()
        self._previewer = previewer

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """The teacher."""
        return {"teacher": self.teacher}

    @property
    def averaged(self) -> tuple[str, ...]:
        """The teacher."""
        return ("teacher",)

    def build_optimizer(self) -> Muon:
        """Muon for the matrices of the layers, AdamW for the rest."""
        return build_optimizer(
            [self.teacher], muon_lr=self.config.muon_lr, adam_lr=self.config.adam_lr
        )

    def loss(self, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Flow matching on some clips; see the module's docstring."""
        config, block = self.config, self.blueprint.layout.block
        clips = self._clips.draw(config.clips, generator)
        # The same on all ranks, which must make the same passes.
        choices = torch.Generator().manual_seed(step)
        is_alone = bool(torch.rand((), generator=choices) < config.first_block_share)
        clean, switch = send(clips.latents, self.device), clips.switch
        if is_alone:
            clean, switch = clean[:, :block], torch.zeros_like(switch)
        batch, frames = clean.shape[:2]
        text = clips.text_of(switch > 0, self.device)
        dropped = torch.rand(batch, generator=generator) < config.caption_dropout
        text = torch.where(send(dropped, self.device)[:, None, None], self._nothing, text)
        num_blocks = frames // block
        kept = torch.randint(max(1, num_blocks), (batch,), generator=generator)
        has_prefix = torch.rand(batch, generator=generator) < config.prefix_share
        kept = torch.where(switch > 0, switch, torch.where(has_prefix, kept, 0))
        is_kept = send(torch.arange(frames) < kept[:, None] * block, self.device)
        level = draw_levels(batch, generator, config.level_mean, config.level_spread, config.shift)
        sigma = torch.where(is_kept, 0.0, send(level, self.device)[:, None])
        noise = draw_noise(clean.shape, generator, self.device)
        slight = send(torch.rand(batch, 1, generator=generator), self.device) * config.context_noise
        latents = add_noise(clean, noise, torch.where(is_kept, slight, sigma))
        keys = self.teacher.encode_text(text)
        flow = self.teacher(latents, sigma * NUM_TRAIN_TIMESTEPS, keys, self._everything)
        loss = flow_matching_loss(flow, noise - clean, (~is_kept).float())
        return loss, {"alone": float(is_alone)}

    @torch.no_grad()
    def sample_sheet(self, path: Path) -> dict[str, float]:
        """Clips of the examples, solved with guidance."""
        previewer = self._previewer
        if previewer is None:
            return {}
        solver = PathSolver(
            self.teacher, self.config.sheet_guidance, self.config.sheet_steps, self.config.shift
        )
        clips = []
        for seed, text in enumerate(previewer.texts):
            size = (1, self._clips.num_frames, *self._clips.frame_shape)
            noise = torch.randn(size, generator=torch.Generator().manual_seed(seed))
            clips.append(solver.solve(noise.to(self.device), text, self._nothing)[-1])
        previewer.draw_clips(clips, path)
        return {}

    @torch.no_grad()
    def export(self, directory: Path) -> None:
        """Write the teacher, float16."""
        write_transformer(self.teacher, directory)


def draw_levels(
    count: int, generator: torch.Generator, mean: float, spread: float, shift: float
) -> Tensor:
    """Noise levels [B] whose logit is normal, then shifted towards noise.

    Esser et al. 2024, arXiv:2403.03206, eq. 19 and 23.
    """
    points = torch.sigmoid(mean + spread * torch.randn(count, generator=generator))
    return shift * points / (1 + (shift - 1) * points)
