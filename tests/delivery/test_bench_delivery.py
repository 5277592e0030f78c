"""The figures of `streamer bench delivery`: the run itself is real, and small."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from click.testing import CliRunner

from streamer import bench_delivery
from streamer.bench_delivery import panning_pictures
from streamer.cli import main


def measured(*arguments: str) -> dict[str, Any]:
    command = ["bench", "delivery", "--size", "128x96", "--fps", "12", "--seconds", "1", "--json"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench_delivery, "SETTLE_S", 0.2)
        ended = CliRunner().invoke(main, [*command, *arguments])
    assert ended.exit_code == 0, ended.output
    report: dict[str, Any] = json.loads(ended.stdout)
    for run in report["runs"]:
        assert run["cpu_cores"] > 0
        assert run["frames_sent"] == 12 * run["viewers"]
        assert run["frames_lost"] <= run["frames_sent"] // 4
        assert run["bitrate_kbps"] > 10
        assert 0 <= run["lateness_ms_p50"] <= run["lateness_ms_p99"]
    return report


@pytest.mark.slow
def test_one_encoder_and_one_for_each_are_measured_in_the_same_run() -> None:
    (run,) = measured("--viewers", "3")["runs"]
    assert run["viewers"] == 3
    assert run["encoder_each"]["frames_sent"] == run["frames_sent"]


@pytest.mark.slow
def test_several_numbers_of_viewers_are_measured_in_turn() -> None:
    report = measured("--viewers", "1", "2", "--codec", "VP8", "--once")
    assert [run["viewers"] for run in report["runs"]] == [1, 2]
    assert (report["codec"], report["encoder"]) == ("VP8", "libvpx")
    assert report["runs"][0]["encoder_each"] is None


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--size", "big"], "--size big"),
        (["--codec", "AV1"], "--codec AV1"),
        (["--size", "127x96"], "127x96"),
    ],
)
def test_what_cannot_be_measured_is_named(arguments: list[str], named: str) -> None:
    ended = CliRunner().invoke(main, ["bench", "delivery", "--viewers", "1", *arguments])
    assert ended.exit_code == 2
    assert named in ended.stderr


def test_the_pictures_move_and_loop() -> None:
    pictures = panning_pictures(128, 96)
    assert pictures[0].shape == (96, 128, 3)
    changed = [(a != b).mean() for a, b in itertools.pairwise(pictures)]
    assert min(changed) > 0.5
