"""`streamer distill canvas | teacher | trajectories | ode | dmd | run`: from clips to a student.

Under torchrun every rank runs the same command.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Timer
from typing import TYPE_CHECKING, Any, TypeVar

import click

from streamer.distill.console import PathType, RankCommand, config_option, progress_bar
from streamer.distill.running import begin_run, device_option, set_threads, training_options

if TYPE_CHECKING:
    from streamer.distill.stages import Work
    from streamer.distill.workshop import Workshop

F = TypeVar("F", bound=Callable[..., Any])
shards_option = click.option(
    "--shards", type=PathType, required=True, multiple=True, help="Folder of `world` or `videos`."
)
start_option = click.option(
    "--start", type=PathType, help="Export, or `config`.  [default: new weights]"
)
canvas_option = click.option("--canvas", type=PathType, help="Export of `canvas` to begin with.")


def stage_options(command: F) -> F:
    """Where a stage runs, on which model and parts, and with which settings."""
    for option in (
        click.option("--set", "pairs", metavar="NAME=VALUE", multiple=True,
                     help="A setting of the stage; docs/distillation.md lists them."),
        click.option("--text", "text_path", type=PathType, help="[default: the configuration's]"),
        click.option("--vae", "vae_path", type=PathType, help="[default: the configuration's]"),
        click.option("--bf16", "is_bf16", is_flag=True, help="Compute in bfloat16."),
        config_option,
        device_option,
        training_options,
    ):  # fmt: skip
        command = option(command)
    return command


def trained_options(command: F) -> F:
    """The options of a stage, and those of the training loop."""
    for option in (
        click.option("--checkpointing", is_flag=True,
                     help="Less memory for more time: gradient checkpointing."),
        click.option("--trainer", "trainer_pairs", metavar="NAME=VALUE", multiple=True,
                     help="A setting of the training loop, such as ema_decay=0.99."),
        click.option("--steps", type=click.IntRange(1), help="Most steps.  [default: none]"),
        click.option("--minutes", type=float, default=60.0, show_default=True),
        stage_options,
    ):  # fmt: skip
        command = option(command)
    return command


def begin(
    out: Path,
    threads: int,
    device: str,
    seed: int,
    resume: bool,
    source: str | None,
    is_bf16: bool,
    vae_path: Path | None,
    text_path: Path | None,
    pairs: tuple[str, ...],
    minutes: float | None = None,
    steps: int | None = None,
    trainer_pairs: tuple[str, ...] = (),
    checkpointing: bool = False,
) -> tuple[Workshop, Work]:
    """Meet the other ranks, and open the workshop of a stage; the work it was asked for."""
    from streamer.distill.ranks import join_ranks
    from streamer.distill.settings import parse_settings
    from streamer.distill.stages import Work
    from streamer.distill.workshop import Workshop

    here = join_ranks(device)
    begin_run(out, threads, resume)
    work = Work(
        out=out,
        minutes=minutes,
        steps=steps,
        settings=parse_settings(pairs),
        trainer=parse_settings(trainer_pairs),
        is_bf16=is_bf16,
        is_checkpointed=checkpointing,
        seed=seed,
    )
    return Workshop(source, here, seed, vae_path, text_path, is_bf16), work


@click.command(cls=RankCommand)
@stage_options
@click.option("--shards", type=PathType, required=True, help="Folder made by `world --latents 3`.")
@click.option("--steps", type=click.IntRange(1), default=900, show_default=True)
@canvas_option
def canvas(shards: Path, canvas: Path | None, **given: Any) -> None:
    """Teach the canvas of a transformer the mean first block of each text; ends in OUT/export."""
    shop, work = begin(**given)
    from streamer.distill.stages import train_canvas

    train_canvas(shop, work, shards, canvas)


@click.command(cls=RankCommand)
@trained_options
@shards_option
@start_option
@canvas_option
@click.option("--size", "sizes", type=(str, int), multiple=True, metavar="NAME NUMBER",
              help="A size other than the configuration's, such as width 512.")  # fmt: skip
def teacher(
    shards: tuple[Path, ...],
    start: Path | None,
    canvas: Path | None,
    sizes: tuple[tuple[str, int], ...],
    **given: Any,
) -> None:
    """Train the bidirectional teacher on clips; ends in OUT/export."""
    shop, work = begin(**given)
    from streamer.distill.stages import train_teacher

    train_teacher(shop, work, shards, start, dict(sizes), canvas)


@click.command(cls=RankCommand)
@stage_options
@shards_option
@click.option("--teacher", "teacher_path", type=PathType, required=True,
              help="Export of `teacher`, or `config`.")  # fmt: skip
def trajectories(shards: tuple[Path, ...], teacher_path: Path, **given: Any) -> None:
    """Solve the teacher's paths from noise to clips, and keep them as shards in OUT."""
    shop, work = begin(**given)
    from streamer.distill.stages import make_trajectories

    with progress_bar() as show:
        make_trajectories(shop, work, shards, teacher_path, lambda n: show(0.0, f"{n} shards"))


