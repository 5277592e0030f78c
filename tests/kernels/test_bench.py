"""The kernel benchmark: what it measures and prints, without a GPU."""

from __future__ import annotations

import io
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from streamer_kernels import Ops, bench, load_ops
from streamer_kernels.attend_library import processor_flash
from streamer_kernels.bench import Measured, main, measure_here, supervise, table
from streamer_kernels.bench_lines import Line, candidates_to_measure, run, with_speedups
from streamer_kernels.choose import Candidate, candidates_at_hand, row_error
from streamer_kernels.workload import Shape, row_works
from torch import Tensor

SHAPE = Shape(
    num_heads=2,
    head_width=16,
    ffn_width=48,
    num_frames=3,
    num_queries=18,
    num_valid=60,
    picture=(1, 4, 8),
)
LIBRARY = processor_flash()


def candidates() -> list[Candidate]:
    ops = load_ops("torch")

    def wrong(*arguments: Tensor) -> Tensor:
        return torch.zeros_like(arguments[0])

    return [
        Candidate("torch", lambda: {each.name: getattr(ops, each.name) for each in fields(Ops)}),
        Candidate(
            "library", lambda: {"attend": LIBRARY.attend, "attend_views": LIBRARY.attend_views}
        ),
        Candidate("triton-wrong", lambda: {"attend": wrong, "attend_views": wrong}),
    ]


def lines() -> list[Line]:
    times = iter([2.0, 0.5])

    def timer(call: Callable[[], object]) -> float:
        call()
        return next(times, 1.0)

    return with_speedups(
        list(run(
            torch.device("cpu"),
            torch.float32,
            timer,
            shape=SHAPE,
            windows=(60, 42, 30),
            num_sink=6,
            rows=(18, 32),
            candidates=candidates(),
        ))
    )  # fmt: skip


def test_attention_products_and_every_other_kernel_are_measured() -> None:
    measured = lines()
    works = list(dict.fromkeys(line.work for line in measured))
    assert works[:3] == [f"attend 2 x 18 x {window}" for window in (60, 42, 30)]
    assert works[3:6] == [f"attend_views 2 x 36 x {window}, two blocks" for window in (60, 42, 30)]
    assert works[6:9] == [
        "attend 2 x 18 x 42 sinks 6",
        "attend 2 x 18 x 42 ring int8",
        "attend 2 x 18 x 42 ring fp8",
    ]
    assert [work for work in works if work.startswith("linear ")][:2] == [
        "linear qkv 18 x 32 x 96",
        "linear o 18 x 32 x 32",
    ]
    assert {line.backend for line in measured if line.work == "linear o 32 x 32 x 32"} == {
        "torch",
        "fp8",
    }
    rest = {each.name for each in fields(Ops)} - {"attend", "attend_views"}
    assert {work.split()[0] for work in works[9:] if not work.startswith("linear ")} == rest


def test_figures_follow_from_the_times() -> None:
    first, second, wrong = lines()[:3]
    assert (first.backend, first.milliseconds, first.speedup) == ("torch", 2.0, 1.0)
    assert (second.backend, second.milliseconds, second.speedup) == ("library", 0.5, 4.0)
    assert wrong.milliseconds is None
    assert (wrong.fault or "").startswith("wrong: its error is 1")
    modulate = next(line for line in lines() if line.work == "modulate")
    # 18 tokens of 32 channels of four bytes, read and written, in a millisecond.
    assert modulate.gigabytes_per_s == pytest.approx(2 * 18 * 32 * 4 / 1e6)


def test_products_are_told_in_tflops() -> None:
    line = Line("attend", "cudnn", milliseconds=1.883, tflops=500.2, speedup=1.5, error=4e-3)
    text = table([line, replace(line, backend="x", milliseconds=None, fault="wrong: so")])
    head, first, second = text.splitlines()
    assert head.split() == ["work", "backend", "ms", "TFLOP/s", "GB/s", "vs", "torch", "error"]
    assert first.split() == ["attend", "cudnn", "1.8830", "500", "-", "1.50", "4.0e-03"]
    assert second.endswith("not used: wrong: so")


PAIRS = [("attend", "good"), ("attend", "bad"), ("attend", "last")]
CHILD = """
import json, sys, time
done = [tuple(pair) for pair in json.load(sys.stdin)]
print("a library says something")
def tell(**message):
    print(json.dumps(message), flush=True)
tell(device="toy", versions="1")
for pair in PAIRS:
    if pair in done:
        continue
    tell(trying=pair)
    if pair[1] == "bad":
        BREAK
    tell(line={"work": pair[0], "backend": pair[1], "milliseconds": 2.0})
"""


def watch(end: str, **limits: float) -> tuple[Measured, list[tuple[int, bool]]]:
    """Supervise a measuring process in which the second pair ends like that."""
    program = CHILD.replace("PAIRS", repr(PAIRS)).replace("BREAK", end)
    kept: list[tuple[int, bool]] = []
    measured = supervise(
        [sys.executable, "-c", program],
        lambda so_far, is_complete: kept.append((len(so_far.lines), is_complete)),
        **{"within_s": 60.0, "patience_s": 30.0, **limits},
    )
    return measured, kept


