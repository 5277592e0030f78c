"""The whole measurement of a GPU, walked on a machine without one."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from streamer_kernels.bench_lines import PARTS, Line
from streamer_kernels.faults import ITSELF, OVER
from streamer_kernels.memory import Memory

from streamer.bench import gpu
from streamer.bench.findings import Findings, report
from streamer.bench.gpu import ENOUGH_S, bench_gpu
from streamer.bench.gpu_stages import COMPARED, FUSED, KERNELS, LARGE, SMALL, stages
from streamer.bench.report import BenchReport, Stages
from streamer.bench.settings import Settings
from streamer.bench.stages import WITHIN, Outcome, Stage
from streamer.cli import main
from streamer.config import load_config

MADE = BenchReport(
    *("wan", "", "832x480", 21, "x86_64", "toy", "bfloat16", (("attend", "cudnn"),)),
    *(9, 24, 7, 7, 12),
    *(20.0, 130.0, 33.0, 31.0, 1.9, 400.0, 410.0, 420.0),
    Stages(1.0, (70.0,) * 3, 150.0, 7.0, 3.0, 2.0, 9.0, True),
    *(12_000.0, 500.0, 790.0, 0.63, 4300.0, None, "Good."),
)  # fmt: skip


def test_every_stage_is_a_command_that_exists(tmp_path: Path):
    for stage in stages(tmp_path):
        module, *arguments = stage.command[2:]
        assert stage.command[:2] == (sys.executable, "-m")
        if module == "streamer":
            assert arguments.pop(0) == "bench"
            asked = [each.replace(WITHIN, "9") for each in arguments]
            bench = main.commands["bench"].make_context("bench", asked)
            assert bench.params["random_weights"]
            assert bench.params["within"] == 9.0
    parts = {stage.name for stage in stages(tmp_path)} & set(PARTS)
    assert parts == set(PARTS)


def test_every_setting_can_be_applied():
    for compared in COMPARED:
        for asked in compared.pair:
            made = Settings.parse(asked.setting).over(Settings(random_weights=True))
            assert made.apply(load_config(SMALL)).stream.window == asked.window
    assert load_config(LARGE).model is not None


def test_what_must_be_kept_free_leaves_most_of_the_time(tmp_path: Path):
    assert ENOUGH_S < 540
    assert sum(stage.least_s for stage in stages(tmp_path)) < 0.8 * ENOUGH_S


def write_kernels(out: Path) -> None:
    attention = [
        Line("attend 12 x 4680 x 32760", "triton-pointer", 2.6, tflops=361.0),
        Line("attend 12 x 4680 x 32760", "cudnn", 1.9, tflops=500.0),
        Line("attend 12 x 4680 x 32760", "triton-hopper", None, fault="its process ended with -11"),
        Line("attend_views 12 x 9360 x 32760, two blocks", "triton-pointer", 4.0, tflops=560.0),
    ]
    products = [
        Line(f"linear {name} 4680 x 1536 x 1536", backend, 1.0, tflops=tflops)
        for backend, tflops in (("torch", 620.0), ("fp8", 900.0))
        for name in ("qkv", "o", "ffn up", "ffn down")
    ]
    for part, lines in (("attention", attention), ("products", products)):
        told = {"device": "toy", "is_complete": True, "lines": [*map(asdict, lines)]}
        (out / f"{part}.json").write_text(json.dumps(told))


def write_blocks(out: Path, fps: float) -> None:
    made = replace(MADE, steady_fps=fps).as_dict()
    for compared in COMPARED:
        told = {"first": made, "second": made, "ratio": 1.0, "ratio_p90": 1.0}
        (out / f"{compared.name}.json").write_text(json.dumps(told))


def test_the_report_says_which_rungs_were_missed_and_where_the_time_went(tmp_path: Path):
    write_kernels(tmp_path)
    write_blocks(tmp_path, 31.0)
    (tmp_path / "14b.json").write_text(json.dumps(replace(MADE, steady_fps=9.0).as_dict()))
    (tmp_path / "decoders.json").write_text(
        '{"decoders": [{"name": "taehv", "milliseconds": 6.9, "fault": null}]}'
    )
    outcome = Outcome(stages(tmp_path)[0], "done", 61.0)
    said = report(tmp_path, [outcome])
    for expected in (
        "  attention: done after 61 s",
        "  attention, library: 500, assumed 500 (+0%)",
        "  attention, pointer form: 361, assumed 380 (-5%)",
        "  attention of the pass over two blocks: 560, assumed 560 (+0%)",
        "  linear maps, bf16, one block: 620, assumed 620 (+0%)",
        "  taehv: 6.90",
        f"window 21, {KERNELS.name}: predicted 30.2, measured 31.0 (+3 %): reached",
        f"window 21, {FUSED.name}: predicted 33.3, measured 31.0 (-7 %): within the uncertainty",
        f"window 12, {FUSED.name}: predicted 47.6, measured 31.0 (-35 %): missed",
        "window 21: 66% of the limit 46.9 in bfloat16; 12.0 GB at most",
        "window 21: served by cudnn: attend",
        "window 21: 400 ms a block = attention 283 (assumed 283) + linear maps 94 (assumed 94)",
        "  9.0 pictures a second steady; wanted at least 12",
        "  attend 12 x 4680 x 32760, triton-hopper: its process ended with -11",
    ):
        assert expected in said


def test_half_of_a_run_has_a_report_too(tmp_path: Path):
    assert report(tmp_path, []) == "\n"
    write_kernels(tmp_path)
    (tmp_path / "bf16.json").write_text('{"first": ')
    said = report(tmp_path, [])
    assert "assumed 500" in said
    assert "the ladder" not in said
    assert Findings(tmp_path).products(9360, "torch") is None


@pytest.mark.parametrize(
    ("is_complete", "last", "not_used", "not_measured"),
    [
        (True, ("rope", "triton", "wrong: so"), "rope, triton: wrong: so", None),
        (False, ("rope", "triton", OVER), None, "rows: cut off by the time; the rest was not me"),
        (False, (ITSELF, "-", "it ended with 7"), f"{ITSELF}, -: it ended with 7", None),
    ],
)
def test_what_the_time_cut_off_is_not_a_fault(
    tmp_path: Path,
    is_complete: bool,
    last: tuple[str, str, str],
    not_used: str | None,
    not_measured: str | None,
):
    work, backend, fault = last
    lines = [Line("modulate", "triton", 1.0), Line(work, backend, None, fault=fault)]
    told = {"is_complete": is_complete, "lines": [asdict(line) for line in lines]}
    (tmp_path / "rows.json").write_text(json.dumps(told))
    said = report(tmp_path, [])
    for heading, expected in (("not used", not_used), ("not measured", not_measured)):
        assert (heading in said) == (expected is not None)
        assert expected is None or f"{heading}\n  {expected}" in said


TRIES = """
import os, time
from streamer_kernels.memory import Memory, default_path
Memory(default_path(), "key").begin("attend", "triton-hopper")
END
"""


@pytest.mark.parametrize(
    ("hangs_s", "end", "ending", "is_left_out"),
    [
        (60.0, "time.sleep(600)", "too long", False),
        (1.0, "time.sleep(600)", "too long", True),
        (60.0, "os.abort()", "failed", True),
    ],
)
def test_a_stage_that_was_only_late_condemns_no_backend(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    hangs_s: float,
    end: str,
    ending: str,
    is_left_out: bool,
):
    def toy(name: str, code: str) -> Stage:
        return Stage(name, "", (sys.executable, "-c", code), 8.0, 0.0, f"{name}.json")

    # The second stage fails for reasons of its own, while the note of the first lies there.
    toys = [toy("bf16", TRIES.replace("END", end)), toy("fp8", "raise SystemExit(1)")]
    monkeypatch.setattr(gpu, "stages", lambda out: toys)
    monkeypatch.setattr(gpu, "HANGS_S", hangs_s)
    outcomes = bench_gpu(tmp_path, 60.0)
    assert [each.ending for each in outcomes] == [ending, "failed"]
    said = ["triton-hopper, which is left out from now on" in each.said for each in outcomes]
    assert said == [is_left_out, False]
    choices = tmp_path / "cache" / "streamer" / "kernels.json"
    assert len(list(choices.parent.glob("kernels.trying-*"))) == 1
    assert ("triton-hopper" in Memory(choices, "key").fatal("attend")) == is_left_out


def test_a_run_keeps_what_it_found_and_learns_from_what_it_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    choices = tmp_path / "cache" / "streamer" / "kernels.json"
    hang = (
        "import os, time, pathlib; from streamer_kernels.memory import Memory, default_path;"
        "Memory(default_path(), 'key').begin('attend', 'triton-hopper'); time.sleep(600)"
    )
    toys = [
        Stage("bf16", "", (sys.executable, "-c", hang), 4.0, 0.0, "bf16.json"),
        Stage("products", "", (sys.executable, "-c", "print(1)"), 20.0, 0.0, "printed"),
    ]
    monkeypatch.setattr(gpu, "stages", lambda out: toys)
    monkeypatch.setattr(gpu, "HANGS_S", 0.0)
    (tmp_path / "products.json").write_text("from an earlier run")
    outcomes = bench_gpu(tmp_path, 60.0)
    assert [each.ending for each in outcomes] == ["too long", "done"]
    assert "it was trying triton-hopper, which is left out from now on" in outcomes[0].said
    assert set(Memory(choices, "key").fatal("attend")) == {"triton-hopper"}
    assert not (tmp_path / "products.json").exists()
    kept = json.loads((tmp_path / "stages.json").read_text())
    assert [each["ending"] for each in kept] == ["too long", "done"]
    assert "bf16: too long" in (tmp_path / "report.txt").read_text()
    assert "products: done" in capsys.readouterr().err


def test_without_a_gpu_the_command_says_what_to_do_instead(tmp_path: Path):
    ended = CliRunner().invoke(main, ["bench", "gpu", "--out", str(tmp_path / "out")])
    assert ended.exit_code == 2
    assert "there is no CUDA device here; `streamer bench` measures a processor" in ended.output
    assert not (tmp_path / "out").exists()
