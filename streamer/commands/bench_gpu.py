"""`streamer bench gpu`: the whole measurement of a GPU, unattended."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import click

from streamer.commands.clearly import fails_clearly
from streamer.errors import ConfigError

SEES_GPU = "import torch; raise SystemExit(not torch.cuda.is_available())"
"""In a process of its own: this one never imports torch."""


@click.command(name="gpu")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("artefacts/bench-gpu"),
    show_default=True,
    help="The folder for what is found.",
)
@click.option(
    "--within",
    type=click.FloatRange(10),
    metavar="SECONDS",
    help="All of it.  [default: 530, under nine minutes]",
)
@fails_clearly
def bench_gpu(out: Path, within: float | None) -> None:
    """Kernels, decoders and blocks of the 1.3B and 14B models with random weights, against what was
    predicted.

    Every stage is a process of its own: one that fails or hangs is named, and the next one begins.
    """
    # A time limit from outside ends what was started, too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    seen = subprocess.run([sys.executable, "-c", SEES_GPU], stderr=subprocess.DEVNULL, check=False)
    if seen.returncode != 0:
        raise ConfigError(
            "there is no CUDA device here; `streamer bench` measures a processor, and "
            "`python -m streamer_kernels.check` compiles the kernels"
        )
    from streamer.bench.findings import report
    from streamer.bench.gpu import ENOUGH_S
    from streamer.bench.gpu import bench_gpu as measure

    outcomes = measure(out, within or ENOUGH_S)
    click.echo(report(out, outcomes), nl=False)
    if any(each.ending != "done" for each in outcomes):
        raise SystemExit(1)
