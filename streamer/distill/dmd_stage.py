"""DMDStage: distribution matching with a critic, on the student's own rollouts.

A step is a cycle.  The student makes clips through its own cache (rollout.py).  Two scores are
asked about noisy copies of them: the real one, frozen and guided, and the fake one, the critic,
which learns what the student makes.  Where they differ is where the student should go: Yin et al.
2023, arXiv:2311.18828; several critic updates to one of the student: Yin et al. 2024,
arXiv:2405.14867; causal student, scores of whole clips: CausVid, arXiv:2412.07772; rollouts:
Self-Forcing, arXiv:2506.08009; rollouts longer than the window and changes of text with recached
windows: LongLive, arXiv:2509.22622.

Guidance is folded into the real score, so serving needs one pass a step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from streamer.distill.blueprint import Blueprint, write_transformer
from streamer.distill.draws import draw_noise, send
from streamer.distill.losses import (
    direction_loss,
    distribution_direction,
    flow_matching_loss,
    guided_flow,
)
from streamer.distill.optimizer import Muon, build_optimizer, join_optimizers
from streamer.distill.preview import Previewer
from streamer.distill.rollout import Roller, Rollout, RolloutPlan
from streamer.distill.scores import Score, ScoreKind
from streamer.distill.shards import ClipSource
from streamer.distill.trainer import Update
from streamer.models.sampler import add_noise, to_clean
from streamer.models.transformer import CausalWanTransformer


@dataclass(frozen=True)
class DMDStageConfig:
    """What a cycle is made of.

    kind: of both scores.  is_history_noisy: a bidirectional score is shown the history as noisy as
        the blocks it is asked about, as published teachers know clips; else clean.
    beginnings: rollouts of a cycle of first blocks alone.  clips: of a cycle of longer ones.
    beginning_share, long_share: shares of cycles that make first blocks alone, and rollouts that
        outgrow the window.
    blocks: fewest and most blocks of the other rollouts.  judged: fewest and most of them that are
        judged, with gradients; those before are history.
    longest: blocks of the longest rollouts.  switched_share: of rollouts with a history, whose text
        changes before the judged blocks.
    guidance: how far the text is exaggerated where a scene begins; later_guidance: where it goes
        on, which a teacher must have learned by dropped captions.
    lowest, highest, shift: range of the noise levels that the scores are asked at.
    critic_updates: of a cycle.  critic_warmup: cycles of the critic alone at the start.
    are_rollouts_shared: the critic learns from the student's rollouts of its cycle, under new
        noise, instead of from fresh ones: cheaper, and less varied.
    data_weight: of the flow-matching loss on true clips; 0 leaves it out.  context_noise: greatest
        noise level mixed into their history.
    muon_lr, adam_lr, critic_muon_lr, critic_adam_lr: learning rates; a Muon rate of 0 trains
        everything with AdamW.
    """

    kind: ScoreKind = "causal"
    is_history_noisy: bool = False
    beginnings: int = 32
    clips: int = 8
    beginning_share: float = 0.6
    long_share: float = 0.1
    blocks: tuple[int, int] = (2, 4)
    judged: tuple[int, int] = (1, 2)
    longest: int = 10
    switched_share: float = 0.5
    guidance: float = 3.0
    later_guidance: float = 1.0
    lowest: float = 0.02
    highest: float = 0.98
    shift: float = 1.0
    critic_updates: int = 5
    critic_warmup: int = 0
    are_rollouts_shared: bool = False
    data_weight: float = 0.0
    context_noise: float = 0.15
    muon_lr: float = 2e-3
    adam_lr: float = 2e-4
    critic_muon_lr: float = 2e-3
    critic_adam_lr: float = 2e-4
    momentum: float = 0.5
    betas: tuple[float, float] = (0.0, 0.99)


@dataclass(frozen=True)
class Question:
    """What the scores are asked about.

    history: what is behind the blocks, [B, P, C, H, W], at noise level past [B, P].  noisy: the
    judged blocks [B, F, C, H, W] at level sigma [B, F], with this noise.
    """

    rollout: Rollout
    history: Tensor
    past: Tensor
    noisy: Tensor
    sigma: Tensor
    noise: Tensor


class DMDStage:
    """Student, real score, critic, and the texts that they are asked under."""

    def __init__(
        self,
        blueprint: Blueprint,
        student: CausalWanTransformer,
        teacher: CausalWanTransformer,
        critic: CausalWanTransformer,
        clips: ClipSource,
        nothing: Tensor,
        config: DMDStageConfig | None = None,
        previewer: Previewer | None = None,
        texts: ClipSource | None = None,
    ) -> None:
        """nothing: embedding of the empty text, [1, K, E].  texts: where texts are taken from, if
        not from the clips.  All networks lie on the device of the run."""
        self.config = config or DMDStageConfig()
        self.blueprint, self.student, self.critic = blueprint, student, critic
        self.teacher = teacher.requires_grad_(False)
        self.device = next(student.parameters()).device
        layout = blueprint.layout
        self._real = Score(self.teacher, self.config.kind, layout)
        self._fake = Score(critic, self.config.kind, layout)
        self._taught = Score(student, "causal", layout)
        self._roller = Roller(
            student, layout, blueprint.steps, clips.frame_shape, blueprint.context_timestep
        )
        self._clips, self._texts = clips, texts or clips
        self._nothing = nothing.to(self.device)
        self._previewer = previewer

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """Student and critic; the teacher never changes."""
        return {"student": self.student, "critic": self.critic}

    @property
    def averaged(self) -> tuple[str, ...]:
        """The student."""
        return ("student",)

    def build_optimizer(self) -> Muon:
        """Both networks, each with its learning rates."""
        config = self.config
        rates = (
            (self.student, config.muon_lr, config.adam_lr),
            (self.critic, config.critic_muon_lr, config.critic_adam_lr),
        )
        return join_optimizers(
            build_optimizer(
                [network],
                muon_lr=muon_lr,
                adam_lr=adam_lr,
                momentum=config.momentum,
                betas=config.betas,
            )
            for network, muon_lr, adam_lr in rates
        )

    def updates(self, step: int, generator: torch.Generator) -> Iterator[Update]:
        """The student's update, then the critic's; see the module's docstring."""
        config = self.config
        is_warm = step >= config.critic_warmup
        # What decides how many passes there are is the same on all ranks.
        choices = torch.Generator().manual_seed(step)
        rollout = self._roll(choices, generator, is_warm)
        if is_warm:
            loss, numbers = self._student_loss(rollout, generator)
            yield loss, numbers
        rollout = rollout.detached()
        for number in range(config.critic_updates):
            if number > 0 and not config.are_rollouts_shared:
                rollout = self._roll(choices, generator, False)
            yield self._critic_loss(rollout, generator)

    def sample_sheet(self, path: Path) -> dict[str, float]:
        """Streams of the examples."""
        if self._previewer is not None:
            self._previewer.draw(self.student, path)
        return {}

    @torch.no_grad()
    def export(self, directory: Path) -> None:
        """Write the student as it serves, float16."""
        write_transformer(self.student, directory)

    def draw_plan(self, generator: torch.Generator) -> RolloutPlan:
        """What a cycle's rollouts are, by the shares of the configuration."""
        config, layout = self.config, self.blueprint.layout
        kind, change = torch.rand(2, generator=generator).tolist()
        depth = _draw(0, len(self.blueprint.steps.sigmas) - 1, generator)
        if kind < config.beginning_share:
            return RolloutPlan(0, 1, False, config.beginnings, depth)
        if kind < config.beginning_share + config.long_share:
            fewest = min(layout.num_slots // layout.block, config.longest - 1)
            history, judged = _draw(fewest, config.longest - 1, generator), config.judged[0]
        else:
            total = _draw(*config.blocks, generator)
            judged = min(total, _draw(*config.judged, generator))
            history = total - judged
        is_switched = history > 0 and change < config.switched_share
        return RolloutPlan(history, judged, is_switched, config.clips, depth)

    def _roll(
        self, choices: torch.Generator, generator: torch.Generator, with_gradients: bool
    ) -> Rollout:
        plan = self.draw_plan(choices)
        before, after = (
            send(self._texts.draw_texts(plan.batch, generator), self.device) for _ in range(2)
        )
        return self._roller.roll(plan, before, after, generator, with_gradients)

    def _student_loss(self, rollout: Rollout, generator: torch.Generator) -> Update:
        """Distribution matching on a rollout, and flow matching on some true clips."""
        made = rollout.made
        weight = torch.ones(made.shape[:2], device=self.device)
        with torch.no_grad():
            asked = self._ask(rollout, generator)
            real = to_clean(asked.noisy, self._guided(asked), asked.sigma)
            fake = to_clean(asked.noisy, self._critic_flow(asked), asked.sigma)
            direction = distribution_direction(made, real, fake, weight)
        loss = direction_loss(made, direction, weight)
        gap = (made.detach() - real).square().mean()
        numbers = {"gap_to_real": gap, "direction": direction.square().mean().sqrt()}
        if self.config.data_weight > 0:
            data = self._data_loss(generator)
            loss = loss + self.config.data_weight * data
            numbers["data_loss"] = data.detach()
        return loss, numbers

    def _critic_loss(self, rollout: Rollout, generator: torch.Generator) -> Update:
        """Flow matching on what the student made."""
        asked = self._ask(rollout, generator)
        flow = self._critic_flow(asked)
        weight = torch.ones_like(asked.sigma)
        loss = flow_matching_loss(flow, asked.noise - rollout.made, weight)
        return loss, {"critic_loss": loss.detach()}

    def _data_loss(self, generator: torch.Generator) -> Tensor:
        """The student's flow on true clips at its later steps, from their slightly noisy history.

        The first step is left out: there the mean of all clips would be asked for, and distribution
        matching asks for one of them.
        """
        clips = self._clips.draw(self.config.clips, generator)
        clean = send(clips.latents, self.device)
        batch, frames = clean.shape[:2]
        block = self.blueprint.layout.block
        text = clips.text_of(clips.switch > 0, self.device)
        levels = torch.tensor(self.blueprint.steps.sigmas[1:] or self.blueprint.steps.sigmas)
        picked = torch.randint(len(levels), (batch, frames // block), generator=generator)
        sigma = send(levels[picked].repeat_interleave(block, 1), self.device)
        noise = draw_noise(clean.shape, generator, self.device)
        extra = draw_noise(clean.shape, generator, self.device)
        share = torch.rand(batch, 1, generator=generator) * self.config.context_noise
        context = add_noise(clean, extra, send(share.expand(batch, frames), self.device))
        keys = self.student.encode_text(text)
        noisy = add_noise(clean, noise, sigma)
        flow = self._taught.flow(clean[:, :0], context, noisy, sigma, keys)
        weight = send(clips.taught(block).float(), self.device)
        return flow_matching_loss(flow, noise - clean, weight)

    def _ask(self, rollout: Rollout, generator: torch.Generator) -> Question:
        """A noisy copy of what was made, for both scores."""
        made, config = rollout.made.detach(), self.config
        levels = self._real.draw_levels(
            made.shape[0],
            made.shape[1],
            generator,
            low=config.lowest,
            high=config.highest,
            shift=config.shift,
        )
        sigma = send(levels, self.device)
        noise = draw_noise(made.shape, generator, self.device)
        history = rollout.history
        past = torch.zeros(history.shape[:2], device=self.device)
        if config.kind == "bidirectional" and config.is_history_noisy:
            past = sigma[:, :1].expand_as(past)
            extra = draw_noise(history.shape, generator, self.device)
            history = add_noise(history, extra, past)
        return Question(rollout, history, past, add_noise(made, noise, sigma), sigma, noise)

    def _guided(self, asked: Question) -> Tensor:
        """The real score's flow, guided: more where a scene begins than where it goes on."""
        config, block = self.config, self.blueprint.layout.block
        scale = torch.full((asked.noisy.shape[1],), config.later_guidance)
        if asked.rollout.begins:
            scale[:block] = config.guidance
        told = self._answer(self._real, asked, asked.rollout.text)
        if bool((scale == 1).all()):
            return told
        scale = send(scale, self.device)
        nothing = self._nothing.expand_as(asked.rollout.text)
        untold = self._answer(self._real, asked, nothing)
        return guided_flow(told, untold, scale[:, None, None, None])

    def _critic_flow(self, asked: Question) -> Tensor:
        return self._answer(self._fake, asked, asked.rollout.text)

    def _answer(self, score: Score, asked: Question, text: Tensor) -> Tensor:
        made = asked.rollout.made.detach()
        keys = score.network.encode_text(text)
        return score.flow(asked.history, made, asked.noisy, asked.sigma, keys, asked.past)


def _draw(low: int, high: int, generator: torch.Generator) -> int:
    """A whole number from low to high, both included."""
    return int(torch.randint(low, max(low, high) + 1, (), generator=generator))
