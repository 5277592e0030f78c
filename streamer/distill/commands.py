"""`streamer distill ...`: the making of the storybook model, stage by stage, and its judging.

The order is: text, vae, world, student; then classifier, evaluate, sheet; then export.  Each
command imports what it needs when it runs, so that `--help` answers at once.
"""

from __future__ import annotations

import json
from pathlib import Path

import click

from streamer.distill.console import (
    ClearCommand,
    PathType,
    config_option,
    edition_option,
    model_section,
    progress_bar,
)
from streamer.distill.edition import EDITIONS
from streamer.distill.judging import evaluate, sheet
from streamer.distill.pipeline import canvas, dmd, ode, run, teacher, trajectories
from streamer.distill.running import (
    begin_run,
    device_option,
    num_threads,
    run_stage,
    set_threads,
    training_options,
)
from streamer.distill.worlds import atlas, vocabulary
from streamer.errors import ConfigError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def distill() -> None:
    """Train the storybook model, judge it, and export what ships.

    Every training command can be stopped (Ctrl-C leaves a checkpoint) and goes on with --resume.
    """


distill.add_command(evaluate)
distill.add_command(sheet)
distill.add_command(atlas)
distill.add_command(vocabulary)
for stage in (canvas, teacher, trajectories, ode, dmd, run):
    distill.add_command(stage)


# ---- stages -------------------------------------------------------------------------------------


@distill.command(cls=ClearCommand)
@training_options
@edition_option
@click.option("--word-vectors", type=PathType, help="A word table or encoder made before.")
@click.option("--start", type=PathType,
              help="Go on from an encoder; what was trained with it reads this one.")  # fmt: skip
@click.option("--dictionary", type=PathType,
              help="Folder of WordNet 3.0, such as /usr/share/wordnet: what it says of nouns is "
                   "read as well.")  # fmt: skip
@click.option("--steps", type=click.IntRange(1), default=1600, show_default=True)
@click.option("--captions", type=click.IntRange(1), default=40_000, show_default=True)
@click.option("--report-captions", type=click.IntRange(1), default=2000, show_default=True,
              help="Behind every accuracy of the report.")  # fmt: skip
@click.option("--batch", type=click.IntRange(1), default=96, show_default=True,
              help="Captions of a step.")  # fmt: skip
@click.option("--lr", type=click.FloatRange(0, min_open=True), default=2e-3, show_default=True,
              help="Of AdamW; with --start less keeps more.")  # fmt: skip
@click.option("--muon-lr", type=click.FloatRange(0), default=0.0, show_default=True,
              help="Of the matrices; 0: AdamW for all.")  # fmt: skip
@device_option
def text(
    out: Path,
    threads: int,
    seed: int,
    resume: bool,
    edition: str,
    word_vectors: Path | None,
    start: Path | None,
    dictionary: Path | None,
    steps: int,
    captions: int,
    report_captions: int,
    batch: int,
    lr: float,
    muon_lr: float,
    device: str,
) -> None:
    """Train the text encoder; ends in OUT/text.safetensors and OUT/text.json.

    It takes minutes and starts anew each time; --resume keeps the word table that OUT holds.
    """
    from streamer.distill.edition import load_edition
    from streamer.distill.text_stage import TextOptions, TextTraining, train_text

    set_threads(threads)
    training = TextTraining(
        num_captions=captions,
        steps=steps,
        batch=batch,
        learning_rate=lr,
        muon_lr=muon_lr,
        report_captions=report_captions,
        seed=seed,
    )
    options = TextOptions(out, load_edition(edition), word_vectors, training, resume, device, start,
                          dictionary)  # fmt: skip
    with progress_bar() as show:
        report = train_text(options, lambda step, loss: show(step / steps, f"loss {loss:.3f}"))
    click.echo(json.dumps(report, indent=2))


@distill.command(cls=ClearCommand)
@training_options
@device_option
@edition_option
@click.option("--minutes", type=float, default=20.0, show_default=True)
@click.option("--crops", type=click.IntRange(1), default=6, show_default=True, help="Of a step.")
@click.option("--muon-lr", type=float, default=0.005, show_default=True)
@click.option("--start", type=PathType, help="Go on from an export; its latents stay the same.")
def vae(
    out: Path,
    threads: int,
    device: str,
    seed: int,
    resume: bool,
    edition: str,
    minutes: float,
    crops: int,
    muon_lr: float,
    start: Path | None,
) -> None:
    """Train the autoencoder; ends in OUT/export."""
    from streamer.distill.edition import load_edition
    from streamer.distill.trainer import TrainerConfig
    from streamer.distill.vae_stage import VAEStage, VAEStageConfig, WorldClips

    begin_run(out, threads, resume)
    settings = VAEStageConfig(crops=crops, muon_lr=muon_lr)
    clips = WorldClips(load_edition(edition), seed=seed, device=device)
    stage = VAEStage(clips, settings, device=device, seed=seed, start=start)
    run_stage(stage, TrainerConfig(out=out, seed=seed, max_seconds=minutes * 60), resume)


