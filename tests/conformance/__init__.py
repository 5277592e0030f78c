"""Conformance: the recorded cases of the reference implementations against this project.

    python -m tests.conformance DIR [--json]

runs every case file of a folder, prints case, worst difference, pass or fail, and exits non-zero on
a fail.  A case that it cannot run counts as a fail.  Only a case whose sheet calls it informative
(a fault of a reference, recorded so that it can be recognised) is run and counts for nothing.
Adding a kind of case is one module with
`run(case) -> list[Difference]` and one line in RUNNERS.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import torch

from tests.conformance.casefile import CaseFile, Difference, load_case

# The kind of a case is its name up to the first underscore; the longest matching beginning counts.
RUNNERS = {
    "a": "tests.conformance.bidirectional",
    "a2": "tests.conformance.procedural",
    "b": "tests.conformance.rollout",
    "c": "tests.conformance.fragments",
    "d": "tests.conformance.rollout",
    "e": "tests.conformance.wan_vae",
    "f": "tests.conformance.taehv",
    "g": "tests.conformance.umt5",
    "h": "tests.conformance.scheduler",
    "q": "tests.conformance.rollout",
}

INFORMATIVE = "REFERENCE ARTEFACT"
"""How the sheet of a case that is no criterion begins to describe it."""


class Runner(Protocol):
    """A module that runs one kind of case."""

    def run(self, case: CaseFile) -> list[Difference]:
        """Compute the case and compare every recorded result."""


@dataclass(frozen=True)
class Verdict:
    """What became of one case.

    worst: the difference that comes closest to failing; None when it could not run.
    is_informative: the case records a fault of a reference, which nobody needs to reproduce.
    """

    case: str
    worst: Difference | None
    compared: int
    reason: str = ""
    is_informative: bool = False

    @property
    def passed(self) -> bool:
        """Whether it ran, compared something, and every difference was small enough."""
        return self.worst is not None and self.worst.passed


def find_runner(kind: str) -> Runner | None:
    """The runner of a kind of case, or None."""
    for length in range(len(kind), 0, -1):
        if kind[:length] in RUNNERS:
            return cast(Runner, importlib.import_module(RUNNERS[kind[:length]]))
    return None


def run_case(path: Path) -> Verdict:
    """Run one case file.  Never raises for a case: whatever goes wrong is a failed verdict."""
    try:
        case = load_case(path)
        runner = find_runner(case.kind)
        if runner is None:
            return Verdict(path.stem, None, 0, f"no runner for cases of kind {case.kind!r}")
        with torch.no_grad():
            differences = runner.run(case)
    except Exception as error:
        return Verdict(path.stem, None, 0, f"{type(error).__name__}: {error}")
    if not differences:
        return Verdict(path.stem, None, 0, "nothing was compared")
    failed = [difference for difference in differences if not difference.passed]
    worst = max(failed or differences, key=lambda difference: difference.value)
    is_informative = INFORMATIVE in str(case.sheet.get("doc", ""))
    return Verdict(path.stem, worst, len(differences), is_informative=is_informative)
