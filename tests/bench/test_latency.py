"""From a prompt to its picture through a real loop-back viewer."""

import json

import pytest
from click.testing import CliRunner

from streamer.bench.loop_watch import LIMIT_MS
from streamer.cli import main


@pytest.mark.parametrize("model", ["pattern", pytest.param("storybook", marks=pytest.mark.slow)])
def test_every_prompt_is_seen_and_timed_and_the_loop_never_stands_still(model: str):
    """Its own work counts, in processor time: how busy the machine is says nothing of the loop."""
    arguments = ["bench", "latency", "--config", model, "--prompts", "2", "--pause", "0.1"]
    ended = CliRunner().invoke(main, [*arguments, "--json"])
    assert ended.exit_code == 0, ended.output
    made = json.loads(ended.stdout)
    assert (made["model"], made["prompts"]) == (model, 2)
    assert 0 < made["latency_s_p50"] <= made["latency_s_p90"] <= made["latency_s_max"] < 60
    assert made["first_picture_s"] > 0
    assert made["played_fps"] > 1
    assert 0 < made["loop_busy_ms"] < LIMIT_MS
    assert made["loop_late_ms"] > 0
