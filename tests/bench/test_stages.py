"""Commands under one deadline, which cannot spoil each other."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import pytest

from streamer.bench.stages import WITHIN, Outcome, Stage, run_stages


def stage(name: str, code: str, **changes: object) -> Stage:
    command = (sys.executable, "-c", code, WITHIN)
    values = {"limit_s": 30.0, "least_s": 0.0, "printed": f"{name}.json"} | changes
    return Stage(name, f"about {name}", command, **values)  # type: ignore[arg-type]


def learn_nothing(outcome: Outcome) -> str:
    return ""


def run(
    out: Path,
    *stages: Stage,
    total_s: float = 60.0,
    on_failure: Callable[[Outcome], str] = learn_nothing,
) -> tuple[list[Outcome], list[list[str]]]:
    kept: list[list[str]] = []

    def keep(outcomes: Sequence[Outcome]) -> None:
        kept.append([each.ending for each in outcomes])

    outcomes = run_stages(
        stages, out, total_s, keep, environment={"TOLD": "here"}, on_failure=on_failure
    )
    return outcomes, kept


def has_ended(number: int) -> bool:
    """Whether a process has, though perhaps nobody has asked how."""
    try:
        return psutil.Process(number).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_what_fails_is_named_and_the_next_one_begins(tmp_path: Path):
    fail = "import sys; print('half', flush=True); sys.exit('no such kernel')"
    outcomes, kept = run(
        tmp_path,
        stage("bad", fail),
        stage("good", "import os; print(os.environ['TOLD'])"),
    )
    assert [(each.ending, each.said) for each in outcomes] == [
        ("failed", "exit code 1: no such kernel"),
        ("done", ""),
    ]
    assert kept == [["failed"], ["failed", "done"]]
    # What it printed before it failed is there.
    assert (tmp_path / "bad.json").read_text() == "half\n"
    assert (tmp_path / "good.json").read_text() == "here\n"


def test_an_outcome_is_a_line():
    asked = stage("bad", "")
    assert str(Outcome(asked, "failed", 61.4, "exit code 1: so")) == (
        "bad: failed after 61 s: exit code 1: so"
    )
    assert str(Outcome(asked, "done", 3.0)) == "bad: done after 3 s"
    assert str(Outcome(asked, "no time left")) == "bad: no time left"


def test_what_hangs_is_killed_with_all_that_it_started(tmp_path: Path):
    far = "import time; print('ready', flush=True); time.sleep(600)"
    hang = (
        "import subprocess, sys, time;"
        f"far = subprocess.Popen([sys.executable, '-c', {far!r}], stdout=subprocess.PIPE);"
        "far.stdout.readline(); print(far.pid, flush=True);"
        "print('waiting', file=sys.stderr, flush=True); time.sleep(600)"
    )
    begun = time.monotonic()
    outcomes, _ = run(tmp_path, stage("hangs", hang, limit_s=10.0), stage("good", "print(1)"))
    assert time.monotonic() - begun < 60
    assert [each.ending for each in outcomes] == ["too long", "done"]
    assert outcomes[0].said == "waiting"
    number = int((tmp_path / "hangs.json").read_text())
    assert has_ended(number)


def test_time_is_kept_free_for_what_comes_later(tmp_path: Path):
    outcomes, _ = run(
        tmp_path,
        stage("greedy", "import time; time.sleep(600)", limit_s=600.0, least_s=1.0),
        stage("later", "print(1)", least_s=6.0),
        total_s=8.0,
    )
    assert [each.ending for each in outcomes] == ["too long", "done"]
    assert outcomes[0].spent_s < 5


def test_when_the_time_is_over_nothing_begins(tmp_path: Path):
    outcomes, _ = run(tmp_path, stage("late", "print(1)"), total_s=0.0)
    assert [str(each) for each in outcomes] == ["late: no time left"]


def test_a_command_is_told_when_it_should_end(tmp_path: Path):
    run(tmp_path, stage("told", "import sys; print(sys.argv[1])", limit_s=30.0))
    assert (tmp_path / "told.json").read_text() == "20\n"


@pytest.mark.parametrize(
    ("learnt", "said"), [("", "exit code 1: "), ("left out", "exit code 1: ; left out")]
)
def test_a_failure_is_tried_again_as_often_as_is_said(tmp_path: Path, learnt: str, said: str):
    count = "open('tries', 'a').write('x'); raise SystemExit(1)"
    code = f"import os; os.chdir({str(tmp_path)!r}); {count}"
    outcomes, _ = run(tmp_path, stage("bad", code, num_tries=2), on_failure=lambda outcome: learnt)
    assert (tmp_path / "tries").read_text() == "xx"
    assert (outcomes[0].ending, outcomes[0].said) == ("failed", said)


def test_what_took_too_long_is_tried_again_only_if_something_was_learnt(tmp_path: Path):
    code = (
        f"import os, time; os.chdir({str(tmp_path)!r}); open('tries', 'a').write('x');"
        "time.sleep(600)"
    )
    bad = stage("bad", code, num_tries=2, limit_s=2.0)
    run(tmp_path, bad)
    assert (tmp_path / "tries").read_text() == "x"
    run(tmp_path, bad, on_failure=lambda outcome: "a backend is left out")
    assert (tmp_path / "tries").read_text() == "xxx"
