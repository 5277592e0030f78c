"""`streamer bench`: how fast a stream is made here, and whether that is good."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from streamer.commands.bench_delivery import bench_delivery
from streamer.commands.bench_gpu import bench_gpu
from streamer.commands.bench_latency import bench_latency
from streamer.commands.clearly import fails_clearly
from streamer.commands.running import run_interruptibly
from streamer.errors import ConfigError

if TYPE_CHECKING:
    from streamer.bench.run import Comparison, Flatness

BLOCKS, FLAT_BLOCKS = 40, 400


@click.group(name="bench", invoke_without_command=True)
@click.option(
    "--config",
    "--model",
    "source",
    metavar="NAME|FILE",
    help="What to measure.  [default: storybook]",
)
@click.option("--model-path", type=click.Path(path_type=Path), metavar="DIR")
@click.option("--window", type=click.IntRange(0), metavar="N", help="Latent frames; 0: no end.")
@click.option("--sink", type=click.IntRange(0), metavar="N", help="Latent frames kept for ever.")
@click.option("--steps", type=click.IntRange(1), metavar="N", help="So many of the model's steps.")
@click.option("--size", metavar="WxH", help="The picture, in pixels.")
@click.option("--decoder", metavar="KIND[=PATH]", help="tiny, wan, lightvae or taehv.")
@click.option(
    "--backend",
    type=click.Choice(["auto", "torch", "triton", "compile"]),
    help="Of the kernels.  compile: PyTorch's own compiler, for comparison.",
)
@click.option("--eight-bit", type=click.Choice(["fp8", "int8"]), help="Linear maps in eight bits.")
@click.option("--eight-bit-cache", type=click.Choice(["fp8", "int8"]), help="Keys and values, too.")
@click.option(
    "--fused/--no-fused",
    default=None,
    help="Whether a block ends and the next begins in one pass.  [default: on a GPU]",
)
@click.option("--graphs/--no-graphs", default=None, help="Whether a GPU replays recorded passes.")
@click.option("--random-weights", is_flag=True, default=None, help="Load no weights; draw them.")
@click.option(
    "--blocks",
    type=click.IntRange(3),
    metavar="N",
    help=f"Length of the stream.  [default: {BLOCKS}, or {FLAT_BLOCKS} with --flat]",
)
@click.option(
    "--within",
    type=click.FloatRange(1),
    metavar="SECONDS",
    help="Make no more blocks after so long, loading included.",
)
@click.option(
    "--compare",
    nargs=2,
    metavar="A B",
    help='Two settings by turns, such as --compare window=21 "window=12,eight_bit=fp8".',
)
@click.option("--flat", "is_flat", is_flag=True, help="Does time or memory grow with the stream?")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
@click.pass_context
@fails_clearly
def bench(
    context: click.Context,
    /,
    source: str | None,
    model_path: Path | None,
    blocks: int | None,
    within: float | None,
    compare: tuple[str, str] | None,
    is_flat: bool,
    as_json: bool,
    **changes: Any,
) -> None:
    """Measure how fast this machine makes a stream, decode included; what viewers cost; how soon a
    prompt is seen.
    """
    if context.invoked_subcommand is not None:
        return
    from streamer.bench import run
    from streamer.bench.report import BenchReport, text_table
    from streamer.bench.settings import Settings
    from streamer.config import load_config

    config, settings = load_config(source, model_path), Settings(**changes)
    limit_s = math.inf if within is None else within
    made: BenchReport | Comparison | Flatness
    if compare is not None and is_flat:
        raise ConfigError("--compare and --flat are two questions; ask one at a time")
    if within is not None and is_flat:
        raise ConfigError(
            "--within and --flat: a flat run is as long as --blocks says; leave --within out"
        )
    if compare is not None:
        first, second = (Settings.parse(text).over(settings) for text in compare)
        made = run_interruptibly(run.compare(config, (first, second), blocks or BLOCKS, limit_s))
        text = _comparison(made)
    elif is_flat:
        made = run_interruptibly(run.flat(config, settings, blocks or FLAT_BLOCKS))
        text = _flatness(made)
    else:
        made = run_interruptibly(run.bench(config, settings, blocks or BLOCKS, limit_s))
        text = text_table(made)
    click.echo(json.dumps(made.as_dict(), indent=2) if as_json else text)


def _comparison(made: Comparison) -> str:
    from streamer.bench.report import text_table

    return (
        f"A\n{text_table(made.first)}\n\nB\n{text_table(made.second)}\n\n"
        f"B makes {made.ratio:.2f} times the frames of A ({made.ratio_p90:.2f} by the slower "
        f"blocks), made by turns."
    )


def _flatness(made: Flatness) -> str:
    ending = "neither grows" if made.is_flat else "it GROWS"
    return (
        f"blocks      {made.blocks}\n"
        f"block       {made.early_ms} ms early, {made.late_ms} ms late ({made.time_growth:+.1%})\n"
        f"memory      {made.early_mb} MB early, {made.late_mb} MB late "
        f"({made.memory_growth:+.1%})\n"
        f"Time and memory of a block, early and late in one stream: {ending}."
    )


bench.add_command(bench_delivery)
bench.add_command(bench_gpu)
bench.add_command(bench_latency)
