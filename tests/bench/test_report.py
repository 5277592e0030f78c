"""What figures mean."""

import pytest

from streamer.bench.report import Stages, percentile, share_of_rate, verdict
from streamer.engine.figures import ModelFigures

STAGES = Stages(
    text_ms=1.0,
    steps_ms=(20.0, 20.0),
    clean_pass_ms=20.0,
    decode_ms=30.0,
    copy_ms=5.0,
    hand_over_ms=5.0,
    encode_ms=9.0,
)


def test_the_share_is_that_of_the_machines_own_rate():
    figures = ModelFigures("x", pass_flops=2e12, num_passes=5, matrix_flops_per_s=100e12)
    assert share_of_rate(figures, 200.0) == (pytest.approx(50.0), pytest.approx(0.5))
    assert share_of_rate(ModelFigures("pattern"), 200.0) == (0.0, 0.0)


def test_the_verdict_answers_in_one_sentence():
    assert verdict(5.3, 0.61, STAGES, 100.0, False) == (
        "5.3x real time; the passes reach 61 % of this machine's matrix rate and take 60 % of a "
        "block; most of the rest is decoding, 30 %."
    )


def test_the_verdict_says_when_it_is_too_slow_and_what_runs_beside():
    said = verdict(0.7, 0.61, STAGES, 60.0, True)
    assert said.startswith("0.7x real time, too slow to play without pauses;")
    assert said.endswith("most of the rest is decoding, 50 % beside them.")


def test_without_a_model_there_is_nothing_to_divide_by():
    assert verdict(40.0, 0.0, STAGES, 100.0, False) == "40.0x real time."


def test_percentiles_interpolate():
    values = [float(value) for value in range(101)]
    assert percentile(values, 0.99) == pytest.approx(99.0)
    assert percentile([1.0, 3.0], 0.5) == pytest.approx(2.0)
    assert percentile([7.0], 0.9) == 7.0
