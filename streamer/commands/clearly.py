"""How every command fails: one sentence on stderr, and an exit status that says which kind."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

import click

from streamer.errors import StreamerError

P = ParamSpec("P")

INTERRUPTED = 130
"""Exit status after Ctrl-C, by the shells' convention."""


def fails_clearly(command: Callable[P, None]) -> Callable[P, None]:
    """Turn this project's errors into one sentence on stderr and exit status 2."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except StreamerError as error:
            click.echo(f"streamer: {error}", err=True)
            sys.exit(2)
        except KeyboardInterrupt:
            click.echo("\nstreamer: stopped", err=True)
            sys.exit(INTERRUPTED)

    return run


def size_text(num_bytes: float) -> str:
    """Bytes for people: 5.7 GB, in powers of a thousand, as shops and hubs count."""
    for unit in ("B", "kB", "MB"):
        if num_bytes < 999.5:
            return f"{num_bytes:.0f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} GB"
