"""The stages as functions: each loads its parts, does its work in one folder, and can go on there.

The commands and the recipes call them; what a stage learns is in the module of that stage.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamer.distill.canvas_stage import CanvasStage, CanvasStageConfig
from streamer.distill.checkpoints import find_checkpoints
from streamer.distill.dmd_stage import DMDStage, DMDStageConfig
from streamer.distill.ode_stage import OdeStage, OdeStageConfig
from streamer.distill.precision import computing
from streamer.distill.settings import read_settings
from streamer.distill.shards import read_clips
from streamer.distill.teacher_stage import TeacherStage, TeacherStageConfig
from streamer.distill.trainer import CycleStage, Stage, Trainer, TrainerConfig
from streamer.distill.trajectories import Trajectories, TrajectoryConfig, build_trajectories
from streamer.distill.workshop import Workshop, with_sizes


@dataclass(frozen=True)
class Work:
    """A run of one stage.

    out: its folder.  minutes, steps: its end, whichever is first; one of them is needed.
    settings: of the stage; trainer: of TrainerConfig.  is_resumed: go on from the last checkpoint.
    is_checkpointed: layers keep only their input for the backward pass.
    """

    out: Path
    minutes: float | None = None
    steps: int | None = None
    settings: Mapping[str, Any] | None = None
    trainer: Mapping[str, Any] | None = None
    is_resumed: bool = True
    is_bf16: bool = False
    is_checkpointed: bool = False
    seed: int = 0


class TimeUpError(Exception):
    """The minutes of a stage that makes files are over; what is made is kept."""


SPENT_FILE = "spent.json"


def until(
    minutes: float | None, report: Callable[[int], None], folder: Path, least: int = 1
) -> Callable[[int], None]:
    """A listener to progress that passes it on, and raises TimeUpError when minutes are over.

    folder: of the stage; a note there remembers the time, so that a stage which is gone on with has
    only what is left.  least: what has to be done however long it takes.
    """
    note = folder / SPENT_FILE
    before = json.loads(note.read_text())["seconds"] if note.is_file() else 0.0
    started = time.monotonic()

    def listen(done: int) -> None:
        report(done)
        seconds = before + time.monotonic() - started
        note.write_text(json.dumps({"seconds": round(seconds, 1)}) + "\n")
        if minutes is not None and seconds > minutes * 60 and done >= least:
            raise TimeUpError

    return listen


def run_stage(stage: Stage | CycleStage, work: Work, defaults: Mapping[str, Any]) -> None:
    """Train a stage to its end or go on with it.  defaults: of TrainerConfig, for this stage.

    Raises ConfigError for settings that TrainerConfig does not know, and KeyboardInterrupt when a
    signal ended the training before its time; its checkpoint is there.
    """
    given = {
        "out": work.out,
        "seed": work.seed,
        "max_steps": work.steps,
        "max_seconds": None if work.minutes is None else work.minutes * 60,
        "is_bf16": work.is_bf16,
    }
    values = {**defaults, **(work.trainer or {}), **given}
    trainer = Trainer(stage, read_settings(TrainerConfig, values, "trainer"))
    if work.is_resumed and (checkpoints := find_checkpoints(work.out)):
        trainer.resume(checkpoints[-1])
    if not trainer.train():
        raise KeyboardInterrupt


def train_canvas(shop: Workshop, work: Work, shards: Path, canvas: Path | None = None) -> None:
    """The mean first block of each text; ends in OUT/export.

    shards: clips of one block.  canvas: an earlier export to go on from; None: new weights.
    """
    settings = read_settings(CanvasStageConfig, work.settings or {}, "settings")
    nothing = shop.embed([""])[0]
    stage = CanvasStage(
        shop.blueprint.transformer,
        read_clips(shards).on(shop.device),
        read_clips(shards, held_out=True).on(shop.device),
        nothing,
        settings,
        shop.device,
        work.seed,
        canvas,
    )
    run_stage(stage, work, {"ema_decay": 0.98, "schedule": "cosine"})


def train_teacher(
    shop: Workshop,
    work: Work,
    shards: Sequence[Path],
    start: Path | None = None,
    sizes: Mapping[str, int] | None = None,
    canvas: Path | None = None,
) -> None:
    """The bidirectional teacher; ends in OUT/export.

    start: None: new weights, which may begin with the canvas of an export.
    """
    settings = read_settings(TeacherStageConfig, work.settings or {}, "settings")
    texts = shop.embed(["", *shop.blueprint.examples])
    clips = shop.read_clips(shards)
    if start is None:
        wanted = with_sizes(shop.blueprint.transformer, dict(sizes or {}))
        teacher = shop.new_network(wanted, canvas)
    else:
        teacher = shop.read_network(start)
    teacher.gradient_checkpointing = work.is_checkpointed
    previewer = shop.previewer(clips.frame_shape, texts[1:])
    stage = TeacherStage(shop.blueprint, teacher, clips, texts[:1], settings, previewer)
    run_stage(stage, work, {"ema_decay": 0.995, "sheet_every_s": 300.0})


def make_trajectories(
    shop: Workshop,
    work: Work,
    shards: Sequence[Path],
    teacher: Path,
    report: Callable[[int], None] = lambda done: None,
) -> None:
    """The teacher's paths as shards in OUT."""
    settings = read_settings(TrajectoryConfig, work.settings or {}, "settings")
    nothing = shop.embed([""])
    network = shop.read_whole(teacher)
    levels = shop.blueprint.steps.sigmas
    clips = shop.read_clips(shards)
    try:
        with computing(shop.device, work.is_bf16):
            build_trajectories(
                work.out, network, clips, nothing, levels, settings, work.seed,
                until(work.minutes, report, work.out),
            )  # fmt: skip
    except TimeUpError:
        return


def train_ode(shop: Workshop, work: Work, paths: Path, start: Path | None = None) -> None:
    """The causal student's start on the paths; ends in OUT/export.  start: None: new weights."""
    settings = read_settings(OdeStageConfig, work.settings or {}, "settings")
    found = Trajectories(paths, shop.blueprint.steps.sigmas, device=shop.device)
    texts = shop.embed(shop.blueprint.examples)
    student = shop.new_network() if start is None else shop.read_network(start)
    student.gradient_checkpointing = work.is_checkpointed
    previewer = shop.previewer(found.frame_shape, texts)
    stage = OdeStage(shop.blueprint, student, found, settings, previewer)
    run_stage(stage, work, {"ema_decay": 0.995, "sheet_every_s": 300.0})


def train_dmd(
    shop: Workshop,
    work: Work,
    shards: Sequence[Path],
    start: Path,
    teacher: Path,
    texts: Sequence[Path] = (),
) -> None:
    """Distribution matching; ends in OUT/export.  texts: shards whose texts are used instead."""
    settings = read_settings(DMDStageConfig, work.settings or {}, "settings")
    embeds = shop.embed(["", *shop.blueprint.examples])
    clips = shop.read_clips(shards)
    student = shop.read_network(start)
    real = shop.read_network(teacher, is_frozen=True)
    critic = shop.read_network(teacher)
    for network in (student, critic):
        network.gradient_checkpointing = work.is_checkpointed
    stage = DMDStage(
        shop.blueprint,
        student,
        real,
        critic,
        clips,
        embeds[:1],
        settings,
        shop.previewer(clips.frame_shape, embeds[1:]),
        shop.read_clips(texts) if texts else None,
    )
    defaults = {"ema_decay": 0.98, "sheet_every_s": 300.0, "warmup_steps": 10}
    run_stage(stage, work, defaults)
