"""`streamer bench delivery`: what viewers cost."""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING

import click

from streamer.commands.clearly import fails_clearly
from streamer.errors import ConfigError

if TYPE_CHECKING:
    from streamer.bench_delivery import DeliveryReport


@click.command(name="delivery")
@click.option(
    "--viewers",
    "first",
    type=click.IntRange(1, 1000),
    default=1,
    show_default=True,
    metavar="N ...",
    help="Numbers of viewers to measure, such as --viewers 1 8 32.",
)
@click.argument("others", nargs=-1, type=click.IntRange(1, 1000), metavar="")
@click.option("--size", default="832x480", show_default=True, metavar="WxH")
@click.option("--fps", default=24, show_default=True, type=click.IntRange(1, 60))
@click.option("--codec", default="H264", show_default=True, metavar="C", help="H264 or VP8.")
@click.option("--bitrate", type=click.IntRange(60, 50_000), metavar="KBPS", help="[default: usual]")
@click.option("--seconds", default=10.0, show_default=True, type=click.FloatRange(0.5, 600))
@click.option("--once/--compare", "is_once", help="Leave out one encoder per viewer.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
@fails_clearly
def bench_delivery(
    first: int,
    others: tuple[int, ...],
    size: str,
    fps: int,
    codec: str,
    bitrate: int | None,
    seconds: float,
    is_once: bool,
    as_json: bool,
) -> None:
    """Measure what viewers cost: one encoder for all, against one for each, in the same run."""
    from streamer.bench_delivery import bench_delivery as measure
    from streamer.delivery.encoder import CODECS

    known = next((each for each in CODECS if each.lower() == codec.lower()), None)
    if known is None:
        raise ConfigError(f"--codec {codec}: unknown; choose one of {', '.join(CODECS)}")
    made = asyncio.run(
        measure(
            (first, *others),
            _size(size),
            fps,
            known,
            seconds=seconds,
            bitrate_kbps=bitrate,
            compares=not is_once,
        )
    )
    click.echo(json.dumps(made.as_dict(), indent=2) if as_json else _table(made))


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{2,4})x(\d{2,4})", text)
    if match is None:
        raise ConfigError(f"--size {text}: cannot be read; write width x height, such as 832x480")
    return int(match[1]), int(match[2])


def _table(made: DeliveryReport) -> str:
    lines = [
        f"{made.size}, {made.fps} frames a second, {made.codec} by {made.encoder}, {made.machine}",
        "viewers  encoders  cores  ms/frame    sent   lost   kbit/s  keys  late p50  p99 ms    fps",
    ]
    for run in made.runs:
        for encoders, each in ((1, run), (run.viewers, run.encoder_each)):
            if each is not None:
                lines.append(
                    f"{run.viewers:7}  {encoders:8}  {each.cpu_cores:5.2f}  "
                    f"{each.cpu_ms_per_frame:8.1f}  {each.frames_sent:6}  {each.frames_lost:5}  "
                    f"{each.bitrate_kbps:7.0f}  {each.key_frames:4}  {each.lateness_ms_p50:8.0f}  "
                    f"{each.lateness_ms_p99:6.0f}  {each.played_fps:5.1f}"
                )
    return "\n".join(lines)