@click.command(cls=RankCommand)
@trained_options
@click.option("--paths", type=PathType, required=True, help="Folder of `trajectories`.")
@start_option
def ode(paths: Path, start: Path | None, **given: Any) -> None:
    """Give the causal student its start on the teacher's paths; ends in OUT/export."""
    shop, work = begin(**given)
    from streamer.distill.stages import train_ode

    train_ode(shop, work, paths, start)


@click.command(cls=RankCommand)
@trained_options
@shards_option
@click.option("--texts", type=PathType, multiple=True, help="Shards whose texts are used instead.")
@click.option("--start", type=PathType, required=True, help="Export the student begins with.")
@click.option("--teacher", "teacher_path", type=PathType,
              help="Export of the real score, or `config`.  [default: --start]")  # fmt: skip
def dmd(
    shards: tuple[Path, ...],
    texts: tuple[Path, ...],
    start: Path,
    teacher_path: Path | None,
    **given: Any,
) -> None:
    """Match the student's distribution to the teacher's, on rollouts; ends in OUT/export."""
    shop, work = begin(**given)
    from streamer.distill.stages import train_dmd

    train_dmd(shop, work, shards, start, teacher_path or start, texts)


@click.command(cls=RankCommand)
@click.argument("recipe")
@click.option("--out", type=PathType, required=True, help="Folder of all stages.")
@click.option("--threads", type=click.IntRange(0, 256), default=0, help="0: torch chooses.")
@click.option("--only", help="One stage, by its name.")
@click.option("--minutes-scale", type=click.FloatRange(0, min_open=True), default=1.0,
              show_default=True, help="Multiplies the minutes of all stages.")  # fmt: skip
@click.option("--stop-after", type=click.FloatRange(0, min_open=True), metavar="MINUTES",
              help="Stop then, with a checkpoint; the same command goes on.")  # fmt: skip
@click.option("--rehearse", is_flag=True,
              help="Try all stages of the recipe, with tiny networks and a few steps.")  # fmt: skip
@device_option
def run(
    recipe: str,
    out: Path,
    threads: int,
    only: str | None,
    minutes_scale: float,
    stop_after: float | None,
    rehearse: bool,
    device: str,
) -> None:
    """Run all stages of a RECIPE, or go on with them where they stand.

    RECIPE: a shipped one by name (storybook, toy, wan-1.3b, wan-14b), or a JSON file.
    """
    import logging

    from streamer.distill.ranks import join_ranks
    from streamer.distill.recipe import find_recipe, read_recipe
    from streamer.distill.rehearsal import rehearsed

    source = find_recipe(recipe)
    wanted = read_recipe(source).scaled(minutes_scale)
    if rehearse:
        wanted = rehearsed(wanted)
    set_threads(threads)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    here = join_ranks(device)
    from streamer.distill.kitchen import Kitchen

    kitchen = Kitchen(wanted, source, out, here)
    with interrupted_after(stop_after):
        kitchen.cook(only)


@contextmanager
def interrupted_after(minutes: float | None) -> Iterator[None]:
    """Inside, Ctrl-C is pressed after some minutes; None: never."""
    if minutes is None:
        yield
        return
    timer = Timer(minutes * 60, os.kill, (os.getpid(), signal.SIGINT))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