@pytest.mark.parametrize(
    ("end", "patience_s", "fault"),
    [
        ("import os; os.kill(os.getpid(), 11)", 30.0, "its process ended with -11"),
        ("sys.exit(3)", 30.0, "spoiled the device for its process"),
        ("time.sleep(600)", 3.0, "said nothing for 3 s"),
    ],
)
def test_what_a_process_ends_with_is_named_and_the_rest_is_measured(
    end: str, patience_s: float, fault: str
) -> None:
    measured, kept = watch(end, patience_s=patience_s)
    assert [(line.work, line.backend) for line in measured.lines] == PAIRS
    assert [line.fault for line in measured.lines] == [None, fault, None]
    assert (measured.device, measured.versions) == ("toy", "1")
    # What was found is kept at once, not at the end.
    assert kept[:2] == [(1, False), (2, False)]
    assert kept[-1] == (3, True)


SUPERVISOR = """
import sys, torch
from streamer_kernels import bench
torch.cuda.is_available = lambda: True
real, child = bench.supervise, [sys.executable, "-c", CHILD]
bench.supervise = lambda command, keep, **limits: real(child, keep, **limits)
raise SystemExit(bench.main([]))
"""
HANGS = "import os, sys, time; print(os.getpid(), file=sys.stderr, flush=True); time.sleep(600)"


def test_what_ends_the_benchmark_ends_its_measuring_process_too() -> None:
    """It has a session of its own, so a signal to the benchmark's group does not reach it."""
    with subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR.replace("CHILD", repr(HANGS))],
        stderr=subprocess.PIPE,
        text=True,
    ) as supervisor:
        assert supervisor.stderr is not None
        measuring = psutil.Process(int(supervisor.stderr.readline()))
        supervisor.send_signal(signal.SIGTERM)
        try:
            # It is the benchmark that ends it and waits for it.
            assert supervisor.wait(60) == bench.INTERRUPTED
            assert not measuring.is_running()
        finally:
            if measuring.is_running():
                measuring.kill()


def test_when_the_time_is_over_what_was_found_stays() -> None:
    measured, kept = watch("time.sleep(600)", within_s=3.0)
    assert [line.fault for line in measured.lines] == [None, "the time was over"]
    assert kept[-1] == (2, False)


def test_a_process_that_begins_nothing_is_not_started_for_ever() -> None:
    measured = supervise(
        [sys.executable, "-c", "raise SystemExit(7)"],
        lambda so_far, is_complete: None,
        within_s=30.0,
    )
    (line,) = measured.lines
    assert (line.work, line.fault) == ("the benchmark itself", "its process ended with 7")


def test_a_measuring_process_tells_what_it_begins_and_skips_what_is_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def small(device: object, dtype: torch.dtype, timer: object, **options: Any) -> Iterator[Line]:
        toy = {"shape": SHAPE, "windows": (60,), "num_sink": 6, "rows": (18,)}
        timer = lambda call: 1.0  # noqa: E731
        cpu = torch.device("cpu")
        return run(cpu, torch.float32, timer, candidates=candidates(), **toy, **options)

    monkeypatch.setattr(bench, "run", small)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "toy")
    monkeypatch.setattr(bench, "is_lost", lambda device: False)
    out, work = io.StringIO(), "attend 2 x 18 x 60"
    assert measure_here(["attention"], [(work, "torch")], out) == 0
    told = [json.loads(text) for text in out.getvalue().splitlines()]
    assert told[0]["device"] == "toy"
    assert told[1] == {"trying": [work, "library"]}
    assert (told[2]["line"]["work"], told[2]["line"]["backend"]) == (work, "library")
    assert not [each for each in told if "linear" in str(each)]
    monkeypatch.setattr(bench, "is_lost", lambda device: True)
    out = io.StringIO()
    assert measure_here(["attention"], [], out) == bench.LOST
    last = json.loads(out.getvalue().splitlines()[-1])["line"]
    assert (last["backend"], last["fault"].endswith("device for its process)")) == (
        "triton-wrong",
        True,
    )


def test_a_kernel_of_ours_that_is_wrong_or_kills_fails_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    told: list[Line] = []

    def supervised(command: list[str], keep: Callable[..., None], **limits: float) -> Measured:
        measured = Measured()
        measured.lines += told
        keep(measured, True)
        return measured

    monkeypatch.setattr(bench, "supervise", supervised)
    arguments = ["--json", str(tmp_path / "kernels.json")]
    told[:] = [Line("attend", "triton-hopper", None, fault="ValueError: it is made for sm_90")]
    assert main(arguments) == 0
    told[:] = [Line("attend", "triton-hopper", None, fault="its process ended with -11")]
    assert main(arguments) == 1
    told[:] = [Line("attend", "triton-hopper", None, error=0.3, fault="wrong: its error is 0.3")]
    assert main(arguments) == 1
    assert json.loads((tmp_path / "kernels.json").read_text())["lines"][0]["error"] == 0.3


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # the compiler warns of itself
@pytest.mark.skipif(shutil.which("g++") is None, reason="PyTorch's compiler needs one for C++")
def test_compiled_references_are_the_references() -> None:
    compiled, reference = load_ops("compile"), load_ops("torch")
    works = {work.field: work for work in row_works(SHAPE, torch.device("cpu"), torch.float32)}
    for name in ("modulate", "gate_add_layer_norm"):
        work = works[name]
        found, right = (work.run(getattr(ops, name)) for ops in (compiled, reference))
        assert row_error(found, right) < 1e-5


def test_the_compiler_of_pytorch_is_measured_but_never_serves() -> None:
    added = {each.name for each in candidates_to_measure()} - {
        each.name for each in candidates_at_hand()
    }
    assert added == {"torch-compile"}


def test_without_a_gpu_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main([]) == 2
    assert "needs a CUDA device and this machine has none" in capsys.readouterr().err
