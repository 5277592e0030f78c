"""The kernel benchmark: what it measures and prints, without a GPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import pytest
import torch
from streamer_kernels import Ops, bench, load_ops
from streamer_kernels.attend_library import processor_flash
from streamer_kernels.bench import Line, run, table
from streamer_kernels.choose import Candidate
from streamer_kernels.workload import Shape
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

    return list(
        run(
            torch.device("cpu"),
            torch.float32,
            timer,
            shape=SHAPE,
            windows=(60, 42, 30),
            num_sink=6,
            rows=(18, 32),
            candidates=candidates(),
        )
    )


def test_attention_products_and_every_other_kernel_are_measured() -> None:
    measured = lines()
    works = list(dict.fromkeys(line.work for line in measured))
    assert works[:6] == [
        "attend 2 x 18 x 60",
        "attend 2 x 18 x 42",
        "attend 2 x 18 x 30",
        "attend 2 x 18 x 42 sinks 6",
        "attend 2 x 18 x 42 ring int8",
        "attend 2 x 18 x 42 ring fp8",
    ]
    assert works[6:9] == [f"attend_views 2 x 36 x {window}, two blocks" for window in (60, 42, 30)]
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


def test_without_a_gpu_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert bench.main([]) == 2
    assert "needs a CUDA device and this machine has none" in capsys.readouterr().err
