import pytest

from streamer.engine.steering import NO_TEXT, Steering
from streamer.stream import (
    Economy,
    Prompt,
    Reseed,
    Restored,
    Script,
    StreamSpec,
    Transition,
    TransitionKind,
)

SWAP = Transition(TransitionKind.SWAP)
SPEC = StreamSpec("tiny", 5, 64, 64, 16)


def blend(blocks: int) -> Transition:
    return Transition(TransitionKind.BLEND, blocks)


def weights(steering: Steering, block: int) -> dict[str, float]:
    return dict(steering.mixture(block))


def test_what_is_saved_holds_until_it_is_changed():
    script = Script(SPEC, [(0, Prompt("a", "red")), (2, Economy(steps=True)), (3, Reseed(9))])
    script.append(5, Economy())
    savings = [Steering.at(script, block, SWAP).economy.steps for block in (2, 3, 5, 6)]
    assert savings == [False, True, True, False]


def test_before_the_first_prompt_there_is_no_text():
    steering = Steering(5, SWAP)
    assert steering.mixture(0) == NO_TEXT
    assert steering.prompt_id == ""


def test_a_swap_holds_from_its_own_block_on():
    steering = Steering(5, SWAP)
    steering.apply(0, Prompt("a", "red"))
    steering.apply(3, Prompt("b", "blue"))
    assert steering.mixture(2) == (("red", 1.0),)
    assert steering.mixture(3) == (("blue", 1.0),)
    assert steering.prompt_id == "b"


def test_a_blend_moves_from_its_first_block_and_arrives_with_its_last():
    steering = Steering(5, SWAP)
    steering.apply(0, Prompt("a", "red"))
    steering.apply(4, Prompt("b", "blue", blend(4)))
    assert weights(steering, 4) == pytest.approx({"red": 0.75, "blue": 0.25})
    assert weights(steering, 6) == pytest.approx({"red": 0.25, "blue": 0.75})
    assert weights(steering, 7) == {"blue": 1.0}
    assert weights(steering, 900) == {"blue": 1.0}


def test_a_blend_that_interrupts_a_blend_starts_from_what_was_shown():
    steering = Steering(5, SWAP)
    steering.apply(0, Prompt("a", "red"))
    steering.apply(2, Prompt("b", "blue", blend(4)))
    steering.apply(4, Prompt("c", "snow", blend(2)))
    assert weights(steering, 4) == pytest.approx({"red": 0.25, "blue": 0.25, "snow": 0.5})
    assert weights(steering, 5) == {"snow": 1.0}


def test_the_first_prompt_has_nothing_to_blend_with():
    steering = Steering(5, SWAP)
    steering.apply(0, Prompt("a", "red", blend(8)))
    assert steering.mixture(0) == (("red", 1.0),)


def test_weights_always_add_up_to_one():
    steering = Steering(5, SWAP)
    for block in range(0, 30, 2):
        steering.apply(block, Prompt(str(block), f"text {block % 6}", blend(5)))
        assert sum(weight for _, weight in steering.mixture(block)) == pytest.approx(1.0)


@pytest.mark.parametrize("block", [0, 1, 3, 5, 9, 20])
def test_a_script_gives_at_every_block_what_its_events_gave_one_by_one(block: int):
    script = Script(SPEC)
    grown = Steering(SPEC.seed, SWAP)
    for index, event in [
        (0, Prompt("a", "red")),
        (2, Prompt("b", "blue", blend(6))),
        (4, Reseed(77)),
        (4, Prompt("c", "snow", blend(3))),
        (8, Restored()),
        (9, Prompt("d", "sea", Transition(TransitionKind.CUT))),
    ]:
        script.append(index, event)
        if index < block:
            grown.apply(index, event)
    found = Steering.at(script, block, SWAP)
    assert found == grown
    assert found.seed == (77 if block > 4 else 5)
