"""`python -m tests.conformance DIR [--json]`: see the package's docstring."""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "kernels"))

from tests.conformance import Verdict, run_case


def _line(verdict: Verdict) -> str:
    word = "info" if verdict.is_informative else "pass" if verdict.passed else "FAIL"
    if verdict.worst is None:
        return f"{word}  {verdict.case:<44} {verdict.reason}"
    return (
        f"{word}  {verdict.case:<44} {verdict.worst.value:9.2e}  "
        f"{verdict.worst.name} (worst of {verdict.compared})"
    )


def _record(verdict: Verdict) -> dict[str, object]:
    worst = verdict.worst
    return {
        "case": verdict.case,
        "passed": verdict.passed,
        "informative": verdict.is_informative,
        "worst": worst.value if worst and math.isfinite(worst.value) else None,
        "tensor": worst.name if worst else None,
        "tolerance": worst.tolerance if worst else None,
        "compared": verdict.compared,
        "reason": verdict.reason or None,
    }


def main() -> int:
    """Run every case of the folder; 0 when all passed, 1 when one failed, 2 when there is none."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__)
    parser.add_argument("folder", type=Path, help="a folder with case files (*.safetensors)")
    parser.add_argument("--json", action="store_true", help="print one JSON array instead of lines")
    arguments = parser.parse_args()
    paths = sorted(arguments.folder.glob("*.safetensors"))
    if not paths:
        print(f"{arguments.folder}: no case files (*.safetensors)", file=sys.stderr)
        return 2
    verdicts = []
    for path in paths:
        verdicts.append(run_case(path))
        if not arguments.json:
            print(_line(verdicts[-1]), flush=True)
    criteria = [verdict for verdict in verdicts if not verdict.is_informative]
    passed = sum(verdict.passed for verdict in criteria)
    if arguments.json:
        print(json.dumps([_record(verdict) for verdict in verdicts], indent=1))
    else:
        aside = f", {len(verdicts) - len(criteria)} informative" if criteria != verdicts else ""
        print(f"{passed} of {len(criteria)} cases passed{aside}")
    return 0 if passed == len(criteria) else 1


if __name__ == "__main__":
    sys.exit(main())
