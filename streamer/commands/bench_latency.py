"""`streamer bench latency`: how soon a prompt is seen."""

from __future__ import annotations

import json
from pathlib import Path

import click

from streamer.commands.clearly import fails_clearly
from streamer.commands.running import run_interruptibly


@click.command(name="latency")
@click.option("--config", "--model", "source", metavar="NAME|FILE")
@click.option("--model-path", type=click.Path(path_type=Path), metavar="DIR")
@click.option("--prompts", default=6, show_default=True, type=click.IntRange(1, 1000))
@click.option("--pause", default=1.0, show_default=True, type=click.FloatRange(0, 60), metavar="S")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
@fails_clearly
def bench_latency(
    source: str | None, model_path: Path | None, prompts: int, pause: float, as_json: bool
) -> None:
    """Measure how soon a prompt is seen by a viewer on this machine."""
    from streamer.bench.latency import bench_latency as measure
    from streamer.config import load_config

    made = run_interruptibly(measure(load_config(source, model_path), prompts, pause))
    if as_json:
        click.echo(json.dumps(made.as_dict(), indent=2))
        return
    click.echo(
        f"{made.model}: {made.prompts} prompts, seen after {made.latency_s_p50} s in the median, "
        f"{made.latency_s_p90} p90, {made.latency_s_max} at worst\n"
        f"first picture {made.first_picture_s} s after the stream began; {made.played_fps} "
        f"pictures a second came\n"
        f"the event loop stood still for {made.loop_late_ms} ms at most, {made.loop_busy_ms} ms of "
        f"that by its own work\n{made.verdict}"
    )
