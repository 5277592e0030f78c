"""Distribution matching on tiny networks: who is updated when, and that it gets there."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from streamer.distill.checkpoints import find_checkpoints
from streamer.distill.dmd_stage import DMDStage, DMDStageConfig
from streamer.distill.rollout import RolloutPlan
from streamer.distill.scores import Score
from streamer.distill.trainer import Trainer, TrainerConfig
from streamer.models.transformer import PromptKV
from tests.distill.tiny import LAYOUT, SHAPE, blueprint, clips, network

NOTHING = torch.zeros(1, 3, 6)
SMALL = {"beginnings": 4, "clips": 2, "critic_updates": 2, "longest": 6}


def new_stage(teacher: nn.Module | None = None, **settings: Any) -> DMDStage:
    config = DMDStageConfig(**(SMALL | settings))
    return DMDStage(
        blueprint(),
        network(0),
        teacher or network(0),  # type: ignore[arg-type]
        network(0),
        clips(),
        NOTHING,
        config,
    )


def weights(module: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in module.parameters()]


def is_changed(module: nn.Module, before: list[Tensor]) -> bool:
    return any(not p.equal(old) for p, old in zip(module.parameters(), before, strict=True))


@pytest.mark.parametrize("kind", ["causal", "bidirectional"])
def test_a_step_updates_the_student_once_then_the_critic_and_never_the_teacher(kind: str):
    stage = new_stage(kind=kind, beginning_share=0.0, data_weight=0.5)
    student, critic, teacher = (weights(m) for m in (stage.student, stage.critic, stage.teacher))
    optimizer = stage.build_optimizer()
    updates = stage.updates(0, torch.Generator().manual_seed(0))
    seen = []
    for loss, numbers in updates:
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        seen.append(
            tuple(
                any(p.grad is not None and bool(p.grad.any()) for p in m.parameters())
                for m in (stage.student, stage.critic, stage.teacher)
            )
        )
        optimizer.step()
        assert all(map(torch.isfinite, map(torch.as_tensor, numbers.values())))
    assert seen == [(True, False, False), (False, True, False), (False, True, False)]
    assert is_changed(stage.student, student)
    assert is_changed(stage.critic, critic)
    assert not is_changed(stage.teacher, teacher)


def test_the_student_rests_while_the_critic_warms_up(tmp_path: Path):
    stage = new_stage(critic_warmup=2)
    trainer = Trainer(stage, TrainerConfig(out=tmp_path, max_steps=9))
    before, critic = weights(stage.student), weights(stage.critic)
    rows = [trainer.train_step() for _ in range(2)]
    assert not is_changed(stage.student, before)
    assert is_changed(stage.critic, critic)
    assert all("direction" not in row for row in rows)
    assert "direction" in trainer.train_step()
    assert is_changed(stage.student, before)


@pytest.mark.parametrize("is_shared", [False, True])
def test_a_resumed_run_is_the_run_that_never_stopped(tmp_path: Path, is_shared: bool):
    def new_trainer(name: str) -> Trainer:
        stage = new_stage(are_rollouts_shared=is_shared, data_weight=0.1, beginning_share=0.3)
        return Trainer(stage, TrainerConfig(out=tmp_path / name, max_steps=4))

    straight = new_trainer("a")
    rows = [straight.train_step() for _ in range(4)]
    before = new_trainer("b")
    for _ in range(2):
        before.train_step()
    before.save()
    after = new_trainer("b")
    after.resume(find_checkpoints(tmp_path / "b")[-1])
    again = [after.train_step() for _ in range(2)]
    assert [row["loss"] for row in again] == [row["loss"] for row in rows[2:]]
    assert [row["critic_loss"] for row in again] == [row["critic_loss"] for row in rows[2:]]
    assert not is_changed(
        after.stage.modules["student"], weights(straight.stage.modules["student"])
    )


class PointMass(nn.Module):
    """The score of a world that is always the same picture; without a text, its negative."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))
        self.sigma = 0.0

    def encode_text(self, embeds: Tensor) -> PromptKV:
        sign = torch.where(embeds.flatten(1).any(1), 1.0, -1.0)
        return PromptKV(sign, sign)

    def forward(self, latents: Tensor, told: Tensor, text: PromptKV, _context: object) -> Tensor:
        sigma = (told / 1000)[:, :, None, None, None].clamp_min(1e-3)
        return (latents - self.value * text.k[:, None, None, None, None]) / sigma