@distill.command(cls=ClearCommand)
@training_options
@device_option
@config_option
@click.option("--edition", type=click.Choice(EDITIONS), help="[default: the text encoder's]")
@click.option("--vae", "vae_dir", type=PathType, help="[default: the configuration's]")
@click.option("--text", "text_path", type=PathType, help="[default: the configuration's]")
@click.option("--shards", type=click.IntRange(1), default=64, show_default=True)
@click.option("--latents", type=click.IntRange(1), default=9, show_default=True, help="Of a clip.")
@click.option("--leaps", type=click.FloatRange(0, 1), default=0.0, show_default=True,
              help="Share of pieces from the middle that begin with the world's first block, for a "
              "student with a sink.")  # fmt: skip
def world(
    out: Path,
    threads: int,
    device: str,
    seed: int,
    resume: bool,
    source: str | None,
    edition: str | None,
    vae_dir: Path | None,
    text_path: Path | None,
    shards: int,
    latents: int,
    leaps: float,
) -> None:
    """Render clips with captions and keep their latents as shards, for the student."""
    from streamer.config import load_config, weights_path
    from streamer.distill.data import build_shards
    from streamer.distill.edition import find_edition
    from streamer.distill.world import Renderer
    from streamer.models.text import load_text_encoder
    from streamer.models.tiny_vae import load_vae

    set_threads(threads)
    config = load_config(source)
    model, stream = model_section(config), config.stream
    if not resume and any(out.glob("*.safetensors")):
        raise ConfigError(f"{out} holds shards already; add --resume, or choose another --out")
    text_file = text_path or weights_path(model.text.weights)
    encoder = load_text_encoder(text_file, device)
    known = {attribute.name: attribute.classes for attribute in encoder.config.attributes}
    world_edition = find_edition(known, str(text_file))
    if edition not in (None, world_edition.name):
        raise ConfigError(
            f"{text_file} reads the {world_edition.name} edition, not {edition}; "
            f"name another one with --text, or leave --edition out"
        )
    with progress_bar() as report:
        build_shards(
            out,
            Renderer(world_edition, device, stream.height, stream.width, stream.fps),
            load_vae(vae_dir or weights_path(model.decoder.weights), device),
            encoder,
            num_shards=shards,
            num_latents=latents,
            block=stream.num_frame_per_block,
            seed=seed,
            leap_share=leaps,
            on_progress=lambda done: report(done / (shards + 1), f"{done} shards"),
        )


@distill.command(cls=ClearCommand)
@training_options
@device_option
@config_option
@click.option("--shards", type=PathType, required=True, help="Folder made by `world`.")
@click.option("--vae", "vae_dir", type=PathType, help="[default: the configuration's]")
@click.option("--text", "text_path", type=PathType, help="[default: the configuration's]")
@click.option("--minutes", type=float, default=60.0, show_default=True)
@click.option("--clips", type=click.IntRange(1), default=6, show_default=True, help="Of a step.")
@click.option(
    "--beginnings",
    type=PathType,
    help="Folder made by `world --latents 3`.  [default: the first blocks of --shards]",
)
@click.option(
    "--beginning-share",
    type=click.FloatRange(0, 1),
    default=0.5,
    show_default=True,
    help="Share of steps on beginnings alone.",
)
@click.option("--resampled", type=click.FloatRange(0, 1), default=0.0, show_default=True,
              help="Share of steps whose history the student makes itself.")  # fmt: skip
@click.option("--resampled-times", type=click.FloatRange(1), default=6.0, show_default=True,
              help="Times it makes that of a clip, in the mean: each from the last.")  # fmt: skip
@click.option("--drifted", type=click.FloatRange(0, 1), default=0.0, show_default=True,
              help="Share of the others whose history shows what long streams end as.")  # fmt: skip
@click.option("--guidance", type=click.FloatRange(1), default=1.0, show_default=True,
              help="Fold guidance in, of the weights that --start names.")  # fmt: skip
@click.option("--start", type=PathType, help="Begin with the weights of an earlier export.")
@click.option("--canvas", "canvas_dir", type=PathType,
              help="Begin with the canvas of an export of `canvas`.")  # fmt: skip
