"""`streamer distill evaluate` and `sheet`: a model is judged, and shown."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from streamer.distill.console import (
    ClearCommand,
    PathType,
    Show,
    config_option,
    model_section,
    progress_bar,
    write_text,
)
from streamer.distill.edition import EDITIONS
from streamer.errors import ConfigError

if TYPE_CHECKING:
    from streamer.config import Config
    from streamer.distill.edition import Edition
    from streamer.distill.players import Player
    from streamer.engine.diffusion import DiffusionModel

F = TypeVar("F", bound=Callable[..., Any])
_TEACHER_BLOCKS = 3
"""Blocks of the clips that a teacher is trained on."""
teacher_option = click.option(
    "--teacher", type=PathType, help="Export of `teacher`, to stand beside the model."
)


def run_options(command: F) -> F:
    """The seed, the device and the threads of a judgement."""
    for option in (
        click.option("--threads", type=click.IntRange(0, 256),
                     help="[default: the configuration's]"),
        click.option("--device", help="[default: the configuration's]"),
        click.option("--seed", type=click.IntRange(0), default=0, show_default=True),
    ):  # fmt: skip
        command = option(command)
    return command


@click.command(cls=ClearCommand)
@config_option
@click.option("--classifier", "classifier_path", type=PathType, help="[default: the shipped one]")
@click.option("--prompts", type=int, default=64, show_default=True, help="Held-out captions.")
@click.option("--blocks", type=int, default=3, show_default=True, help="Made for each caption.")
@click.option("--drift-seconds", type=float, default=60.0, show_default=True)
@click.option("--streams", type=click.IntRange(0), default=4, show_default=True, help="For drift.")
@click.option("--switches", type=click.IntRange(0), default=12, show_default=True,
              help="Prompt changes.")  # fmt: skip
@click.option("--reconstructions", type=int, default=24, show_default=True,
              help="Clips for the autoencoder.")  # fmt: skip
@click.option("--known", type=click.IntRange(0), default=32, show_default=True,
              help="Captions in known words, to compare unseen ones with.")  # fmt: skip
@teacher_option
@run_options
@click.option("--out", type=PathType, help="Write the report as JSON into this file, too.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def evaluate(
    source: str | None,
    classifier_path: Path | None,
    prompts: int,
    blocks: int,
    drift_seconds: float,
    streams: int,
    switches: int,
    reconstructions: int,
    known: int,
    teacher: Path | None,
    seed: int,
    device: str | None,
    threads: int | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Judge a model: obedience, drift, prompt changes, reconstruction."""
    from streamer.distill.classifier import SHIPPED, load_classifier
    from streamer.distill.evaluate import evaluate as judge_model
    from streamer.distill.report import EvaluationOptions

    judge = load_classifier(classifier_path or SHIPPED)
    options = EvaluationOptions(
        num_prompts=prompts,
        num_blocks=blocks,
        drift_s=drift_seconds,
        num_streams=streams,
        num_switches=switches,
        num_reconstructions=reconstructions,
        num_known=known,
        seed=seed,
    )
    with progress_bar() as show:
        config, model = load_model(source, device, threads, show)
        shown = edition_of(model)
        if shown is not None and shown != judge.edition:
            raise ConfigError(
                f"{config.name} shows the {shown.name} edition, the classifier knows the "
                f"{judge.edition.name} one; name another with --classifier"
            )
        report = judge_model(
            model, config, judge, options, lambda done: show(done, "judging"), teacher
        )
    text = json.dumps(report.tree(), indent=2)
    if out is not None:
        write_text(out, text + "\n")
    click.echo(text if as_json else report.summary())


@click.command(cls=ClearCommand)
@click.argument("kind", type=click.Choice(["prompts", "stream", "switch", "world"]))
@config_option
@click.option("--out", type=PathType, required=True, help="The PNG to write.")
@click.option("--prompt", "texts", multiple=True, help="Several times; [default: examples]")
@click.option("--change", "changes", type=(str, str), multiple=True, metavar="OLD NEW",
              help="For `switch`, several times; [default: examples]")  # fmt: skip
