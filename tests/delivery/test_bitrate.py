"""Who gets which rendition at what bitrate."""

import itertools

import pytest

from streamer.delivery.bitrate import (
    FLOOR_KBPS,
    MIN_SHARE,
    SMALL_SHARE,
    ViewerRate,
    line_kbps,
    small_size,
    usual_kbps,
)


def told(rate: ViewerRate, seconds: range, *, loss: float = 0.0, remb: float | None = None) -> str:
    """One report a second."""
    for now_s in seconds:
        rate.note_loss(now_s, loss)
        if remb is not None:
            rate.note_remb(now_s, remb)
    return rate.tier


def test_the_usual_bitrate_grows_with_size_and_rate_but_slower() -> None:
    small, middle, large = (
        usual_kbps(256, 160, 16),
        usual_kbps(832, 480, 24),
        usual_kbps(1280, 720, 24),
    )
    assert middle == 2000
    assert 300 < small < 500
    assert 2500 < large < middle * (1280 * 720) / (832 * 480)


@pytest.mark.parametrize(
    ("given", "wanted"), [((832, 480), (416, 240)), ((256, 160), (128, 80)), ((130, 134), (64, 66))]
)
def test_the_small_size_is_half_and_even(given: tuple[int, int], wanted: tuple[int, int]) -> None:
    assert small_size(*given) == wanted


def test_what_is_small_already_has_no_smaller_one() -> None:
    assert small_size(256, 96) is None
    assert told(ViewerRate(600, has_small=False), range(20), loss=0.5) == "full"


def test_a_single_bad_report_changes_nothing() -> None:
    rate = ViewerRate(1000)
    rate.note_loss(0, 0.9)
    assert told(rate, range(1, 20)) == "full"
    assert line_kbps("full", 1000, [rate.kbps]) == 1000


def test_five_percent_of_loss_is_no_reason_for_less() -> None:
    rate = ViewerRate(1000)
    assert told(rate, range(60), loss=0.05) == "full"
    assert line_kbps("full", 1000, [rate.kbps]) == 1000


def test_heavy_loss_that_lasts_means_the_small_rendition() -> None:
    assert told(ViewerRate(1000), range(3), loss=0.4) == "full"
    assert told(ViewerRate(1000), range(6), loss=0.4) == "small"


def test_a_low_estimate_counts_only_when_it_lasts_and_lies_below_what_is_sent() -> None:
    assert told(ViewerRate(1000), range(60), remb=1100) == "full"
    fleeting = ViewerRate(1000)
    fleeting.note_remb(0, 200)
    fleeting.note_remb(1, 1500)
    assert told(fleeting, range(2, 30)) == "full"
    lasting = ViewerRate(1000)
    assert told(lasting, range(8), remb=300) == "small"
    assert lasting.kbps <= 320


def test_a_low_estimate_of_a_quiet_stream_means_nothing() -> None:
    rate = ViewerRate(1000)
    for now_s in range(30):
        rate.note_remb(now_s, 80, sent_kbps=95)
    assert rate.tier == "full"
    assert rate.kbps > 1000
    for now_s in range(30, 40):
        rate.note_remb(now_s, 80, sent_kbps=900)
    assert rate.tier == "small"


def test_an_estimate_near_the_small_bitrate_does_not_hold_a_viewer_there() -> None:
    """A receiver estimates about what it receives, so the way up must be tried."""
    rate = ViewerRate(1000)
    told(rate, range(8), remb=300)
    for now_s in range(8, 30):
        rate.note_loss(now_s, 0.0)
        rate.note_remb(now_s, 1.4 * rate.tier_kbps)
    assert rate.tier == "full"


def test_the_way_up_is_tried_less_and_less_often_when_it_fails() -> None:
    rate, tries = ViewerRate(1000), []
    for now_s in range(400):
        before = rate.tier
        rate.note_loss(now_s, 0.4 if rate.tier == "full" else 0.0)
        if (before, rate.tier) == ("small", "full"):
            tries.append(now_s)
    gaps = [later - earlier for earlier, later in itertools.pairwise(tries)]
    assert len(tries) <= 6
    assert gaps == sorted(gaps)
    assert gaps[-1] > 4 * gaps[0]


def test_the_lowest_wish_counts_within_bounds() -> None:
    assert line_kbps("full", 1000, []) == 1000
    assert line_kbps("full", 1000, [1500, 800, 900]) == 800
    assert line_kbps("full", 1000, [100]) == MIN_SHARE * 1000
    assert line_kbps("small", 1000, [1500]) == SMALL_SHARE * 1000
    assert line_kbps("small", 1000, [10]) == FLOOR_KBPS
