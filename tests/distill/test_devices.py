"""What a GPU would meet: nothing is mixed over devices, nothing is read back, types agree.

The device `meta` computes shapes only: a tensor of the host among its own is an error there, and so
is to ask for a number.
"""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from streamer.distill.canvas_stage import CanvasStage, CanvasStageConfig
from streamer.distill.dmd_stage import DMDStage, DMDStageConfig
from streamer.distill.draws import draw_noise, send
from streamer.distill.ode_stage import OdeStage, OdeStageConfig
from streamer.distill.precision import computing
from streamer.distill.shards import LatentClips
from streamer.distill.teacher_stage import TeacherStage, TeacherStageConfig
from streamer.distill.trainer import Update
from streamer.distill.trajectories import Paths, PathSolver, Trajectories
from streamer.models.transformer import CausalWanTransformer
from tests.distill.tiny import SHAPE, SIZES, STEPS, blueprint, clips, network

META = torch.device("meta")
CPU = torch.device("cpu")
EVERYTHING = replace(
    SIZES, learned_grid=(2, 2), pooled_text=True, text_canvas=8, predicts_clean=True
)


def placed(device: torch.device) -> CausalWanTransformer:
    return network(sizes=EVERYTHING).to(device)


class SomePaths(Trajectories):
    """Paths that are drawn instead of read."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.frame_shape = device, SHAPE

    def draw(self, count: int, generator: torch.Generator) -> Paths:
        states = draw_noise((count, 1 + len(STEPS.sigmas), 6, *SHAPE), generator, self.device)
        return Paths(states, draw_noise((count, 3, 6), generator, self.device))


def teacher_loss(device: torch.device) -> list[Update]:
    nothing = torch.zeros(1, 3, 6)
    config = TeacherStageConfig(clips=4)
    stage = TeacherStage(blueprint(), placed(device), clips().on(device), nothing, config)
    return [stage.loss(step, torch.Generator().manual_seed(step)) for step in range(6)]


def ode_loss(device: torch.device) -> list[Update]:
    stage = OdeStage(blueprint(), placed(device), SomePaths(device), OdeStageConfig(clips=3))
    return [stage.loss(0, torch.Generator())]


def canvas_loss(device: torch.device) -> list[Update]:
    first = clips(num_frames=2).on(device)
    config = CanvasStageConfig(beginnings=4)
    stage = CanvasStage(EVERYTHING, first, first, torch.zeros(3, 6), config, device)
    return [stage.loss(0, torch.Generator())]


def dmd_losses(device: torch.device) -> list[Update]:
    """Of all kinds of cycles, with a teacher in bfloat16 as a GPU holds it."""
    frozen = placed(device).to(torch.bfloat16 if device == CPU else torch.float32)
    config = DMDStageConfig(
        kind="bidirectional",
        beginnings=2,
        clips=2,
        beginning_share=0.2,
        long_share=0.4,
        longest=5,
        critic_updates=2,
        later_guidance=2.0,
        data_weight=0.1,
    )
    found = []
    stage = DMDStage(
        blueprint(), placed(device), frozen, placed(device), clips().on(device),
        torch.zeros(1, 3, 6), config,
    )  # fmt: skip
    for step in range(8):
        found += list(stage.updates(step, torch.Generator().manual_seed(step)))
    return found


LOSSES = [teacher_loss, ode_loss, canvas_loss, dmd_losses]


@pytest.mark.parametrize("losses", LOSSES)
def test_a_step_asks_its_device_for_nothing(losses: Callable[[torch.device], list[Update]]):
    for loss, numbers in losses(META):
        assert loss.device == META
        assert all(not isinstance(n, torch.Tensor) or n.device == META for n in numbers.values())
        loss.backward()


@pytest.mark.parametrize("losses", LOSSES)
def test_a_step_computes_in_bfloat16(losses: Callable[[torch.device], list[Update]]):
    with computing(CPU, is_bf16=True):
        updates = losses(CPU)
    for loss, _ in updates:
        assert loss.dtype == torch.float32
        assert bool(loss.isfinite())


def test_paths_are_solved_where_the_teacher_is():
    teacher = placed(META)
    solver = PathSolver(teacher, guidance=2.0, num_steps=4)
    noise, text = torch.empty(2, 6, *SHAPE, device=META), torch.empty(2, 3, 6, device=META)
    states = solver.solve(noise, text, text[:1], STEPS.sigmas)
    assert [state.device for state in states] == [META] * (1 + len(STEPS.sigmas))


def test_clips_on_a_device_are_the_same_clips():
    held = clips()
    moved = held.on(CPU)
    drawn = [part.draw(3, torch.Generator().manual_seed(1)) for part in (held, moved)]
    assert all(torch.equal(a, b) for a, b in zip(*(vars(d).values() for d in drawn), strict=True))
    assert isinstance(drawn[0], LatentClips)
    assert held.on(META).switch.device == CPU


def test_the_text_of_a_clip_is_that_before_or_after_its_change():
    held = clips()
    later = held.switch > 0
    rows = torch.arange(len(held))
    assert torch.equal(held.text_of(later, CPU), held.text[rows, later.long()])


def test_noise_repeats_itself_and_what_is_sent_arrives():
    drawn = [draw_noise((3, 4), torch.Generator().manual_seed(5), CPU) for _ in range(2)]
    assert torch.equal(*drawn)
    assert torch.equal(send(drawn[0], "cpu"), drawn[0])
