"""What all training commands share: their options, and how a run begins and ends.

Importing it costs nothing; torch is imported when a run begins.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from streamer.distill.console import PathType
from streamer.errors import ConfigError, OutputError

if TYPE_CHECKING:
    from streamer.distill.trainer import CycleStage, Stage, TrainerConfig

F = TypeVar("F", bound=Callable[..., Any])


def training_options(command: F) -> F:
    """The options that every training has."""
    for option in (
        click.option("--resume", is_flag=True, help="Go on from the newest checkpoint in --out."),
        click.option("--seed", type=int, default=0, show_default=True),
        click.option("--threads", type=click.IntRange(0, 256), default=0, help="0: torch chooses."),
        click.option("--out", type=PathType, required=True, help="Folder of this run."),
    ):
        command = option(command)
    return command


device_option = click.option(
    "--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N."
)


def begin_run(out: Path, threads: int, is_resumed: bool) -> None:
    """Prepare the log, the threads and the folder of a training.

    Raises ConfigError for a new run in a folder that holds one, OutputError for a folder that
    cannot be written.
    """
    from streamer.distill.checkpoints import find_checkpoints

    checkpoints = find_checkpoints(out)
    if checkpoints and not is_resumed:
        raise ConfigError(
            f"{out} holds a run already ({checkpoints[-1].name}); "
            "add --resume to go on with it, or choose another --out"
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{out}: cannot be written: {error.strerror}") from error
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    set_threads(threads)


def run_stage(stage: Stage | CycleStage, config: TrainerConfig, is_resumed: bool) -> None:
    """Train a stage to its end, with log and progress on stderr."""
    from streamer.distill.checkpoints import find_checkpoints
    from streamer.distill.trainer import Trainer

    trainer = Trainer(stage, config)
    if is_resumed and (checkpoints := find_checkpoints(config.out)):
        trainer.resume(checkpoints[-1])
    trainer.train()


def set_threads(threads: int) -> None:
    """Let torch use so many threads inside operators; 0 leaves its own choice."""
    import torch

    if threads:
        torch.set_num_threads(threads)


def num_threads() -> int:
    """Threads that torch uses inside operators."""
    import torch

    return torch.get_num_threads()
