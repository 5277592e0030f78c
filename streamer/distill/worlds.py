"""`streamer distill atlas` and `vocabulary`: what the world is made of, and what is said of it."""

from __future__ import annotations

import json
from pathlib import Path

import click

from streamer.distill.console import ClearCommand, PathType, edition_option, write_text
from streamer.distill.edition import ABSENT, Edition, load_edition
from streamer.errors import ConfigError


@click.command(cls=ClearCommand)
@edition_option
@click.option("--package", type=PathType, required=True, help="The unpacked npm package.")
@click.option("--out", type=PathType, help="[default: where the renderer reads it]")
def atlas(edition: str, package: Path, out: Path | None) -> None:
    """Build the sheet of sprites that the world is rendered with."""
    from streamer.distill.atlas import build_atlas, find_atlas

    plan = find_atlas(edition)
    try:
        build_atlas(plan, package, out or plan.folder)
    except FileNotFoundError as error:
        raise ConfigError(str(error)) from error


@click.command(cls=ClearCommand)
@edition_option
@click.option("--out", type=PathType, help="Write it as JSON into this file.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def vocabulary(edition: str, out: Path | None, as_json: bool) -> None:
    """Tell what can be said: every class, and wordings of each."""
    world = load_edition(edition)
    text = json.dumps(world.listing(), indent=1, ensure_ascii=False)
    if out is not None:
        write_text(out, text + "\n")
    click.echo(text if as_json else describe(world))


def describe(edition: Edition) -> str:
    """The vocabulary for people."""
    lines = []
    for attribute, classes in edition.attributes.items():
        names = [name for name in classes if name != ABSENT]
        lines.append(f"{attribute} ({len(names)}): {', '.join(names)}")
    lines += ["", "for example:", *(f"  {text}" for text in edition.examples)]
    return "\n".join(lines)