def test_the_student_comes_to_make_what_the_teacher_knows(tmp_path: Path):
    stage = new_stage(PointMass(0.8), guidance=1.0, beginning_share=0.8, muon_lr=0.01, adam_lr=3e-3)
    trainer = Trainer(stage, TrainerConfig(out=tmp_path, max_steps=80, warmup_steps=2))

    def gap() -> float:
        plan = RolloutPlan(0, 2, False, 8, 2)
        text = clips().text[:, 0].float()
        made = stage._roller.roll(plan, text, text, torch.Generator().manual_seed(5), False).made
        return (made - 0.8).square().mean().item()

    before = gap()
    for _ in range(80):
        trainer.train_step()
    assert gap() < 0.5 * before


def test_guidance_exaggerates_where_a_scene_begins_and_not_where_it_goes_on():
    stage = new_stage(PointMass(1.0), guidance=3.0, later_guidance=1.0)
    generator = torch.Generator().manual_seed(0)
    text = torch.ones(2, 3, 6)
    for plan, wanted in (
        (RolloutPlan(0, 2, False, 2, 2), [5.0, 5.0, 1.0, 1.0]),
        (RolloutPlan(2, 1, False, 2, 2), [1.0, 1.0]),
        (RolloutPlan(2, 1, True, 2, 2), [5.0, 5.0]),
    ):
        rollout = stage._roller.roll(plan, text, text, generator, False)
        asked = stage._ask(rollout, generator)
        clean = asked.noisy - asked.sigma[:, :, None, None, None] * stage._guided(asked)
        # untold -1, told 1: at guidance 3 it is -1 + 3 * (1 - -1) = 5.
        torch.testing.assert_close(clean.mean((0, 2, 3, 4)), torch.tensor(wanted))


def test_the_mix_has_beginnings_longer_clips_changes_and_rollouts_past_the_window():
    stage = new_stage(beginning_share=0.5, long_share=0.2)
    generator = torch.Generator().manual_seed(0)
    plans = [stage.draw_plan(generator) for _ in range(400)]
    alone = [plan for plan in plans if plan.history == 0 and plan.judged == 1]
    long = [
        plan for plan in plans if (plan.history + plan.judged) * LAYOUT.block > LAYOUT.num_slots
    ]
    changed = [plan for plan in plans if plan.is_switched]
    assert 0.4 < len(alone) / len(plans) < 0.6
    assert 0.1 < len(long) / len(plans) < 0.4
    assert 0.1 < len(changed) / len(plans) < 0.4
    assert all(plan.history > 0 for plan in changed)
    assert max(plan.judged for plan in plans) == 2


@pytest.mark.parametrize("past", [0, 2, 4])
def test_a_causal_score_of_clean_latents_sees_what_a_stream_sees(past: int):
    """The last block alone after a history = the last block of a clip that is judged as a whole."""
    model = network()
    score = Score(model, "causal", LAYOUT)
    generator = torch.Generator().manual_seed(0)
    clean = torch.randn(2, past + 2, *SHAPE, generator=generator)
    noisy = torch.randn(2, past + 2, *SHAPE, generator=generator)
    sigma = torch.rand(2, (past + 2) // 2, generator=generator).repeat_interleave(2, 1)
    text = model.encode_text(torch.randn(2, 3, 6, generator=generator))
    whole = score.flow(clean[:, :0], clean, noisy, sigma, text)
    tail = score.flow(clean[:, :past], clean[:, past:], noisy[:, past:], sigma[:, past:], text)
    torch.testing.assert_close(tail, whole[:, past:], atol=1e-5, rtol=1e-4)


def test_levels_are_one_for_each_block_or_for_each_clip():
    generator = torch.Generator().manual_seed(0)
    causal = Score(network(), "causal", LAYOUT).draw_levels(64, 6, generator, low=0.2, high=0.4)
    assert causal.view(64, 3, 2).diff(dim=2).abs().max() == 0
    assert causal[:, ::2].diff(dim=1).abs().min() > 0
    assert 0.2 <= causal.min() < 0.22
    assert 0.38 < causal.max() <= 0.4
    whole = Score(network(), "bidirectional", LAYOUT).draw_levels(64, 6, generator, shift=5.0)
    assert whole.diff(dim=1).abs().max() == 0
    assert whole.median() > 0.7
