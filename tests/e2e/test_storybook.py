"""The embedded model in a real browser: three prompts in a row, and a worker that dies."""

from __future__ import annotations

from itertools import pairwise

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.slow]

PROMPTS = ("green hills on a sunny day", "the ocean at sunset", "snow in the city at night")
MAKING_S = 90.0
"""The model computes: a machine that has other work, too, may take so long for a few blocks."""
CHANGED = 12
"""Mean difference of two pictures, of 255, between one scene and another."""


def mean_colour(pixels: list[int]) -> tuple[float, float, float]:
    """Mean red, green and blue of what `Visitor.look` saw."""
    count = len(pixels) // 4
    red, green, blue = (sum(pixels[channel::4]) / count for channel in range(3))
    return red, green, blue


@pytest.mark.timeout(600)
def test_three_prompts_steer_one_stream_and_a_killed_worker_does_not_end_it(start_server, visit):
    server = start_server(config="storybook")
    visitor = visit().open(server.url, until=None)
    visitor.until_phase("ready", within_s=MAKING_S)
    looks = []
    for number, prompt in enumerate(PROMPTS):
        visitor.type_prompt(prompt)
        if number == 0:
            visitor.until_playing(MAKING_S)
        else:
            visitor.until("streamer.state().notice?.text.startsWith('changed')", MAKING_S)
        # Two more blocks: the scene has settled under the new prompt.
        visitor.until("streamer.stats().server")
        block = visitor.ask("streamer.stats().server.block")
        visitor.until(f"streamer.stats().server.block >= {block + 4}", MAKING_S)
        looks.append(visitor.look())
        visitor.page.mouse.move(300, 300 + number)
        visitor.shoot(f"storybook-{number}")
    for before, after in pairwise(looks):
        assert sum(abs(a - b) for a, b in zip(before, after, strict=True)) / len(after) > CHANGED
    day, sunset, night = (mean_colour(look) for look in looks)
    assert day[1] > day[0], "a sunny meadow is greener than it is red"
    assert sunset[0] > day[0] or sunset[0] > sunset[1], "a sunset is redder"
    assert sum(night) < sum(day), "night is darker than day"

    visitor.note_phases()
    server.kill_worker()
    visitor.until_noted("restoring", within_s=MAKING_S)
    visitor.until_playing(MAKING_S)
    after = mean_colour(visitor.look())
    assert sum(after) < sum(day), "it is still night"
    assert visitor.problems == []
