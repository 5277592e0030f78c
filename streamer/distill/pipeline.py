"""`streamer distill teacher | trajectories | ode | dmd | run`: from a teacher to a student.

Under torchrun every rank runs the same command.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from streamer.distill.console import ClearCommand, PathType, config_option, progress_bar
from streamer.distill.running import begin_run, device_option, set_threads, training_options

if TYPE_CHECKING:
    from streamer.distill.stages import Work
    from streamer.distill.workshop import Workshop

minutes_option = click.option("--minutes", type=float, default=60.0, show_default=True)
steps_option = click.option("--steps", type=click.IntRange(1), help="Most steps.  [default: none]")
set_option = click.option(
    "--set",
    "pairs",
    metavar="NAME=VALUE",
    multiple=True,
    help="A setting of the stage; docs/distillation.md lists them.",
)
trainer_option = click.option(
    "--trainer",
    "trainer_pairs",
    metavar="NAME=VALUE",
    multiple=True,
    help="A setting of the training loop, such as ema_decay=0.99.",
)
checkpointing_option = click.option(
    "--checkpointing", is_flag=True, help="Less memory for more time: gradient checkpointing."
)
shards_option = click.option(
    "--shards", type=PathType, required=True, multiple=True, help="Folder of `world` or `videos`."
)


def model_options(command: Any) -> Any:
    """Which model, on what, and with which parts."""
    for option in (
        click.option("--text", "text_path", type=PathType, help="[default: the configuration's]"),
        click.option("--vae", "vae_path", type=PathType, help="[default: the configuration's]"),
        click.option("--bf16", "is_bf16", is_flag=True, help="Compute in bfloat16."),
        config_option,
        device_option,
    ):
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
) -> Workshop:
    """Meet the other ranks, and open the workshop of a stage in the folder `out`."""
    from streamer.distill.ranks import join_ranks
    from streamer.distill.workshop import Workshop

    here = join_ranks(device)
    begin_run(out, threads, resume)
    return Workshop(source, here, seed, vae_path, text_path, is_bf16)


def plan(
    out: Path,
    seed: int,
    is_bf16: bool,
    minutes: float | None,
    pairs: tuple[str, ...],
    steps: int | None = None,
    trainer_pairs: tuple[str, ...] = (),
    is_checkpointed: bool = False,
) -> Work:
    """What a command was asked for."""
    from streamer.distill.settings import parse_settings
    from streamer.distill.stages import Work

    return Work(
        out=out,
        minutes=minutes,
        steps=steps,
        settings=parse_settings(pairs),
        trainer=parse_settings(trainer_pairs),
        is_bf16=is_bf16,
        is_checkpointed=is_checkpointed,
        seed=seed,
    )


@click.command(cls=ClearCommand)
@training_options
@model_options
@minutes_option
@steps_option
@set_option
@trainer_option
@checkpointing_option
@shards_option
@click.option("--start", type=PathType, help="Export, or `config`.  [default: new weights]")
@click.option("--size", "sizes", type=(str, int), multiple=True, metavar="NAME NUMBER",
              help="A size other than the configuration's, such as width 512.")  # fmt: skip
def teacher(
    minutes: float,
    steps: int | None,
    pairs: tuple[str, ...],
    trainer_pairs: tuple[str, ...],
    checkpointing: bool,
    shards: tuple[Path, ...],
    start: Path | None,
    sizes: tuple[tuple[str, int], ...],
    **common: Any,
) -> None:
    """Train the bidirectional teacher on clips; ends in OUT/export."""
    shop = begin(**common)
    from streamer.distill.stages import train_teacher

    work = plan(common["out"], common["seed"], common["is_bf16"], minutes, pairs, steps,
                trainer_pairs, checkpointing)  # fmt: skip
    train_teacher(shop, work, shards, start, dict(sizes))


@click.command(cls=ClearCommand)
@training_options
@model_options
@set_option
@shards_option
@click.option("--teacher", "teacher_path", type=PathType, required=True,
              help="Export of `teacher`, or `config`.")  # fmt: skip
def trajectories(
    pairs: tuple[str, ...], shards: tuple[Path, ...], teacher_path: Path, **common: Any
) -> None:
    """Solve the teacher's paths from noise to clips, and keep them as shards in OUT."""
    shop = begin(**common)
    from streamer.distill.stages import make_trajectories

    work = plan(common["out"], common["seed"], common["is_bf16"], None, pairs)
    with progress_bar() as show:
        make_trajectories(shop, work, shards, teacher_path, lambda n: show(0.0, f"{n} shards"))


@click.command(cls=ClearCommand)
@training_options
@model_options
@minutes_option
@steps_option
@set_option
@trainer_option
@checkpointing_option
@click.option("--paths", type=PathType, required=True, help="Folder of `trajectories`.")
@click.option("--start", type=PathType, help="Export, or `config`.  [default: new weights]")
def ode(
    minutes: float,
    steps: int | None,
    pairs: tuple[str, ...],
    trainer_pairs: tuple[str, ...],
    checkpointing: bool,
    paths: Path,
    start: Path | None,
    **common: Any,
) -> None:
    """Give the causal student its start on the teacher's paths; ends in OUT/export."""
    shop = begin(**common)
    from streamer.distill.stages import train_ode

    work = plan(common["out"], common["seed"], common["is_bf16"], minutes, pairs, steps,
                trainer_pairs, checkpointing)  # fmt: skip
    train_ode(shop, work, paths, start)


@click.command(cls=ClearCommand)
@training_options
@model_options
@minutes_option
@steps_option
@set_option
@trainer_option
@checkpointing_option
@shards_option
@click.option("--texts", type=PathType, multiple=True, help="Shards whose texts are used instead.")
@click.option("--start", type=PathType, required=True, help="Export the student begins with.")
@click.option("--teacher", "teacher_path", type=PathType,
              help="Export of the real score, or `config`.  [default: --start]")  # fmt: skip
def dmd(
    minutes: float,
    steps: int | None,
    pairs: tuple[str, ...],
    trainer_pairs: tuple[str, ...],
    checkpointing: bool,
    shards: tuple[Path, ...],
    texts: tuple[Path, ...],
    start: Path,
    teacher_path: Path | None,
    **common: Any,
) -> None:
    """Match the student's distribution to the teacher's, on rollouts; ends in OUT/export."""
    shop = begin(**common)
    from streamer.distill.stages import train_dmd

    work = plan(common["out"], common["seed"], common["is_bf16"], minutes, pairs, steps,
                trainer_pairs, checkpointing)  # fmt: skip
    train_dmd(shop, work, shards, start, teacher_path or start, texts)


@click.command(cls=ClearCommand)
@click.argument("recipe")
@click.option("--out", type=PathType, required=True, help="Folder of all stages.")
@click.option("--threads", type=click.IntRange(0, 256), default=0, help="0: torch chooses.")
@click.option("--only", help="One stage, by its name.")
@device_option
def run(recipe: str, out: Path, threads: int, only: str | None, device: str) -> None:
    """Run all stages of a RECIPE, or go on with them where they stand.

    RECIPE: a shipped one by name (storybook, toy, wan-1.3b, wan-14b), or a JSON file.
    """
    import logging

    from streamer.distill.ranks import join_ranks
    from streamer.distill.recipe import find_recipe, read_recipe

    source = find_recipe(recipe)
    wanted = read_recipe(source)
    set_threads(threads)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    here = join_ranks(device)
    from streamer.distill.kitchen import Kitchen

    Kitchen(wanted, source, out, here).cook(only)
