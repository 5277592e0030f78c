"""Teacher, paths and the student's start on them."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from streamer.distill.ode_stage import OdeStage, OdeStageConfig
from streamer.distill.scores import Score
from streamer.distill.teacher_stage import TeacherStage, TeacherStageConfig, draw_levels
from streamer.distill.trainer import Trainer, TrainerConfig
from streamer.distill.trajectories import (
    PathSolver,
    Trajectories,
    TrajectoryConfig,
    build_trajectories,
)
from streamer.errors import ConfigError, WeightsError
from streamer.models.transformer import PromptKV
from tests.distill.tiny import LAYOUT, SHAPE, STEPS, blueprint, clips, network

NOTHING = torch.zeros(1, 3, 6)


class Normal(nn.Module):
    """The exact flow of a world of independent normal values, N(mean, std^2); mean by the text."""

    def __init__(self, mean: float, std: float) -> None:
        super().__init__()
        self.mean, self.std = nn.Parameter(torch.tensor(mean)), std

    def encode_text(self, embeds: Tensor) -> PromptKV:
        told = embeds.flatten(1).any(1).float()
        return PromptKV(told, told)

    def forward(self, latents: Tensor, told: Tensor, text: PromptKV, _context: object) -> Tensor:
        sigma = (told / 1000).view(-1, 1, 1, 1, 1)
        mean = self.mean * text.k.view(-1, 1, 1, 1, 1)
        spread = ((1 - sigma) * self.std) ** 2 + sigma**2
        noise = sigma / spread * (latents - (1 - sigma) * mean)
        clean = mean + (1 - sigma) * self.std**2 / spread * (latents - (1 - sigma) * mean)
        return noise - clean


def test_a_path_of_a_normal_world_is_the_known_map():
    """The flow moves N(0, 1) to N(m, s^2); its map in one dimension is x -> m + s x."""
    noise = torch.randn(2, 3, *SHAPE, generator=torch.Generator().manual_seed(0))
    solver = PathSolver(Normal(1.5, 0.5), guidance=1.0, num_steps=200)  # type: ignore[arg-type]
    text = torch.ones(2, 3, 6)
    levels = (1.0, 0.6, 0.3)
    states = solver.solve(noise, text, NOTHING, levels)
    assert len(states) == 4
    for sigma, state in zip((*levels, 0.0), states, strict=True):
        width = (((1 - sigma) * 0.5) ** 2 + sigma**2) ** 0.5
        # Euler's method in 200 steps.
        torch.testing.assert_close(state, (1 - sigma) * 1.5 + width * noise, atol=0.03, rtol=0)


def test_guidance_moves_paths_away_from_those_without_a_text():
    noise = torch.randn(2, 3, *SHAPE, generator=torch.Generator().manual_seed(0))
    text = torch.ones(2, 3, 6)
    ends = [
        PathSolver(Normal(1.0, 0.5), guidance, 60).solve(noise, text, NOTHING)[-1].mean().item()  # type: ignore[arg-type]
        for guidance in (0.0, 1.0, 3.0)
    ]
    assert ends[0] == pytest.approx(0.0, abs=0.05)
    assert ends[1] == pytest.approx(1.0, abs=0.05)
    assert ends[2] == pytest.approx(3.0, abs=0.15)


@pytest.mark.parametrize("shift", [1.0, 5.0])
def test_the_levels_of_the_student_are_on_the_grid_and_none_is_close_beside_them(shift: float):
    grid = PathSolver(network(), 1.0, 20, shift)._grid(STEPS.sigmas)
    assert set(STEPS.sigmas) <= set(grid)
    assert grid == sorted(grid, reverse=True)
    assert grid[0] == 1.0
    assert min(a - b for a, b in pairwise(grid)) > 0.25 / 20 / (1 + shift)


def test_paths_are_kept_once_the_same_for_the_same_seed_and_for_these_steps_only(tmp_path: Path):
    config = TrajectoryConfig(num_shards=2, per_shard=3, batch=2, num_steps=3)
    done: list[int] = []
    for name in ("a", "b", "a"):
        build_trajectories(
            tmp_path / name, network(), clips(), NOTHING, STEPS.sigmas, config, 1, done.append
        )
    assert done == [1, 2] * 3
    paths = Trajectories(tmp_path / "a", STEPS.sigmas)
    again = Trajectories(tmp_path / "b", STEPS.sigmas)
    every = torch.arange(6)
    states = paths.rows(every).states
    assert states.shape == (6, 4, 6, *SHAPE)
    assert states.equal(again.rows(every).states)
    assert not states[:3].equal(states[3:])
    on_disk = Trajectories(tmp_path / "a", STEPS.sigmas, most_bytes=0)
    assert on_disk.frame_shape == SHAPE
    drawn = [source.draw(5, torch.Generator().manual_seed(1)) for source in (paths, on_disk)]
    assert drawn[0].states.equal(drawn[1].states)
    assert drawn[0].text.equal(drawn[1].text)
    with pytest.raises(ConfigError, match=r"the student has 1, 0\.5"):
        Trajectories(tmp_path / "a", (1.0, 0.5, 0.2))
    with pytest.raises(WeightsError, match="no paths"):
        Trajectories(tmp_path / "c", STEPS.sigmas)


@pytest.mark.parametrize("is_history_clean", [True, False])
def test_the_student_learns_where_the_paths_of_a_toy_world_end(
    tmp_path: Path, is_history_clean: bool
):
    config = TrajectoryConfig(num_shards=1, per_shard=64, batch=64, guidance=1.0, num_steps=40)
    teacher = Normal(1.0, 0.3)
    build_trajectories(tmp_path / "paths", teacher, clips(), NOTHING, STEPS.sigmas, config)  # type: ignore[arg-type]
    paths = Trajectories(tmp_path / "paths", STEPS.sigmas)
    settings = OdeStageConfig(
        clips=16, is_history_clean=is_history_clean, muon_lr=0.02, adam_lr=0.01
    )
    stage = OdeStage(blueprint(), network(), paths, settings)
    trainer = Trainer(stage, TrainerConfig(out=tmp_path / "run", max_steps=150, warmup_steps=2))
    first = trainer.train_step()["loss"]
    for _ in range(149):
        trainer.train_step()
    fresh = TrajectoryConfig(num_shards=1, per_shard=16, batch=16, guidance=1.0, num_steps=40)
    build_trajectories(
        tmp_path / "fresh",
        teacher,
        clips(),
        NOTHING,
        STEPS.sigmas,
        fresh,
        seed=9,  # type: ignore[arg-type]
    )
    unseen = Trajectories(tmp_path / "fresh", STEPS.sigmas)
    found = unseen.rows(torch.arange(16))
    noise, end = found.states[:, 0], found.states[:, -1]
    score = Score(stage.student, "causal", LAYOUT)
    with torch.no_grad():
        keys = stage.student.encode_text(found.text)
        flow = score.flow(noise[:, :0], end, noise, torch.ones(16, 6), keys)
    gap = (noise - flow - end).square().mean().item()
    # Always saying the mean would leave the variance of the ends, 0.09.
    assert first > 0.5
    assert gap < 0.03


def test_the_teacher_learns_its_clips_and_what_is_kept_clean_teaches_nothing(tmp_path: Path):
    settings = TeacherStageConfig(clips=8, adam_lr=0.01)
    stage = TeacherStage(blueprint(), network(), clips(), NOTHING, settings)
    trainer = Trainer(stage, TrainerConfig(out=tmp_path, max_steps=60, warmup_steps=2))
    losses = [trainer.train_step()["loss"] for _ in range(50)]
    assert sum(losses[-8:]) / 8 < 0.9 * sum(losses[:4]) / 4


class Recorder(nn.Module):
    """Answers zero and remembers what it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def encode_text(self, embeds: Tensor) -> PromptKV:
        return PromptKV(embeds, embeds)

    def forward(self, latents: Tensor, told: Tensor, text: PromptKV, _context: object) -> Tensor:
        self.seen.append((latents, told, text.k))
        return latents * self.weight


