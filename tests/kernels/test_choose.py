"""The choice of backends: the fastest right one, faults by name, a file that is checked again."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from streamer_kernels import Ops, choose, load_ops
from streamer_kernels.attend_library import processor_flash
from streamer_kernels.attend_views import Span, View, ViewTable
from streamer_kernels.choose import (
    Candidate,
    Choice,
    DeviceLostError,
    attend_checks,
    candidates_at_hand,
    choose_ops,
    row_checks,
    row_error,
    views_checks,
)
from streamer_kernels.memory import Memory, condemn_hanging, default_path
from streamer_kernels.quantise import RingScales
from streamer_kernels.workload import Shape
from torch import Tensor

SHAPE = Shape(
    num_heads=2,
    head_width=16,
    ffn_width=48,
    num_frames=3,
    num_queries=30,
    num_valid=240,
    num_sink=24,
    picture=(1, 4, 8),
)
CPU = torch.device("cpu")
ATTENTION = ("attend",)
LIBRARY = processor_flash()


def reference() -> Candidate:
    ops = load_ops("torch")
    return Candidate("torch", lambda: {each.name: getattr(ops, each.name) for each in fields(Ops)})


def attention(name: str, attend: Callable[..., Tensor]) -> Candidate:
    views = LIBRARY.attend_views
    return Candidate(name, lambda: {"attend": attend, "attend_views": views})


class Clock:
    """A timer that says what it is told to, by how often it was asked."""

    def __init__(self, *times: float) -> None:
        self.times, self.asked = list(times), 0

    def __call__(self, call: Callable[[], object]) -> float:
        call()
        self.asked += 1
        return self.times.pop(0) if self.times else 1.0


def decide(
    candidates: list[Candidate],
    *times: float,
    path: Path | None = None,
    dtype: torch.dtype = torch.float32,
) -> tuple[Ops, Choice, Clock]:
    clock = Clock(*times)
    ops, choices = choose_ops(
        SHAPE, CPU, dtype=dtype, candidates=candidates, timer=clock, path=path
    )
    return ops, choices[0], clock


def test_the_fastest_right_backend_serves() -> None:
    ops, choice, _ = decide([reference(), attention("fast", LIBRARY.attend)], 2.0, 1.0)
    assert (choice.fields, choice.name) == (ATTENTION, "fast")
    assert ops.attend == LIBRARY.attend
    assert ops.modulate == load_ops("torch").modulate
    ops, choice, _ = decide([reference(), attention("slow", LIBRARY.attend)], 1.0, 2.0)
    assert choice.name == "torch"
    assert [result.milliseconds for result in choice.results] == [1.0, 2.0]


def lose_keys(q: Tensor, k: Tensor, v: Tensor, num_valid: int, *sinks: Any) -> Tensor:
    lost = v.clone()
    lost[:, 100:108] = 0.0
    return LIBRARY.attend(q, k, lost, num_valid, *sinks)


def lose_one_sink(q: Tensor, k: Tensor, v: Tensor, num_valid: int, *sinks: Any) -> Tensor:
    lost = v.clone()
    lost[:, 0] = 0.0
    return LIBRARY.attend(q, k, lost, num_valid, *sinks)


def read_past_the_end(q: Tensor, k: Tensor, v: Tensor, num_valid: int, *sinks: Any) -> Tensor:
    return LIBRARY.attend(q, k, v, num_valid + 1, *sinks)


def stop_early(q: Tensor, k: Tensor, v: Tensor, num_valid: int, *sinks: Any) -> Tensor:
    return LIBRARY.attend(q, k, v, num_valid - 1, *sinks)


def forget_the_sinks(q: Tensor, k: Tensor, v: Tensor, num_valid: int, *sinks: Any) -> Tensor:
    return LIBRARY.attend(q, k, v, num_valid)


def spoil_the_last_query(q: Tensor, k: Tensor, v: Tensor, num_valid: int, *sinks: Any) -> Tensor:
    out = LIBRARY.attend(q, k, v, num_valid, *sinks)
    out[:, -1, -1] = torch.nan
    return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "wrong",
    [
        lose_keys,
        lose_one_sink,
        read_past_the_end,
        stop_early,
        forget_the_sinks,
        spoil_the_last_query,
    ],
)
def test_a_wrong_backend_is_named_and_never_used(
    wrong: Callable[..., Tensor], dtype: torch.dtype, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        _, choice, _ = decide([reference(), attention("broken", wrong)], 9.0, 0.1, dtype=dtype)
    assert choice.name == "torch"
    assert choice.results[1].name == "broken"
    assert (choice.results[1].fault or "").startswith("wrong: its error is ")
    assert "event=kernel_wrong op=attend backend=broken" in caplog.text
    # It was not even timed.
    assert choice.results[1].milliseconds is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_right_backends_pass_in_every_type(dtype: torch.dtype) -> None:
    _, choice, _ = decide([reference(), attention("cpu", LIBRARY.attend)], dtype=dtype)
    assert [result.fault for result in choice.results] == [None, None]


def views(name: str, attend_views: Callable[..., Tensor]) -> Candidate:
    return Candidate(name, lambda: {"attend_views": attend_views})


def forget_the_hole(q: Tensor, k: Tensor, v: Tensor, table: ViewTable, *rest: Any) -> Tensor:
    """The second block sees the frames that it will replace."""
    ring = table.views[0].spans
    own = table.views[1].spans[-1]
    seen = View(table.views[1].num_queries, (*ring[:-1], Span(ring[-1].first, own.end)))
    return LIBRARY.attend_views(q, k, v, ViewTable([table.views[0], seen]), *rest)


def show_the_noise(q: Tensor, k: Tensor, v: Tensor, table: ViewTable, *rest: Any) -> Tensor:
    """The first block sees the second one."""
    own = table.views[1].spans[-1]
    seen = View(table.views[0].num_queries, (*table.views[0].spans[:-1],
                Span(table.views[0].spans[-1].first, own.end)))  # fmt: skip
    return LIBRARY.attend_views(q, k, v, ViewTable([seen, table.views[1]]), *rest)


@pytest.mark.parametrize("num_sink", [0, 24])
def test_the_pass_over_two_blocks_has_a_choice_of_its_own(num_sink: int) -> None:
    candidates = [
        reference(),
        views("no-hole", forget_the_hole),
        views("noise", show_the_noise),
        views("right", LIBRARY.attend_views),
    ]
    clock = Clock(1.0, 5.0, 3.0)
    shape = replace(SHAPE, num_sink=num_sink)
    ops, choices = choose_ops(shape, CPU, dtype=torch.float32, candidates=candidates, timer=clock)
    found = {choice.fields: choice for choice in choices}[("attend_views",)]
    assert found.name == "right"
    assert ops.attend_views == LIBRARY.attend_views
    assert [result.name for result in found.results if result.fault] == ["no-hole", "noise"]


def without_scales(q: Tensor, k: Tensor, v: Tensor, num_valid: int, *rest: Any) -> Tensor:
    ones = RingScales(*(torch.ones_like(each) for each in rest[2]))
    return LIBRARY.attend(q, k, v, num_valid, *rest[:2], ones)


@pytest.mark.parametrize("ring", ["int8", "fp8"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_ring_of_codes_is_checked_with_its_scales(ring: Any, dtype: torch.dtype) -> None:
    candidates = [
        reference(),
        attention("plain", without_scales),
        attention("right", LIBRARY.attend),
    ]
    shape = replace(SHAPE, ring=ring)
    ops, choices = choose_ops(shape, CPU, dtype=dtype, candidates=candidates, timer=Clock(2.0, 1.0))
    assert ops.attend == LIBRARY.attend
    assert [result.name for result in choices[0].results if result.fault] == ["plain"]
    written = {check.work.label for check in row_checks(shape, CPU, dtype)}
    assert f"qk_norm_rope_write {ring}" in written


def test_a_backend_that_is_not_there_or_fails_drops_out(caplog: pytest.LogCaptureFixture) -> None:
    def absent() -> Mapping[str, Any]:
        raise ImportError("No module named 'flash_attn_interface'")

    def fail(*arguments: Any) -> Tensor:
        raise RuntimeError("no kernel image is available\nfor this device")

    with caplog.at_level(logging.INFO):
        _, choice, _ = decide([Candidate("gone", absent), attention("bad", fail), reference()])
    assert choice.name == "torch"
    assert [result.fault for result in choice.results] == [
        "ImportError: No module named 'flash_attn_interface'",
        "RuntimeError: no kernel image is available",
        None,
    ]
    assert "event=kernel_chosen op=attend backend=torch" in caplog.text


def test_without_a_right_backend_nothing_is_served() -> None:
    with pytest.raises(RuntimeError, match=r"no backend computes attend rightly: broken"):
        decide([attention("broken", lose_keys)])


def test_a_choice_is_remembered_and_checked_again_but_not_timed(tmp_path: Path) -> None:
    path = tmp_path / "cache" / "kernels.json"
    candidates = [reference(), attention("fast", LIBRARY.attend)]
    decide(candidates, 2.0, 1.0, path=path)
    ops, choice, clock = decide(candidates, path=path)
    assert (choice.name, choice.is_remembered, clock.asked) == ("fast", True, 0)
    assert ops.attend == LIBRARY.attend
    _, choice, clock = decide([reference(), attention("fast", lose_keys)], path=path)
    assert (choice.name, choice.is_remembered) == ("torch", False)
    assert clock.asked > 0


def test_another_shape_or_other_backends_are_measured_anew(tmp_path: Path) -> None:
    path = tmp_path / "kernels.json"
    decide([reference()], path=path)
    _, choice, _ = decide([reference(), attention("fast", LIBRARY.attend)], 2.0, 1.0, path=path)
    assert (choice.name, choice.is_remembered) == ("fast", False)
    assert len(json.loads(path.read_text())) == 2


def test_what_spoils_the_device_is_left_out_from_then_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A CUDA device answers no more after a kernel that read where it must not."""
    path, spoiled = tmp_path / "kernels.json", []

    def spoil(*arguments: Any) -> Tensor:
        spoiled.append(True)
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(choose, "is_lost", lambda device: bool(spoiled))
    candidates = [attention("wild", spoil), reference()]
    with pytest.raises(DeviceLostError, match=r"wild has spoiled the device with attend .*illegal"):
        decide(candidates, path=path)
    monkeypatch.setattr(choose, "is_lost", lambda device: False)
    spoiled.clear()
    _, choice, _ = decide(candidates, path=path)
    assert choice.name == "torch"
    assert "an earlier process did not survive it; delete " in (choice.results[0].fault or "")
    # Every later start says so, also one that remembers its choice.
    caplog.clear()
    _, choice, _ = decide(candidates, path=path)
    assert choice.is_remembered
    said = [each for each in caplog.records if "kernel_left_out" in each.getMessage()]
    assert [each.levelname for each in said] == ["WARNING"]
    assert "op=attend backend=wild fault='an earlier process" in said[0].getMessage()
    assert not spoiled


