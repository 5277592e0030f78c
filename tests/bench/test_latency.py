"""From a prompt to its picture through a real loop-back viewer; the pattern makes the pictures."""

import json

from click.testing import CliRunner

from streamer.cli import main


def test_every_prompt_is_seen_and_timed():
    arguments = ["bench", "latency", "--config", "pattern", "--prompts", "2", "--pause", "0.1"]
    ended = CliRunner().invoke(main, [*arguments, "--json"])
    assert ended.exit_code == 0, ended.output
    made = json.loads(ended.stdout)
    assert (made["model"], made["prompts"]) == ("pattern", 2)
    assert 0 < made["latency_s_p50"] <= made["latency_s_p90"] <= made["latency_s_max"] < 30
    assert made["first_picture_s"] > 0
    assert made["played_fps"] > 1
