"""The whole measurement of one GPU, unattended: kernels, decoders, blocks, and the ladder.

Every stage is a command of its own that can be run alone; what it finds lies in the folder as soon
as it is found, so that a run that is cut off leaves all that it had.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from streamer_kernels.memory import condemn_hanging

from streamer.bench.findings import report
from streamer.bench.gpu_stages import stages
from streamer.bench.stages import Outcome, run_stages

ENOUGH_S = 530.0
"""Under nine minutes."""
HANGS_S = 30.0
"""A backend tried for so long when its stage was killed hangs; compiling one takes seconds."""


def bench_gpu(out: Path, total_s: float = ENOUGH_S) -> list[Outcome]:
    """Measure everything into a folder; what became of each stage.

    The report is written anew after each of them.  What an earlier run has found there is removed,
    but not which kernels it did not survive.
    """
    out.mkdir(parents=True, exist_ok=True)
    for each in stages(out):
        for ending in ("json", "log"):
            (out / f"{each.name}.{ending}").unlink(missing_ok=True)
    # A cache of its own: the choice is measured here, and lies beside what it led to.
    cache = out / "cache"
    choices = cache / "streamer" / "kernels.json"

    def keep(outcomes: Sequence[Outcome]) -> None:
        told = [{"stage": each.stage.name, **_plain(each)} for each in outcomes]
        (out / "stages.json").write_text(json.dumps(told, indent=1), encoding="utf-8")
        (out / "report.txt").write_text(report(out, outcomes), encoding="utf-8")
        print(outcomes[-1], file=sys.stderr, flush=True)

    def learn(outcome: Outcome) -> str:
        # What ended by itself has crashed; what was killed may only have been late, and what
        # earlier stages were trying was judged then.
        least_s = HANGS_S if outcome.ending == "too long" else 0.0
        names = condemn_hanging(choices, least_s, outcome.spent_s)
        return f"it was trying {', '.join(names)}, which is left out from now on" if names else ""

    return run_stages(
        stages(out),
        out,
        total_s,
        keep,
        environment={"XDG_CACHE_HOME": str(cache), "PYTHONUNBUFFERED": "1"},
        on_failure=learn,
    )


def _plain(outcome: Outcome) -> dict[str, object]:
    told = asdict(outcome)
    return {name: told[name] for name in ("ending", "spent_s", "said")} | {
        "command": list(outcome.stage.command)
    }
