"""`streamer doctor`: is this machine able to run this model, and what to do where it is not."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from streamer.commands.clearly import fails_clearly

if TYPE_CHECKING:
    from streamer.commands.checks import Check
    from streamer.config import Config

MARKS = {"ok": "ok  ", "warn": "warn", "fail": "FAIL"}
COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}
FAILED = 1
"""Exit status when a check failed."""


@click.command()
@click.option("--config", "source", metavar="NAME|FILE", help="The model to run.")
@click.option("--model-path", type=click.Path(path_type=Path), metavar="DIR")
@click.option("--ice-server", "ice_servers", multiple=True, metavar="URL", help="Also try this.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@fails_clearly
def doctor(
    source: str | None, model_path: Path | None, ice_servers: tuple[str, ...], as_json: bool
) -> None:
    """Check this machine against a model, before anything is loaded."""
    from streamer.config import load_config

    config = load_config(source, model_path)
    if ice_servers:
        servers = [*config.server.ice_servers, *ice_servers]
        server = config.server.model_copy(update={"ice_servers": servers})
        config = config.model_copy(update={"server": server})
    found = []
    if not as_json:
        click.echo(f"{config.title or config.name}\n")
    for check in examine(config):
        found.append(check)
        if not as_json:
            _print(check)
    worst = next((s for s in ("fail", "warn") if any(c.status == s for c in found)), "ok")
    if as_json:
        tree = {"model": config.name, "status": worst, "checks": [asdict(c) for c in found]}
        click.echo(json.dumps(tree, indent=2))
    if worst == "fail":
        sys.exit(FAILED)


def examine(config: Config) -> Iterator[Check]:
    """Every check, in the order in which trouble is best mended."""
    from streamer.commands import checks
    from streamer.commands.kernel_check import check_kernels

    yield checks.check_python()
    torch = checks.check_torch()
    yield torch
    if torch.found.startswith("cannot"):
        return
    yield checks.check_cuda(config)
    yield checks.check_triton()
    yield checks.check_attention()
    yield checks.check_memory(config)
    yield checks.check_weights(config)
    yield check_kernels(config)
    yield from checks.check_codecs()
    yield checks.check_port(config)
    yield from checks.check_ice(config)


def _print(check: Check) -> None:
    mark = click.style(MARKS[check.status], fg=COLOURS[check.status])
    click.echo(f"{mark}  {check.name:<18} {check.found}")
    if check.way_out:
        click.echo(f"      {'':<18} -> {check.way_out}")
