"""What is wanted of a stream, until it is on the screen."""

from __future__ import annotations

import numpy as np
import pytest

from streamer.changes import HISTORY_LIMIT, Changes
from streamer.pacing import TimedFrame
from streamer.stream import BlockTimings, Economy, FrameBlock, Prompt, Reseed

FIRST, SNOW, NIGHT = Prompt("p1", "a hill"), Prompt("p2", "snow"), Prompt("p3", "night")


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def block_of(index: int, **timings: float) -> FrameBlock:
    pixels, latents = np.zeros((12, 2, 2, 3), np.uint8), np.zeros(0, np.float32)
    return FrameBlock(index, 12 * index, pixels, latents, "p", timings=BlockTimings(**timings))


def frame_of(block: int) -> TimedFrame:
    return TimedFrame(np.zeros((2, 2, 3), np.uint8), 12 * block, block, "p", 9000 * block)


def test_the_newest_wish_of_each_kind_is_taken_once() -> None:
    changes = Changes(FIRST, 7)
    changes.want_prompt(SNOW)
    changes.want_prompt(NIGHT)
    changes.want_seed(8)
    changes.want_seed(9)
    changes.want_economy(Economy(True, False))
    assert changes.take(0) == [Economy(True, False), NIGHT, Reseed(9)]
    assert changes.take(1) == []
    assert (changes.prompt, changes.seed, changes.seed_shown) == (NIGHT, 9, 7)


def test_the_stages_of_a_prompt_add_up_to_its_whole_way() -> None:
    clock = Clock()
    changes = Changes(FIRST, 7, clock=clock)
    clock.now_s += 0.3
    changes.take(0)
    clock.now_s += 0.5
    changes.note_made(block_of(0, text_ms=20.0, decode_ms=80.0))
    clock.now_s += 0.25
    shown = changes.prompt_shown_with(frame_of(0), encode_s=0.05)
    assert shown is not None
    stages = shown.stages
    assert (stages.wait_s, stages.text_s, stages.block_s) == pytest.approx((0.3, 0.02, 0.4))
    assert (stages.decode_s, stages.queue_s, stages.encode_s) == pytest.approx((0.08, 0.2, 0.05))
    whole_s = sum(vars(stages).values())
    assert whole_s == pytest.approx(clock.now_s - 100.0)


def test_decoding_beside_other_work_leaves_no_stage_below_zero() -> None:
    changes = Changes(FIRST, 7, clock=Clock())
    changes.take(0)
    changes.note_made(block_of(0, decode_ms=80.0))
    shown = changes.prompt_shown_with(frame_of(0), encode_s=0.05)
    assert shown is not None
    assert min(vars(shown.stages).values()) == 0.0


def test_of_prompts_whose_blocks_were_skipped_only_the_newest_is_shown() -> None:
    changes = Changes(FIRST, 7)
    changes.take(0)
    changes.want_prompt(SNOW)
    changes.take(1)
    changes.want_prompt(NIGHT)
    changes.take(2)
    shown = changes.prompt_shown_with(frame_of(1), 0.0)
    assert shown is not None
    assert shown.prompt == SNOW
    assert changes.prompt_shown_with(frame_of(1), 0.0) is None
    assert [each.prompt for each in changes.shown] == [SNOW]


def test_a_seed_is_shown_with_the_first_frame_of_its_block() -> None:
    changes = Changes(FIRST, 7)
    changes.want_seed(9)
    changes.take(3)
    assert changes.seed_shown_with(frame_of(2)) is None
    shown = changes.seed_shown_with(frame_of(3))
    assert shown is not None
    assert (shown.seed, shown.block, shown.frame, changes.seed_shown) == (9, 3, 36, 9)


def test_the_history_is_bounded() -> None:
    changes = Changes(FIRST, 7)
    for index in range(HISTORY_LIMIT + 5):
        changes.want_prompt(Prompt(f"p{index}", "snow"))
        changes.take(index)
        changes.prompt_shown_with(frame_of(index), 0.0)
    assert len(changes.shown) == HISTORY_LIMIT