def test_clips_whose_prompt_changes_are_told_the_new_text_and_kept_clean_before_it():
    recorder = Recorder()
    settings = TeacherStageConfig(
        clips=64, first_block_share=0.0, prefix_share=0.0, caption_dropout=0.25, context_noise=0.0
    )
    stage = TeacherStage(blueprint(), recorder, clips(), NOTHING, settings)  # type: ignore[arg-type]
    stage.loss(0, torch.Generator().manual_seed(3))
    source = clips().draw(64, torch.Generator().manual_seed(3))
    latents, told, text = recorder.seen[0]
    kept = source.switch[:, None] * LAYOUT.block > torch.arange(6)
    assert (told[kept] == 0).all()
    assert (told[~kept] > 0).all()
    assert latents[kept].equal(source.latents[kept])
    wanted = source.text[torch.arange(64), (source.switch > 0).long()]
    is_told = text.flatten(1).any(1)
    assert text[is_told].equal(wanted[is_told])
    assert 0.1 < (~is_told).float().mean() < 0.45


def test_levels_follow_the_logit_normal_law():
    levels = draw_levels(20_000, torch.Generator().manual_seed(0), 0.5, 1.2, 1.0)
    logit = torch.logit(levels)
    assert logit.mean().item() == pytest.approx(0.5, abs=0.05)
    assert logit.std().item() == pytest.approx(1.2, abs=0.05)
    shifted = draw_levels(20_000, torch.Generator().manual_seed(0), 0.5, 1.2, 3.0)
    torch.testing.assert_close(shifted, 3 * levels / (1 + 2 * levels))
