import io

import numpy as np
import pytest

from streamer.errors import ConfigError, PromptError
from streamer.stream import (
    PROMPT_LIMIT,
    Economy,
    Ended,
    History,
    Prompt,
    Reseed,
    Restored,
    Script,
    StreamSpec,
    Transition,
    TransitionKind,
    begins_anew,
)

SPEC = StreamSpec("pattern", 7, 64, 64, 16)


def full_script() -> Script:
    script = Script(SPEC)
    script.append(0, Prompt("a", "red", Transition(TransitionKind.SWAP)))
    script.append(3, Prompt("b", "grün — näher", Transition(TransitionKind.BLEND, 4)))
    script.append(3, Restored())
    script.append(5, Reseed(9))
    script.append(6, Economy(decoder=True, steps=True))
    script.append(7, Economy())
    script.append(8, Ended())
    return script


def text_of(script: Script) -> str:
    return "".join(f"{line}\n" for line in script.lines())


def test_a_script_reads_back_what_it_wrote():
    script = full_script()
    read = Script.read(io.StringIO(text_of(script)))
    assert read.spec == script.spec
    assert read.events == script.events


def test_a_script_whose_last_line_was_cut_off_keeps_the_rest():
    text = text_of(full_script()).rstrip("\n")[:-5]
    assert Script.read(io.StringIO(text)).events == full_script().events[:-1]


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ("", "empty"),
        ('{"type": "prompt"}\n', "line 1"),
        ('{"type": "spec", "version": 99}\n', "version 99"),
        (text_of(Script(SPEC)) + '{"type": "wave", "block": 1}\n', "unknown event 'wave'"),
        (text_of(Script(SPEC)) + '{"type": "reseed", "block": -1, "seed": 1}\n', "block is -1"),
        (text_of(Script(SPEC)).replace("64", '"x"', 1), "width is 'x'"),
        (
            text_of(Script(SPEC))
            + '{"type": "economy", "block": 1, "decoder": 1, "steps": true}\n',
            "decoder is 1; it must be true or false",
        ),
        (text_of(Script(SPEC)) + '{"type": "reseed", "block": 1, "seed": "x"}\n', "seed is 'x'"),
        (
            text_of(Script(SPEC))
            + '{"type": "prompt", "block": 0, "id": "a", "text": "x", "transition": "cut"}\n',
            "transition is 'cut'",
        ),
        (text_of(Script(SPEC)) + "nonsense\n" + text_of(Script(SPEC)), "line 2"),
    ],
)
def test_a_broken_script_is_refused_with_file_and_line(broken: str, says: str):
    with pytest.raises(ConfigError, match=says) as error:
        Script.read(io.StringIO(broken), "my.jsonl")
    assert "my.jsonl" in str(error.value)


def test_events_are_found_by_block_and_only_appended():
    script = full_script()
    assert [type(event) for event in script.at(3)] == [Prompt, Restored]
    assert script.prompt_before(0) is None
    before = script.prompt_before(3)
    assert before is not None
    assert before.id == "a"
    assert [block for block, _ in script.prompts_before(6)] == [0, 3]
    with pytest.raises(ValueError, match="comes before"):
        script.append(2, Reseed(1))


@pytest.mark.parametrize("text", ["", " \n\t", "x" * (PROMPT_LIMIT + 1)])
def test_empty_and_endless_prompts_are_refused(text: str):
    with pytest.raises(PromptError):
        Prompt("a", text)


def test_history_keeps_the_sink_and_the_last_window():
    history = History(window=9, sink=3)
    for index in range(8):
        history.add(index, np.full((3, 1, 1, 1), index, np.float32))
    assert [index for index, _ in history.kept()] == [0, 5, 6, 7]
    history.restart()
    assert history.kept() == ()


def test_history_without_a_window_keeps_everything():
    history = History(window=0, sink=0)
    for index in range(8):
        history.add(index, np.zeros((3, 1, 1, 1), np.float32))
    assert len(history.kept()) == 8


def test_only_cuts_scenes_and_new_seeds_begin_anew():
    ways = {kind: begins_anew(Prompt("a", "x", Transition(kind))) for kind in TransitionKind}
    assert {kind for kind, anew in ways.items() if anew} == {
        TransitionKind.CUT,
        TransitionKind.SCENE,
    }
    assert begins_anew(Reseed(1))
    assert not begins_anew(Restored())
