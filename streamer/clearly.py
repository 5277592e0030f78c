"""How every command fails: one sentence on stderr, and an exit status that says which kind."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec

import click

from streamer.errors import StreamerError

P = ParamSpec("P")

FAILED = 2
"""Exit status of what this project can explain."""
INTERRUPTED = 130
"""Exit status after Ctrl-C, by the shells' convention."""


@contextmanager
def clearly() -> Iterator[None]:
    """Inside, this project's errors, and Ctrl-C, end the process with one sentence."""
    try:
        yield
    except StreamerError as error:
        click.echo(f"streamer: {error}", err=True)
        sys.exit(FAILED)
    except ModuleNotFoundError as error:
        if error.name != "PIL":
            raise
        click.echo("streamer: sheets need pillow: pip install 'streamer[distill]'", err=True)
        sys.exit(FAILED)
    except KeyboardInterrupt:
        click.echo("\nstreamer: stopped", err=True)
        sys.exit(INTERRUPTED)


def fails_clearly(command: Callable[P, None]) -> Callable[P, None]:
    """A command's function that fails so."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        with clearly():
            command(*args, **kwargs)

    return run


class ClearCommand(click.Command):
    """A command that fails so, whatever its function is wrapped in."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with clearly():
            return super().invoke(ctx)
