"""Our arithmetic is the published one: the recorded cases, and a runner that can fail."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.conformance import run_case
from tests.conformance.casefile import compare, load_case

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
MORE = ROOT.parent / "shared" / "golden" / "open"
REQUIRED = (
    *("a", "a2", "b1", "b2", "b3", "b4", "b5", "b6", "b7", "c1", "c2", "c3", "c4", "c5", "c6"),
    *("d1", "d2", "d3", "d4", "e", "e2", "f", "f2", "g", "h"),
)


def assert_passes(path: Path) -> None:
    verdict = run_case(path)
    assert verdict.passed, f"{verdict.worst or verdict.reason}"


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.safetensors")), ids=lambda path: path.stem)
def test_a_kept_case_passes(path: Path) -> None:
    assert_passes(path)


@pytest.mark.parametrize("kind", REQUIRED)
def test_a_recorded_case_passes(kind: str) -> None:
    paths = sorted(MORE.glob(f"{kind}_*.safetensors"))
    if not paths:
        pytest.skip(f"the recorded cases beside the repository are not there: {MORE}")
    for path in paths:
        assert_passes(path)


def damage(source: Path, target: Path, name: str, by: float) -> None:
    case = load_case(source)
    tensors = dict(case.tensors)
    tensors[name] = tensors[name] + by
    save_file(tensors, target, metadata={"case": json.dumps(case.sheet)})


def run_folder(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.conformance", str(folder), *options]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )


def test_the_runner_reports_a_wrong_number_and_a_case_that_it_cannot_run(tmp_path: Path) -> None:
    source = GOLDEN / "h_flowmatch_scheduler.safetensors"
    damage(source, tmp_path / "h_wrong.safetensors", "io.out.shift5.sigmas", 1e-3)
    save_file({"x": torch.zeros(1)}, tmp_path / "y_unknown.safetensors", metadata={"case": "{}"})
    save_file({"x": torch.zeros(1)}, tmp_path / "z_bare.safetensors")
    done = run_folder(tmp_path, "--json")
    assert done.returncode == 1
    wrong, unknown, bare = json.loads(done.stdout)
    assert wrong["tensor"] == "io.out.shift5.sigmas"
    assert wrong["worst"] == pytest.approx(1e-3, rel=0.01)
    assert "no runner" in unknown["reason"]
    assert "no field 'case'" in bare["reason"]
    assert not any(verdict["passed"] for verdict in (wrong, unknown, bare))


def test_a_case_that_records_a_fault_of_a_reference_counts_for_nothing(tmp_path: Path) -> None:
    case = load_case(GOLDEN / "b2_sf_rollout_local6_sink1.safetensors")
    sheet = case.sheet | {"doc": "REFERENCE ARTEFACT, informative only: something odd"}
    tensors = dict(case.tensors)
    tensors["io.out.latents"] = tensors["io.out.latents"] + 1.0
    save_file(tensors, tmp_path / "q1_odd.safetensors", metadata={"case": json.dumps(sheet)})
    source = GOLDEN / "h_flowmatch_scheduler.safetensors"
    (tmp_path / source.name).write_bytes(source.read_bytes())
    done = run_folder(tmp_path)
    assert done.returncode == 0
    assert "info  q1_odd" in done.stdout
    assert "1 of 1 cases passed, 1 informative" in done.stdout


def test_the_runner_passes_a_good_folder_and_refuses_an_empty_one(tmp_path: Path) -> None:
    assert run_folder(tmp_path).returncode == 2
    source = GOLDEN / "h_flowmatch_scheduler.safetensors"
    (tmp_path / source.name).write_bytes(source.read_bytes())
    done = run_folder(tmp_path)
    assert done.returncode == 0
    assert "1 of 1 cases passed" in done.stdout


def test_a_shape_or_a_value_that_is_not_a_number_never_passes() -> None:
    assert not compare("shape", torch.zeros(2), torch.zeros(3)).passed
    assert not compare("value", torch.zeros(2), torch.tensor([0.0, torch.nan])).passed