@click.option("--second", "seconds", type=float, multiple=True,
              help="For `stream`, several times; [default: 1, 60, 300, 600]")  # fmt: skip
@click.option("--edition", type=click.Choice(EDITIONS), default="full", show_default=True,
              help="For `world`; the others show the model's.")  # fmt: skip
@click.option("--rows", type=click.IntRange(1), default=12, show_default=True, help="For `world`.")
@click.option("--count", type=click.IntRange(1),
              help="For `prompts`: so many held-out captions, not the examples.")  # fmt: skip
@teacher_option
@run_options
def sheet(
    kind: str,
    source: str | None,
    out: Path,
    texts: tuple[str, ...],
    changes: tuple[tuple[str, str], ...],
    seconds: tuple[float, ...],
    edition: str,
    rows: int,
    count: int | None,
    teacher: Path | None,
    seed: int,
    device: str | None,
    threads: int | None,
) -> None:
    """Draw a contact sheet: many prompts, a long stream, prompt changes, or rendered clips.

    A --teacher's clips stand beside the streams of `prompts`.
    """
    from streamer.distill import samples
    from streamer.distill.edition import load_edition
    from streamer.distill.teacher_clips import TeacherClips

    write_text(out, "")  # found out now, not after minutes
    if kind == "world":
        samples.draw_world(load_edition(edition), out, seed, device or "cpu", rows)
        click.echo(f"{out}")
        return
    with progress_bar() as show:
        config, model = load_model(source, device, threads, show)
        world = edition_of(model) or load_edition(edition)
        known = tuple(config.examples) or world.examples
        if kind == "prompts":
            chosen = texts or (samples.draw_texts(world, count, seed) if count else known)
            blocks = 6 if teacher is None else _TEACHER_BLOCKS
            clips = None
            if teacher is not None:
                clips = TeacherClips.of(teacher, model, config, steps=24, guidance=3.0)
            player = sheet_player(model, config, show, float(blocks * len(chosen)))
            samples.draw_prompts(player, out, chosen, seed, blocks, clips)
        elif kind == "stream":
            chosen, at_s = texts or known[:1], seconds or samples.STREAM_SECONDS
            expected = max(at_s) * config.stream.fps / model.max_frames * len(chosen)
            player = sheet_player(model, config, show, expected)
            samples.draw_stream(player, out, chosen, seed, at_s)
        else:
            pairs = changes or world.changes
            player = sheet_player(model, config, show, 8.0 * len(pairs))
            samples.draw_switches(player, out, pairs, seed)
    click.echo(f"{out}")


def load_model(
    source: str | None,
    device: str | None,
    threads: int | None,
    show: Show,
) -> tuple[Config, DiffusionModel]:
    """A configuration and its model, perhaps on another device or with other threads."""
    from streamer.config import load_config
    from streamer.engine.diffusion import DiffusionModel

    config = load_config(source)
    changed = {"device": device, "threads": threads}
    given = {key: value for key, value in changed.items() if value is not None}
    model = model_section(config).model_copy(update=given)
    config = config.model_copy(update={"model": model})
    return config, DiffusionModel(config, show)


def edition_of(model: DiffusionModel) -> Edition | None:
    """The edition whose words a model reads; None where its words are those of no edition."""
    from streamer.distill.edition import find_edition
    from streamer.models.text import StorybookTextEncoder

    if not isinstance(model.text, StorybookTextEncoder):
        return None
    known = {attribute.name: attribute.classes for attribute in model.text.config.attributes}
    try:
        return find_edition(known, "the text encoder")
    except ConfigError:
        return None


def sheet_player(model: DiffusionModel, config: Config, show: Show, blocks: float) -> Player:
    """A player that shows how many of the expected blocks are made."""
    from streamer.distill.players import Player

    return Player(model, config, lambda count: show(min(1.0, count / blocks), "making"))
