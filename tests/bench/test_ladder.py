"""The predicted ladder: what was reached, what was missed, and where the time went."""

import pytest

from streamer.bench import ladder
from streamer.bench.ladder import LADDER, climb, explain
from streamer.bench.settings import Settings
from streamer.models.flops import pass_flops
from streamer.models.transformer import TransformerConfig


def test_every_rung_is_told_reached_missed_or_not_measured():
    first, second, third = (rung.name for rung in LADDER[:3])
    steps = {
        (step.window, step.rung.name): step
        for step in climb({(21, first): 24.6, (21, second): 28.0, (21, third): 20.0})
    }
    assert [steps[21, name].verdict for name in (first, second, third)] == [
        "reached",
        "within the uncertainty",
        "missed",
    ]
    assert steps[12, first].verdict == "not measured"
    assert str(steps[21, third]).endswith("predicted 33.3, measured 20.0 (-40 %): missed")
    assert str(steps[21, LADDER[-1].name]).endswith("not measured (the program has no such state)")


def test_every_rung_that_the_program_has_can_be_asked_for():
    for rung in LADDER:
        if rung.setting is not None:
            assert Settings.parse(rung.setting) != Settings()


@pytest.mark.parametrize("window", ladder.WINDOWS)
def test_the_counted_operations_are_those_of_the_model(window: int):
    tokens = 1560
    whole = pass_flops(TransformerConfig.wan_1_3b(), 3 * tokens, window * tokens) / 1e12
    text = 0.442
    parts = ladder.ATTENTION_TFLOP[window] + ladder.PRODUCTS_TFLOP + text
    assert whole == pytest.approx(parts, rel=2e-3)


def test_the_assumed_rates_make_the_predicted_rung():
    rung = LADDER[1]
    said = explain(21, 12_000 / rung.fps[21], 500.0, 620.0)
    assert said == (
        "window 21: 397 ms a block = attention 283 (assumed 283) + linear maps 94 (assumed 94) + "
        "all else 20 (assumed 20)"
    )
