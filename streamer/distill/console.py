"""What the commands of `streamer distill` share: failing clearly, a progress bar, a configuration.

Importing it costs nothing; torch is not needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from streamer.clearly import ClearCommand as ClearCommand
from streamer.distill.edition import EDITIONS
from streamer.errors import ConfigError, OutputError

if TYPE_CHECKING:
    from streamer.config import Config, ModelSection

PathType = click.Path(path_type=Path)
Show = Callable[[float, str], None]
"""Shows the share that is done, 0..1, and what is being done."""


class RankCommand(ClearCommand):
    """A command that torchrun may run in many processes: each of them ends with it."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command.  Returns in a process that is alone."""
        from streamer.distill.ranks import end_rank

        try:
            result = super().invoke(ctx)
        except SystemExit as ending:
            end_rank(ending.code if isinstance(ending.code, int) else 1)
            raise
        end_rank()
        return result


edition_option = click.option(
    "--edition",
    type=click.Choice(EDITIONS),
    default="full",
    show_default=True,
    help="Which storybook world.",
)
config_option = click.option(
    "--config",
    "source",
    metavar="NAME|FILE",
    help="The model: a shipped configuration by name, or a JSON file.  [default: storybook]",
)


def model_section(config: Config) -> ModelSection:
    """The parts of a model.  Raises ConfigError for a family without weights."""
    if config.model is None:
        raise ConfigError(f"{config.name}: has no model to train or judge; choose another --config")
    return config.model


@contextmanager
def progress_bar() -> Iterator[Show]:
    """A bar on stderr; the result takes the share that is done, 0..1, and what is being done."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("starting", total=1.0)
        yield lambda done, what: bar.update(task, completed=done, description=what)


def write_text(path: Path, text: str) -> None:
    """Write a file.  Raises OutputError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from error