def test_the_reference_is_never_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "kernels.json"
    monkeypatch.setattr(choose, "_key", lambda *arguments: "here")
    leave_note(path, "torch")
    leave_note(path, "torch")
    assert condemn_hanging(path) == []
    Memory(path, "here").condemn("attend", "torch")
    notes = set(tmp_path.iterdir())

    def attend(*arguments: Any) -> Tensor:
        assert set(tmp_path.iterdir()) == notes
        return LIBRARY.attend(*arguments)

    tried = {**reference().load(), "attend": attend}
    _, choice, _ = decide([Candidate("torch", lambda: tried)], path=path)
    assert choice.results[0].fault is None


def test_a_full_device_is_not_a_spoiled_one(monkeypatch: pytest.MonkeyPatch) -> None:
    raised: list[Exception] = [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
    ]

    def ones(*arguments: Any, **options: Any) -> Tensor:
        raise raised.pop(0)

    monkeypatch.setattr(torch, "ones", ones)
    device = torch.device("cuda")
    assert [choose.is_lost(device), choose.is_lost(device)] == [False, True]


def ended_process() -> int:
    """The number of a process that was."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return ended.pid


def leave_note(path: Path, name: str, pid: int | None = None) -> Path:
    """What is left of a process that was ended while it tried a backend for attention."""
    memory = Memory(path, "here")
    note = memory.begin("attend", name)
    assert note is not None
    pid = ended_process() if pid is None else pid
    left = note.rename(note.with_suffix(re.sub(r"trying-\d+-", f"trying-{pid}-0", note.suffix)))
    memory.end(note)
    return left


def test_what_processes_end_with_is_left_out_after_the_second(tmp_path: Path) -> None:
    path = tmp_path / "kernels.json"
    memory = Memory(path, "here")
    first = leave_note(path, "hangs")
    assert memory.fatal("attend") == {}
    second = leave_note(path, "hangs")
    assert {name: set(files) for name, files in memory.fatal("attend").items()} == {
        "hangs": {first, second}
    }
    assert memory.fatal("modulate") == Memory(path, "there").fatal("attend") == {}


def test_a_process_of_the_same_number_leaves_earlier_notes_alone(tmp_path: Path) -> None:
    """In a container every start has nearly the same number."""
    path = tmp_path / "kernels.json"
    memory = Memory(path, "here")
    memory.condemn("modulate", "triton")
    leave_note(path, "hangs", os.getpid())
    leave_note(path, "hangs", os.getpid())
    memory.end(memory.begin("attend", "cudnn"))
    assert set(memory.fatal("modulate")) == {"triton"}
    assert set(memory.fatal("attend")) == {"hangs"}


def test_who_finds_a_backend_right_clears_it_of_suspicion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "kernels.json"
    monkeypatch.setattr(choose, "_key", lambda *arguments: "here")
    candidates = [reference(), attention("fast", LIBRARY.attend)]
    suspected, other = leave_note(path, "fast"), leave_note(path, "slow")
    decide(candidates, path=path)
    assert not suspected.exists()
    assert other.exists()


def test_one_killed_process_is_enough_where_it_is_known_to_have_hung(tmp_path: Path) -> None:
    path = tmp_path / "kernels.json"
    leave_note(path, "hangs")
    # One that had just begun may only have been late.
    assert condemn_hanging(path, least_s=600.0) == []
    assert condemn_hanging(path) == ["hangs"]
    assert set(Memory(path, "here").fatal("attend")) == {"hangs"}


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_a_process_whose_end_nobody_has_asked_for_has_ended_too(tmp_path: Path) -> None:
    path = tmp_path / "kernels.json"
    ended = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    assert ended.stdout is not None
    ended.stdout.read()  # until it has ended
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
    leave_note(path, "hangs", ended.pid)
    assert condemn_hanging(path) == ["hangs"]
    ended.communicate()


def test_what_another_process_tries_right_now_is_not_suspected(tmp_path: Path) -> None:
    path = tmp_path / "kernels.json"
    memory = Memory(path, "here")
    note = memory.begin("attend", "slow")
    for _ in range(2):
        leave_note(path, "slow", os.getppid())
    assert memory.fatal("attend") == {}
    assert condemn_hanging(path) == []
    memory.end(note)


def test_after_every_try_the_note_is_gone(tmp_path: Path) -> None:
    seen: list[list[str]] = []

    def attend(*arguments: Any) -> Tensor:
        seen.append(sorted(each.name for each in tmp_path.iterdir()))
        return LIBRARY.attend(*arguments)

    decide([reference(), attention("fast", attend)], path=tmp_path / "kernels.json")
    (name,) = seen[0]
    assert re.fullmatch(rf"kernels\.trying-{os.getpid()}-[0-9a-f]{{8}}", name)
    assert [each.name for each in tmp_path.iterdir()] == ["kernels.json"]


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 1}', '{"a": {"attend": 3}}'])
def test_a_damaged_file_costs_time_only(tmp_path: Path, text: str) -> None:
    path = tmp_path / "kernels.json"
    path.write_text(text)
    assert Memory(path, "a").recall("attend") is None
    _, choice, _ = decide([reference()], path=path)
    assert not choice.is_remembered
    _, choice, _ = decide([reference()], path=path)
    assert choice.is_remembered


def test_a_place_that_cannot_be_written_costs_time_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    _, choice, _ = decide([reference()], path=tmp_path / "file" / "kernels.json")
    assert choice.name == "torch"
    assert "event=choices_not_kept" in caplog.text


def test_choices_lie_in_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_path() == tmp_path / "streamer" / "kernels.json"


def test_on_a_processor_the_references_serve_unmeasured() -> None:
    assert choose_ops(SHAPE, CPU) == (load_ops("torch"), [])


def test_every_operation_is_checked() -> None:
    makers = (attend_checks, views_checks, row_checks)
    checks = [check for make in makers for check in make(SHAPE, CPU, torch.float32)]
    assert {check.work.field for check in checks} == {each.name for each in fields(Ops)}
    assert all(check.work.num_bytes > 0 for check in checks if check.is_timed)


def test_backends_at_hand_offer_what_they_are_named_for() -> None:
    at_hand = {each.name: each for each in candidates_at_hand()}
    assert set(at_hand["torch"].load()) == {each.name for each in fields(Ops)}
    for name in ("triton-pointer", "triton-hopper", "cudnn", "cudnn+merge", "torch-flash"):
        assert set(at_hand[name].load()) == {"attend", "attend_views"}
    others = {each.name for each in fields(Ops)} - {"attend", "attend_views"}
    assert set(at_hand["triton"].load()) == others
    assert set(at_hand["cublaslt"].load()) == {"linear_gelu"}
    with pytest.raises(ImportError):
        at_hand["flash-attention-3"].load()


def test_errors_are_relative_to_the_row() -> None:
    right = torch.tensor([[3.0, 4.0], [300.0, 400.0]])
    assert row_error([right], [right]) == 0.0
    assert row_error([right + torch.tensor([[0.5, 0.0], [0.0, 0.0]])], [right]) == pytest.approx(
        0.1
    )
    assert row_error([right * torch.nan], [right]) == float("inf")
    assert row_error([right[:1]], [right]) == float("inf")
