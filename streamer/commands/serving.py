"""Options of `streamer serve` that change the section `server` of a configuration."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from streamer.errors import ConfigError

if TYPE_CHECKING:
    from streamer.config import Config

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = (
    click.option(
        "--ice-server",
        "ice_servers",
        multiple=True,
        metavar="URL",
        help="stun:host:port or turn:user:password@host:port?transport=tcp; several may be given.",
    ),
    click.option(
        "--publish",
        multiple=True,
        metavar="URL",
        help="Publish each stream to this WHIP address; {stream} stands for its id. "
        "Without {stream}, one stream at a time.",
    ),
    click.option(
        "--publish-token",
        envvar="STREAMER_PUBLISH_TOKEN",
        metavar="TOKEN",
        help="What the WHIP server wants as Bearer.  [env: STREAMER_PUBLISH_TOKEN]",
    ),
    click.option("--tls-cert", metavar="FILE", help="Certificate chain (PEM), for HTTPS."),
    click.option("--tls-key", metavar="FILE", help="Its private key (PEM)."),
    click.option("--recordings", "recording_dir", metavar="DIR", help="Where recordings go."),
)


def serve_options(command: F) -> F:
    """Add the options to a command; their names are keys of the section `server`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def with_server(config: Config, **given: Any) -> Config:
    """The configuration with what was given on the command line in its section `server`.

    Raises ConfigError as for the same in a file.
    """
    from pydantic import ValidationError

    changed = {key: value for key, value in given.items() if value not in (None, ())}
    section = config.server.model_dump() | changed
    for key in ("ice_servers", "publish"):
        section[key] = list(section[key])
    try:
        server = type(config.server).model_validate(section)
    except ValidationError as error:
        fault = error.errors()[0]
        where = "".join(f" --{str(part).replace('_', '-')}" for part in fault["loc"][:1])
        message = fault["msg"].removeprefix("Value error, ")
        raise ConfigError(f"command line{where}: {message}") from error
    return config.model_copy(update={"server": server})
