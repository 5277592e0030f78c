"""What the compiler makes of the kernels for devices that are not here, and what is told of it."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import pytest
from streamer_kernels import check
from streamer_kernels.attend_triton import HOPPER_TILES
from streamer_kernels.check import TARGETS, Compiled, compile_case, find_faults
from streamer_kernels.check_cases import Case, cases, hopper_case

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Triton is made for Linux only")
AMPERE, HOPPER = TARGETS


@pytest.mark.parametrize("case", cases(False), ids=lambda case: case.name)
def test_every_served_kernel_compiles_without_a_fault(case: Case) -> None:
    for target in TARGETS:
        if target.capability in case.targets:
            wanted = case.wanted.get(target.capability, ())
            assert find_faults(compile_case(case, target), target, wanted) == []


def test_the_warps_of_the_hopper_form_have_roles(capsys: pytest.CaptureFixture[str]) -> None:
    assert check.main(["--only", "attend-hopper"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert "sm_90 warps=12 " in line
    assert "spilled_bytes=0" in line
    assert all(f"{name}=" in line for name in ("HGMMA", "UTMALDG", "USETMAXREG"))


def test_every_operation_is_compiled_for_both_devices() -> None:
    served: dict[str, set[int]] = {}
    for case in cases(False):
        served.setdefault(case.name.split()[0], set()).update(case.targets)
    assert set(served) == {
        "attend",
        "attend-hopper",
        "attend-merge",
        "merge",
        "modulate",
        "gate-add-modulate",
        "qk-norm-rope-write",
        "rotate",
        "quantise-rows",
        "gelu-quantise-rows",
        "bias-gelu",
        "to-i420",
    }
    assert {name for name, targets in served.items() if targets == {90}} == {
        "attend-hopper",
        "gelu-quantise-rows",
    }
    rings: dict[str, list[int]] = {"int8": [], "fp8": []}
    for case in cases(False):
        if case.name.startswith("attend") and "ring=" in case.name:
            rings[case.name.split("ring=")[1]] += case.targets
    assert rings == {"int8": [80, 90], "fp8": [90]}
    assert len(cases(True)) > len(cases(False))


def test_lost_roles_of_warps_are_found() -> None:
    """With eight warps the compiler drops them without a word."""
    case = hopper_case(64, replace(HOPPER_TILES[64], num_warps=8))
    compiled = compile_case(case, HOPPER)
    assert "has no USETMAXREG, which it is claimed to use" in find_faults(
        compiled, HOPPER, case.wanted[90]
    )


def test_a_fault_fails_the_check(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spilling = Compiled(255, 8, 0, 4)
    monkeypatch.setattr(check, "compile_case", lambda case, target: spilling)
    assert check.main(["--only", "rotate"]) == 1
    assert "  FAULT: spills 8 bytes a thread" in capsys.readouterr().out.splitlines()


def test_an_unknown_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        check.main(["--only", "atend"])
    assert "no variant begins with 'atend'" in capsys.readouterr().err


def test_the_check_refuses_an_interpreted_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "IS_INTERPRETED", True)
    with pytest.raises(RuntimeError, match="unset TRITON_INTERPRET"):
        compile_case(cases(False)[0], HOPPER)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"spilled_bytes": 8}, "spills 8 bytes a thread"),
        ({"shared_bytes": 232449}, "needs 232449 bytes of shared memory, sm_90 has 232448"),
        ({"instructions": {"HMMA": 9}}, "has no HGMMA, which it is claimed to use"),
    ],
)
def test_the_check_finds_what_must_not_be_shipped(change: dict[str, Any], fault: str) -> None:
    good = Compiled(168, 0, HOPPER.shared_bytes, 12, {"HGMMA": 48})
    assert find_faults(good, HOPPER, ["HGMMA"]) == []
    assert find_faults(replace(good, **change), HOPPER, ["HGMMA"]) == [fault]
    assert find_faults(good, AMPERE, []) == [
        f"needs {HOPPER.shared_bytes} bytes of shared memory, sm_80 has {AMPERE.shared_bytes}"
    ]