@click.option("--bf16", is_flag=True, help="Compute in bfloat16.")
@click.option("--muon-lr", type=float, default=0.02, show_default=True)
@click.option("--adam-lr", type=float, default=2e-3, show_default=True)
def student(
    out: Path,
    threads: int,
    device: str,
    seed: int,
    resume: bool,
    source: str | None,
    shards: Path,
    vae_dir: Path | None,
    text_path: Path | None,
    minutes: float,
    clips: int,
    beginnings: Path | None,
    beginning_share: float,
    resampled: float,
    resampled_times: float,
    drifted: float,
    guidance: float,
    start: Path | None,
    canvas_dir: Path | None,
    bf16: bool,
    muon_lr: float,
    adam_lr: float,
) -> None:
    """Train the causal transformer on shards; ends in OUT/export."""
    from streamer.config import DEFAULT_CONFIG, load_config, weights_path
    from streamer.distill.student_stage import StudentOptions, StudentStageConfig, train_student

    model = model_section(load_config(source))
    if guidance != 1 and start is None:
        raise ConfigError("--guidance needs --start: weights that know the texts already")
    begin_run(out, threads, resume)
    options = StudentOptions(
        config=source or DEFAULT_CONFIG,
        shards=shards,
        vae=vae_dir or weights_path(model.decoder.weights),
        text=text_path or weights_path(model.text.weights),
        out=out,
        minutes=minutes,
        stage=StudentStageConfig(
            clips=clips,
            beginnings=6 * clips,
            beginning_share=beginning_share,
            resampled_share=resampled,
            resampled_times=resampled_times,
            drifted_share=drifted,
            guidance=guidance,
            muon_lr=muon_lr,
            adam_lr=adam_lr,
        ),
        beginnings=beginnings,
        start=start,
        canvas=canvas_dir,
        is_resumed=resume,
        threads=num_threads(),
        device=device,
        seed=seed,
        is_bf16=bf16,
    )
    train_student(options)


@distill.command(cls=ClearCommand)
@training_options
@device_option
@edition_option
@click.option("--start", type=PathType, help="Go on from an earlier judge's file.")
@click.option("--steps", type=click.IntRange(1), default=500, show_default=True)
def classifier(
    out: Path,
    threads: int,
    device: str,
    seed: int,
    resume: bool,
    edition: str,
    start: Path | None,
    steps: int,
) -> None:
    """Train the judge of `evaluate` on rendered clips; ends in OUT/export."""
    from streamer.distill.classifier import ClassifierStage
    from streamer.distill.edition import load_edition
    from streamer.distill.trainer import TrainerConfig

    begin_run(out, threads, resume)
    stage = ClassifierStage(load_edition(edition), device=device, seed=seed, start=start)
    config = TrainerConfig(
        out=out, seed=seed, max_steps=steps, ema_decay=0.98, checkpoint_every_s=60.0
    )
    run_stage(stage, config, resume)


# ---- export -------------------------------------------------------------------------------------


@distill.command(cls=ClearCommand)
@click.option("--to", "folder", type=PathType, required=True, help="Where the weights go.")
@click.option("--student", "student_run", type=PathType, help="Folder of the student's run.")
@click.option("--vae", "vae_run", type=PathType, help="Folder of the autoencoder's run.")
@click.option("--text", "text_run", type=PathType, help="Folder of the text encoder's run.")
@click.option("--classifier", "classifier_run", type=PathType, help="Folder of the judge's run.")
@click.option("--storage", type=click.Choice(["float32", "float16", "int8"]), default="float16",
              show_default=True, help="Of the transformer.")  # fmt: skip
@click.option("--most-mb", type=click.IntRange(1), default=16, show_default=True,
              help="Largest file of the transformer; more becomes several.")  # fmt: skip
def export(
    folder: Path,
    student_run: Path | None,
    vae_run: Path | None,
    text_run: Path | None,
    classifier_run: Path | None,
    storage: str,
    most_mb: int,
) -> None:
    """Copy the newest exports of some runs to where a configuration looks for them."""
    from streamer.distill.blueprint import transformer_files
    from streamer.distill.export import as_storage, check_files, copy_files, export_transformer

    finished: list[Path] = []
    if vae_run is not None:
        finished += [vae_run / "export" / name for name in ("vae.json", "vae.safetensors")]
    if text_run is not None:
        finished.append(text_run / "text.safetensors")
        if (listing := text_run / "vocabulary.json").exists():
            finished.append(listing)
    if classifier_run is not None:
        finished.append(classifier_run / "export" / "classifier.safetensors")
    check_files(finished)
    written: list[Path] = []
    if student_run is not None:
        sources = transformer_files(student_run / "export")
        written += export_transformer(sources, folder, as_storage(storage), most_mb)
    written += copy_files(finished, folder)
    if not written:
        raise ConfigError("nothing to export; name a run with --student, --vae, --text ...")
    for path in written:
        click.echo(f"{path}  {path.stat().st_size / 2**20:.2f} MB")
