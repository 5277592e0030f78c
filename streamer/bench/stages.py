"""Commands run one after the other under one deadline, none of which can spoil the others.

Each has a process group of its own, a limit, and files for what it prints; one that fails or hangs
is named, and the next one begins.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

Ending = Literal["done", "failed", "too long", "no time left"]

QUOTED_LINES = 3
WITHIN = "{within}"
MARGIN_S = 10.0
"""A stage should end by itself so long before it is killed."""
KILL_S = 5.0
LEAST_S = 1.0
"""With less left than this nothing is begun."""


@dataclass(frozen=True)
class Stage:
    """One command.

    about: for people.  command: the program and its arguments, in which WITHIN stands for the
    seconds after which it should end by itself.  printed: the file for its output, None where it
    writes one itself.  limit_s: killed after so long.  least_s: what is kept free for it by the
    stages before it.  num_tries: how often it may fail before the next one begins.
    """

    name: str
    about: str
    command: tuple[str, ...]
    limit_s: float
    least_s: float
    printed: str | None = None
    num_tries: int = 1


@dataclass(frozen=True)
class Outcome:
    """What became of a stage.  said: its last words, where it did not end well."""

    stage: Stage
    ending: Ending
    spent_s: float = 0.0
    said: str = ""

    def __str__(self) -> str:
        """A line."""
        told = f"{self.stage.name}: {self.ending}"
        if self.ending != "no time left":
            told += f" after {self.spent_s:.0f} s"
        return f"{told}: {self.said}" if self.said else told


def _learn_nothing(outcome: Outcome) -> str:
    return ""


def run_stages(
    stages: Sequence[Stage],
    out: Path,
    total_s: float,
    keep: Callable[[Sequence[Outcome]], None],
    *,
    environment: Mapping[str, str],
    on_failure: Callable[[Outcome], str] = _learn_nothing,
) -> list[Outcome]:
    """Run all, each in what is left of the time, and give what became of them.

    out: the folder for what they print.  keep: told after every stage.  environment: added to our
    own.  on_failure: called when a stage did not end well; says what was learnt from that, if
        anything.
    """
    until = time.monotonic() + total_s
    outcomes: list[Outcome] = []
    for index, stage in enumerate(stages):
        kept_free = sum(each.least_s for each in stages[index + 1 :])
        outcome = Outcome(stage, "no time left")
        for _ in range(stage.num_tries):
            left_s = until - time.monotonic()
            limit_s = min(stage.limit_s, max(stage.least_s, left_s - kept_free), left_s)
            if limit_s < LEAST_S:
                break
            outcome = _run(stage, out, limit_s, environment)
            if outcome.ending == "done":
                break
            if learnt := on_failure(outcome):
                outcome = replace(outcome, said=f"{outcome.said}; {learnt}")
            elif outcome.ending == "too long":
                break  # The next try would be no quicker.
        outcomes.append(outcome)
        keep(outcomes)
    return outcomes


def _run(stage: Stage, out: Path, limit_s: float, environment: Mapping[str, str]) -> Outcome:
    log, begun = out / f"{stage.name}.log", time.monotonic()
    with contextlib.ExitStack() as files:
        errors = files.enter_context(log.open("wb"))
        printed = files.enter_context((out / stage.printed).open("wb")) if stage.printed else errors
        within = f"{max(1.0, limit_s - MARGIN_S):.0f}"
        child = subprocess.Popen(
            [part.replace(WITHIN, within) for part in stage.command],
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=errors,
            env={**os.environ, **environment},
            start_new_session=True,
        )
        try:
            code: int | None = child.wait(limit_s)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end(child)
    spent_s = time.monotonic() - begun
    if code == 0:
        return Outcome(stage, "done", spent_s)
    said = _last_words(log)
    if code is None:
        return Outcome(stage, "too long", spent_s, said)
    return Outcome(stage, "failed", spent_s, f"exit code {code}: {said}")


def _end(child: subprocess.Popen[bytes]) -> None:
    """Whatever is left of a command and of what it has started."""
    for send, patience_s in ((signal.SIGTERM, KILL_S), (signal.SIGKILL, None)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, send)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(patience_s)
            if send is signal.SIGKILL:
                return


def _last_words(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return " / ".join(line.strip() for line in lines[-QUOTED_LINES:] if line.strip())
