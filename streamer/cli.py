"""The command line: wires the parts together.

Each command imports what it needs when it runs, so that `--help` answers at once.
"""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from streamer import __version__
from streamer.commands.bench import bench
from streamer.commands.clearly import fails_clearly
from streamer.commands.doctor import doctor
from streamer.commands.models import models
from streamer.commands.running import run_interruptibly
from streamer.commands.serving import serve_options, with_server
from streamer.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from streamer.config import Config
    from streamer.offline import Rendered, Score
    from streamer.stream import Prompt, Script

T = TypeVar("T")

CLIP_S = 8.0
"""Length of a clip when neither the command nor the configuration says one."""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="streamer")
def main() -> None:
    """Type a prompt, watch an endless video while it is being made, change it mid-stream."""


config_option = click.option(
    "--config",
    "source",
    metavar="NAME|FILE",
    help="A shipped configuration by name (storybook, pattern), a JSON file (one of LightX2V's, "
    "too), or a file of `streamer models convert`.",
)
model_path_option = click.option(
    "--model-path",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="The folder of the model's weights.  [default: where the configuration says]",
)


# ---- serve --------------------------------------------------------------------------------------


@main.command()
@config_option
@model_path_option
@click.option("--host", help="Address to bind.  [default: 127.0.0.1, this machine only]")
@click.option("--port", type=click.IntRange(0, 65535), help="Port; 0 takes a free one.")
@serve_options
@click.option("--open/--no-open", "open_page", default=False, help="Open the page in a browser.")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning"]), default="warning")
@fails_clearly
def serve(
    source: str | None,
    model_path: Path | None,
    host: str | None,
    port: int | None,
    open_page: bool,
    log_level: str,
    **delivery: Any,
) -> None:
    """Serve the page and the streams."""
    import logging

    from streamer.config import load_config
    from streamer.server.run import run_server

    logging.basicConfig(
        level=log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    config = load_config(source, model_path)
    config = with_server(config, host=host, port=port, **delivery)
    screen = ServeScreen(config.title or config.name, open_page)
    run_server(config, on_bound=screen.bound, on_progress=screen.loading)


class ServeScreen:
    """What `serve` prints: the address, the progress of loading, and that it is ready."""

    def __init__(self, title: str, open_page: bool) -> None:
        self._title = title
        self._open_page = open_page
        self._is_ready = False

    def bound(self, url: str) -> None:
        """The socket listens: the page can be opened while the model still loads."""
        click.echo(f"streamer {__version__} · {self._title}\n\n    {url}\n")
        if self._open_page:
            click.launch(url)

    def loading(self, progress: float, stage: str) -> None:
        """One line that grows; called on the event loop."""
        if self._is_ready:
            return
        self._is_ready = progress >= 1
        if sys.stdout.isatty():
            bar = "█" * round(progress * 24)
            click.echo(f"\r  {bar:<24} {progress:4.0%} {stage:<32}", nl=self._is_ready)
        if self._is_ready:
            click.echo("  ready; Ctrl-C stops it")


# ---- generate and replay ------------------------------------------------------------------------


@main.command()
@config_option
@model_path_option
@click.option("--prompt", required=True, help="What the stream begins with.")
@click.option(
    "--negative-prompt", help="What guidance leads away from; for models that are not distilled."
)
@click.option(
    "--prompt-at",
    "later",
    type=(float, str),
    multiple=True,
    metavar="SECONDS TEXT",
    help="Change the prompt at this time; may be given several times.",
)
@click.option(
    "--transition",
    type=click.Choice(["cut", "swap", "recache", "blend", "scene"]),
    help="How later prompts come in.  [default: the model's]",
)
@click.option("--blend-blocks", type=click.IntRange(1, 64), default=4, show_default=True)
@click.option(
    "--image",
    type=click.Path(path_type=Path),
    help="A picture to begin with; the clip goes on from it.",
)
@click.option(
    "--video",
    type=click.Path(path_type=Path),
    help="A clip to continue; what is written begins where it ends.",
)
@click.option("--seconds", type=float, help="Length of the clip.  [default: the model's, or 8]")
@click.option("--seed", type=click.IntRange(0, 2**53 - 1), help="[default: a new one]")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The MP4 to write.")
@click.option("--script", "script_out", type=click.Path(path_type=Path), help="Save the script.")
@click.option("--json", "as_json", is_flag=True, help="Print what was made as JSON.")
@fails_clearly
def generate(
    source: str | None,
    model_path: Path | None,
    prompt: str,
    negative_prompt: str | None,
    later: tuple[tuple[float, str], ...],
    transition: str | None,
    blend_blocks: int,
    image: Path | None,
    video: Path | None,
    seconds: float | None,
    seed: int | None,
    out: Path,
    script_out: Path | None,
    as_json: bool,
) -> None:
    """Write a clip, through the same code as a live stream."""
    from streamer.config import load_config
    from streamer.offline import score_from_prompts
    from streamer.pictures import read_opening
    from streamer.stream import Prompt, Script, StreamSpec, Transition, TransitionKind

    config = load_config(source, model_path)
    if negative_prompt is not None:
        config = with_negative_prompt(config, negative_prompt)
    way = Transition(TransitionKind(transition), blend_blocks) if transition else None
    prompts: list[tuple[float, Prompt]] = [(0.0, Prompt("p0", prompt))]
    prompts += [(at, Prompt(f"p{i}", text, way)) for i, (at, text) in enumerate(later, start=1)]
    section = config.stream
    if seconds is None:
        seconds = section.clip_frames / section.fps if section.clip_frames else CLIP_S
    score = score_from_prompts(section, prompts, seconds)
    spec = StreamSpec(
        model=config.name,
        seed=secrets.randbelow(2**32) if seed is None else seed,
        width=section.width,
        height=section.height,
        fps=section.fps,
    )
    pictures = read_opening(section, image, video)
    render_command(config, Script(spec), score, out, as_json, script_out, pictures)


def with_negative_prompt(config: Config, text: str) -> Config:
    """The configuration with another negative prompt; says so when the model has no use for it."""
    if config.model is None or config.model.sampler.guidance_scale == 1:
        click.echo(
            f"streamer: --negative-prompt has no effect: {config.name} asks its model once a step "
            "(guidance_scale 1, enable_cfg false)",
            err=True,
        )
        return config
    sampler = config.model.sampler.model_copy(update={"negative_prompt": text})
    return config.model_copy(update={"model": config.model.model_copy(update={"sampler": sampler})})


@main.command()
@click.argument("script", type=click.Path(path_type=Path))
@config_option
@model_path_option
@click.option("--seconds", type=float, help="[default: as long as the stream was]")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The MP4 to write.")
@click.option("--json", "as_json", is_flag=True, help="Print what was made as JSON.")
@fails_clearly
def replay(
    script: Path,
    source: str | None,
    model_path: Path | None,
    seconds: float | None,
    out: Path,
    as_json: bool,
) -> None:
    """Render again what a live stream showed, from its script."""
    from streamer.config import load_config
    from streamer.offline import score_from_script
    from streamer.stream import Script

    try:
        with script.open(encoding="utf-8") as file:
            recorded = Script.read(file, str(script))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{script}: cannot be read: {error}") from error
    config = load_config(source or recorded.spec.model, model_path)
    score = score_from_script(config, recorded, seconds)
    render_command(config, recorded, score, out, as_json, None)


def render_command(
    config: Config,
    script: Script,
    score: Score,
    out: Path,
    as_json: bool,
    script_out: Path | None,
    pictures: NDArray[np.uint8] | None = None,
) -> None:
    """Render a score into `out` with a progress bar, and say what was made.

    pictures: what the stream goes on from, when its script does not hold it yet.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from streamer.driver import StreamDriver
    from streamer.engine.handle import Engine
    from streamer.offline import ClipWriter, render_to_file

    driver: StreamDriver | None = None

    async def work() -> Rendered:
        nonlocal driver
        columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
        with (
            ClipWriter(out, script.spec.width, script.spec.height, script.spec.fps) as writer,
            Progress(*columns, console=Console(stderr=True)) as progress,
        ):
            task = progress.add_task("loading", total=1.0)
            engine = Engine(
                config,
                on_progress=lambda done, stage: progress.update(
                    task, completed=done, description=stage
                ),
            )
            try:
                await engine.start()
                spec = script.spec
                if pictures is not None:
                    spec = replace(spec, opening=await engine.encode(pictures))
                driver = StreamDriver(engine, spec, config.stream)
                progress.update(task, description="making", total=score.num_frames, completed=0)
                return await render_to_file(
                    driver, score, writer, lambda frames: progress.update(task, completed=frames)
                )
            finally:
                await engine.close()

    if script_out is not None:
        require_writable(script_out)
    made = run_interruptibly(work())
    assert driver is not None
    if script_out is not None:
        script_out.write_text("".join(f"{line}\n" for line in driver.script.lines()))
    report(made, driver.script, config, out, as_json)


def report(made: Rendered, script: Script, config: Config, out: Path, as_json: bool) -> None:
    """Print what was made: a line for people, or JSON."""
    from streamer.offline import frames_per_block
    from streamer.stream import Prompt

    fps = script.spec.fps
    block_s = frames_per_block(config.stream) / fps
    summary = {
        "out": str(out),
        "model": script.spec.model,
        "seed": script.spec.seed,
        "width": script.spec.width,
        "height": script.spec.height,
        "fps": fps,
        "frames": made.num_frames,
        "seconds": made.num_frames / fps,
        "blocks": made.num_blocks,
        "bytes": out.stat().st_size,
        "wall_s": round(made.wall_s, 3),
        "fps_generated": round(made.num_frames / made.wall_s, 2),
        "prompts": [
            {"at_s": block * block_s, "block": block, "text": event.text}
            for block, event in script.events
            if isinstance(event, Prompt)
        ],
    }
    if as_json:
        click.echo(json.dumps(summary, indent=2))
    else:
        click.echo(
            f"{out}: {summary['seconds']:.2f} s, {made.num_frames} frames of "
            f"{script.spec.width}x{script.spec.height}, seed {script.spec.seed}, "
            f"made at {summary['fps_generated']} frames a second"
        )


def require_writable(path: Path) -> None:
    """Raise OutputError unless a file can be made at `path`; leaves what is there alone."""
    from streamer.errors import OutputError

    try:
        with path.open("a", encoding="utf-8"):
            pass
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from error


class LazyGroup(click.Group):
    """A group whose commands are imported when one is used, since they need more than others."""

    def __init__(self, name: str, help_text: str, find: Callable[[], click.Group]) -> None:
        super().__init__(name, help=help_text)
        self._find = find

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the subcommands."""
        return self._find().list_commands(ctx)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """One subcommand."""
        return self._find().get_command(ctx, cmd_name)


def find_distill() -> click.Group:
    """The group `distill`, which needs the `distill` extra."""
    from streamer.distill.commands import distill

    return distill


main.add_command(
    LazyGroup("distill", "Train, evaluate and export the embedded model.", find_distill)
)
main.add_command(bench)
main.add_command(models)
main.add_command(doctor)


# ---- config -------------------------------------------------------------------------------------


@main.group(name="config")
def config_group() -> None:
    """Look at and check configurations."""


@config_group.command(name="schema")
@fails_clearly
def config_schema() -> None:
    """Print the JSON Schema of a configuration file."""
    from streamer.config import Config

    click.echo(json.dumps(Config.model_json_schema(), indent=2))


@config_group.command(name="show")
@click.argument("source", metavar="NAME|FILE", default="storybook")
@fails_clearly
def config_show(source: str) -> None:
    """Print a configuration with every default filled in."""
    from streamer.config import load_config

    click.echo(load_config(source).model_dump_json(indent=2))


@config_group.command(name="list")
@fails_clearly
def config_list() -> None:
    """List the shipped configurations."""
    from streamer.config import configs_dir, load_config

    for path in sorted(configs_dir().glob("*.json")):
        config = load_config(path)
        stream = config.stream
        size = f"{stream.width}x{stream.height}"
        click.echo(f"{config.name:<24} {size:>9}  {stream.fps} fps  {config.title}")
