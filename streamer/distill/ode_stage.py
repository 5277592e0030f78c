"""OdeStage: a causal student learns where its teacher's paths end, from the levels of its steps.

CausVid's initialisation (Yin et al. 2024, arXiv:2412.07772, section 4.2, eq. 6): each block of a
clip is taken from the teacher's path at the level of some step, and the student, whose blocks see
only themselves and earlier ones, says where the path ends.  Earlier blocks are shown as they end,
clean, because that is what a stream sees; CausVid shows them noisy, and `is_history_clean` chooses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from streamer.distill.blueprint import Blueprint, write_transformer
from streamer.distill.draws import draw_noise, send
from streamer.distill.losses import clean_regression_loss
from streamer.distill.optimizer import Muon, build_optimizer
from streamer.distill.preview import Previewer
from streamer.distill.scores import Score
from streamer.distill.trainer import Update
from streamer.distill.trajectories import Trajectories
from streamer.models.context import BlockCausalContext
from streamer.models.sampler import NUM_TRAIN_TIMESTEPS, add_noise, to_clean
from streamer.models.transformer import CausalWanTransformer


@dataclass(frozen=True)
class OdeStageConfig:
    """What a step is made of.

    clips: per step.  is_history_clean: earlier blocks are shown as their paths end, else as noisy
    as they are themselves.  context_noise: greatest noise level mixed into a clean history.
    """

    clips: int = 16
    is_history_clean: bool = True
    context_noise: float = 0.1
    muon_lr: float = 0.01
    adam_lr: float = 1e-3


class OdeStage:
    """The student, the teacher's paths and the regression on them."""

    def __init__(
        self,
        blueprint: Blueprint,
        student: CausalWanTransformer,
        paths: Trajectories,
        config: OdeStageConfig | None = None,
        previewer: Previewer | None = None,
    ) -> None:
        self.config = config or OdeStageConfig()
        self.blueprint, self.student, self._paths = blueprint, student, paths
        self.device = next(student.parameters()).device
        self._score = Score(student, "causal", blueprint.layout)
        self._previewer = previewer

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """The student."""
        return {"student": self.student}

    @property
    def averaged(self) -> tuple[str, ...]:
        """The student."""
        return ("student",)

    def build_optimizer(self) -> Muon:
        """Muon for the matrices of the layers, AdamW for the rest."""
        return build_optimizer(
            [self.student], muon_lr=self.config.muon_lr, adam_lr=self.config.adam_lr
        )

    def loss(self, step: int, generator: torch.Generator) -> Update:
        """Regression on the ends of some paths; see the module's docstring."""
        count, block = self.config.clips, self.blueprint.layout.block
        paths = self._paths.draw(count, generator)
        frames = paths.states.shape[2]
        levels = torch.tensor(self.blueprint.steps.sigmas)
        picked = torch.randint(len(levels), (count, frames // block), generator=generator)
        picked = picked.repeat_interleave(block, 1)
        states, text = send(paths.states, self.device), send(paths.text, self.device)
        chosen = (torch.arange(count)[:, None], picked, torch.arange(frames))
        noisy = states[tuple(send(part, self.device) for part in chosen)]
        sigma = send(levels[picked], self.device)
        clean = states[:, -1]
        flow = self._flow(clean, noisy, sigma, text, generator)
        made = to_clean(noisy, flow, sigma)
        loss = clean_regression_loss(made, clean, torch.ones_like(sigma))
        with torch.no_grad():
            gap = (made - clean).square().mean((2, 3, 4))
            numbers = {}
            for name, step in (("from_noise", 0), ("from_last", len(levels) - 1)):
                if (mask := picked == step).any():
                    weight = send(mask, self.device).float()
                    numbers[name] = (gap * weight).sum() / weight.sum()
        return loss, numbers

    def sample_sheet(self, path: Path) -> dict[str, float]:
        """Streams of the examples."""
        if self._previewer is not None:
            self._previewer.draw(self.student, path)
        return {}

    @torch.no_grad()
    def export(self, directory: Path) -> None:
        """Write the student as it serves, float16."""
        write_transformer(self.student, directory)

    def _flow(
        self, clean: Tensor, noisy: Tensor, sigma: Tensor, text: Tensor, generator: torch.Generator
    ) -> Tensor:
        keys = self.student.encode_text(text)
        layout, (batch, frames) = self.blueprint.layout, noisy.shape[:2]
        if not self.config.is_history_clean:
            context = BlockCausalContext([layout.block] * (frames // layout.block), layout)
            flow: Tensor = self.student(noisy, sigma * NUM_TRAIN_TIMESTEPS, keys, context)
            return flow
        extra = draw_noise(clean.shape, generator, self.device)
        level = torch.rand(batch, 1, generator=generator) * self.config.context_noise
        history = add_noise(clean, extra, send(level.expand(batch, frames), self.device))
        return self._score.flow(clean[:, :0], history, noisy, sigma, keys)
