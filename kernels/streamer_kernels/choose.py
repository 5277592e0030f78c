"""Which backend serves each operation on this device: measured at the start, never assumed.

Every backend at hand runs every operation once on random data at the stream's steady shape.  One
that differs from the reference is named and never used; the fastest of the others is.  The choice
is logged and kept in a file, so that the next start only checks it again.

The reference of PyTorch is among the candidates and always right, so there is always a choice.  A
candidate that an earlier process did not survive trying is left out (`memory.py`).
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from streamer_kernels import Ops, load_ops
from streamer_kernels.attend_library import (
    cudnn,
    flash_attention_3,
    torch_flash,
    with_one_pass,
)
from streamer_kernels.memory import REFERENCE, Memory
from streamer_kernels.timing import DeviceTimer, Timer
from streamer_kernels.workload import Attention, Shape, Work, row_works

logger = logging.getLogger(__name__)

TOLERANCES = {2: 2e-2, 4: 1e-4}
"""Largest error of a row of results, relative to its length, by bytes of an element.  Rounding the
weights and the result of attention to bfloat16 gives 4e-3; a lost tile of keys gives far more,
since queries are aimed at keys."""

NOT_OFFERED = "does not offer this"

Operation = Callable[..., Any]


class Load(Protocol):
    """Gets the operations of a candidate by field of `Ops`; raises where it is not at hand."""

    def __call__(self) -> Mapping[str, Operation]:
        """By field; a candidate offers at least one."""


@dataclass(frozen=True)
class Candidate:
    """One backend, which offers some of the operations."""

    name: str
    load: Load


@dataclass(frozen=True)
class Check:
    """A call and its right results; is_timed: whether the choice goes by its time."""

    work: Work
    expected: tuple[Tensor, ...]
    is_timed: bool = True


@dataclass(frozen=True)
class Result:
    """What became of a candidate for one operation.

    fault: why it is not used; None when it is right.  milliseconds: None when it was not timed.
    is_left_out: it was not even tried, since an earlier process did not survive that.
    """

    name: str
    milliseconds: float | None = None
    error: float | None = None
    fault: str | None = None
    is_left_out: bool = False

    @property
    def is_offered(self) -> bool:
        """Whether the candidate has the operation at all."""
        return self.fault != NOT_OFFERED


Examined = tuple[Result, Mapping[str, Operation]]
"""What became of a candidate, and its operations if it is right."""


@dataclass(frozen=True)
class Choice:
    """The backend for a group of operations and how it came to be.

    is_remembered: taken from the file, so that only the chosen one was run.
    """

    fields: tuple[str, ...]
    name: str
    results: tuple[Result, ...]
    is_remembered: bool = False


def row_error(results: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The largest error of any row of the last dimension, relative to the row's length.

    Infinite when a number is not finite or a shape is wrong.
    """
    worst = 0.0
    for out, right in zip(results, expected, strict=True):
        if out.shape != right.shape:
            return float("inf")
        if out.numel() == 0:
            continue
        exact = right.float()
        error = (out.float() - exact).norm(dim=-1) / exact.norm(dim=-1).clamp_min(1e-6)
        worst = max(worst, float(error.nan_to_num(float("inf")).max()))
    return worst


class DeviceLostError(RuntimeError):
    """A candidate has spoiled the device for this process; only another one can go on."""


def is_lost(device: torch.device) -> bool:
    """Whether the device answers no more, as after a kernel that read where it must not."""
    if device.type != "cuda":
        return False
    try:
        torch.ones(1, device=device).item()
    except torch.OutOfMemoryError:
        return False  # Full, perhaps of what others keep there; it answers.
    except RuntimeError:
        return True
    return False


def choose(
    fields: tuple[str, ...],
    checks: Sequence[Check],
    candidates: Sequence[Candidate],
    timer: Timer,
    tolerance: float,
    memory: Memory,
) -> tuple[Choice, Mapping[str, Operation]]:
    """The fastest right candidate for a group of operations, and its operations.

    memory: of an earlier choice, which is checked again but not timed; if it is gone or wrong now,
        all are measured.  And of what an earlier process did not survive.
    Raises RuntimeError when no candidate is right, DeviceLostError when one spoils the device.
    """
    group = "+".join(fields)
    fatal, remembered = memory.fatal(group), memory.recall(group)
    left_out = [_left_out(each.name, fatal[each.name]) for each in candidates if each.name in fatal]
    for result in left_out:
        _log_fault(fields, result)

    def attempt(candidate: Candidate, timer: Timer | None) -> Examined:
        for result in left_out:
            if result.name == candidate.name:
                return result, {}
        is_reference = candidate.name == REFERENCE
        note = None if is_reference else memory.begin(group, candidate.name)
        try:
            found = examine(candidate, fields, checks, timer, tolerance)
        finally:
            memory.end(note)
        if found[0].fault is not None and is_lost(checks[0].expected[0].device):
            way_out = "start again"
            if not is_reference:
                memory.condemn(group, candidate.name)
                way_out = "start again: it will be left out"
            raise DeviceLostError(
                f"the backend {candidate.name} has spoiled the device with {group} "
                f"({found[0].fault}); {way_out}"
            )
        if found[0].fault is None:
            memory.acquit(group, candidate.name)
        return found

    known = [each for each in candidates if each.name == remembered and each.name not in fatal]
    for candidate in known:
        result, operations = attempt(candidate, None)
        if result.fault is None:
            choice = Choice(fields, candidate.name, (result,), is_remembered=True)
            _log(choice)
            return choice, operations
        _log_fault(fields, result)
    tried = [attempt(each, timer) for each in candidates]
    examined = [each for each in tried if each[0].is_offered]
    results = tuple(result for result, _ in examined)
    for result in results:
        if result.fault is not None and not result.is_left_out:
            _log_fault(fields, result)
    right = [
        (result.milliseconds, index)
        for index, result in enumerate(results)
        if result.fault is None and result.milliseconds is not None
    ]
    if not right:
        told = "; ".join(f"{result.name}: {result.fault}" for result in results)
        raise RuntimeError(f"no backend computes {', '.join(fields)} rightly: {told}")
    best = min(right)[1]
    choice = Choice(fields, results[best].name, results)
    _log(choice)
    return choice, examined[best][1]


def _left_out(name: str, notes: Sequence[Path]) -> Result:
    files = " and ".join(map(str, notes))
    fault = f"an earlier process did not survive it; delete {files} to try it again"
    return Result(name, fault=fault, is_left_out=True)


def examine(
    candidate: Candidate,
    fields: tuple[str, ...],
    checks: Sequence[Check],
    timer: Timer | None,
    tolerance: float,
) -> Examined:
    """Check a candidate, then time it; its operations if it is right.

    timer: None does not time.  Whatever a candidate raises is a reason not to use it.
    """
    result = Result(candidate.name)
    try:
        operations = candidate.load()
        if not all(name in operations for name in fields):
            return replace(result, fault=NOT_OFFERED), {}
        error = 0.0
        for check in checks:
            out = check.work.run(operations[check.work.field])
            off = row_error(check.work.compared(out), check.expected)
            error = max(error, off / check.work.leniency)
        result = replace(result, error=error)
        if not error <= tolerance:
            fault = f"wrong: its error is {error:.2g}, at most {tolerance:.2g} is allowed"
            return replace(result, fault=fault), {}
        if timer is not None:
            timed = [check.work for check in checks if check.is_timed]
            spent = [timer(lambda w=work: w.run(operations[w.field])) for work in timed]  # type: ignore[misc]
            result = replace(result, milliseconds=sum(spent))
    except Exception as error:  # A library may fail in ways of its own; the reference stays.
        text = (str(error).strip().splitlines() or [""])[0]
        return replace(result, fault=f"{type(error).__name__}: {text}"[:300]), {}
    return result, operations


def _log(choice: Choice) -> None:
    times = " ".join(
        f"{result.name}_ms={result.milliseconds:.4g}"
        for result in choice.results
        if result.milliseconds is not None
    )
    logger.info(
        "event=kernel_chosen op=%s backend=%s remembered=%s %s",
        "+".join(choice.fields),
        choice.name,
        choice.is_remembered,
        times,
    )


def _log_fault(fields: tuple[str, ...], result: Result) -> None:
    level, event = logging.INFO, "kernel_absent"
    if result.is_left_out:
        level, event = logging.WARNING, "kernel_left_out"
    elif result.error is not None:
        level, event = logging.WARNING, "kernel_wrong"
    logger.log(
        level,
        "event=%s op=%s backend=%s fault=%r",
        event,
        "+".join(fields),
        result.name,
        result.fault,
    )


def candidates_at_hand() -> list[Candidate]:
    """The backends for CUDA devices; those not installed drop out when they are loaded."""

    def attention(name: str) -> Load:
        def load() -> Mapping[str, Operation]:
            from streamer_kernels import attend_triton

            def attend(*args: Any) -> Tensor:
                return attend_triton.attend(*args, form=name)  # type: ignore[arg-type]

            def attend_views(*args: Any) -> Tensor:
                return attend_triton.attend_views(*args, form=name)  # type: ignore[arg-type]

            return {"attend": attend, "attend_views": attend_views}

        return load

    def library(make: Callable[[], Any]) -> Load:
        def load() -> Mapping[str, Operation]:
            made = make()
            return {"attend": made.attend, "attend_views": made.attend_views}

        return load

    def epilogue() -> Mapping[str, Operation]:
        from streamer_kernels.gelu import linear_gelu_epilogue

        return {"linear_gelu": linear_gelu_epilogue}

    return [
        Candidate(REFERENCE, lambda: _by_field(load_ops("torch"))),
        Candidate("triton", lambda: _without_attention(load_ops("triton"))),
        Candidate("triton-pointer", attention("pointer")),
        Candidate("triton-hopper", attention("hopper")),
        Candidate("cudnn", library(cudnn)),
        Candidate("cudnn+merge", library(lambda: with_one_pass(cudnn()))),
        Candidate("torch-flash", library(torch_flash)),
        Candidate("flash-attention-3", library(flash_attention_3)),
        Candidate("flash-attention-3+merge", library(lambda: with_one_pass(flash_attention_3()))),
        Candidate("cublaslt", epilogue),
    ]


def _by_field(ops: Ops) -> dict[str, Operation]:
    return {name: getattr(ops, name) for name in Ops.__dataclass_fields__}


def _without_attention(ops: Ops) -> dict[str, Operation]:
    return {name: op for name, op in _by_field(ops).items() if not name.startswith("attend")}


def attend_checks(shape: Shape, device: torch.device, dtype: torch.dtype) -> list[Check]:
    """Attention of one block in the steady state."""
    attention = Attention.draw(shape, device, dtype)
    return [Check(attention.plain(), attention.expected_plain(load_ops("torch").attend))]


def views_checks(shape: Shape, device: torch.device, dtype: torch.dtype) -> list[Check]:
    """Attention of the pass over two blocks, and untimed with all that views can ask for."""
    reference = load_ops("torch").attend_views
    twice = replace(
        shape,
        num_queries=2 * shape.num_queries,
        num_valid=shape.num_valid + shape.num_queries,
    )
    pair = Attention.draw(twice, device, dtype)
    checks = [Check(pair.paired(), pair.expected_paired(reference))]
    one = Attention.draw(shape, device, dtype)
    return [*checks, Check(one.viewed(), one.expected_viewed(reference), is_timed=False)]


def row_checks(shape: Shape, device: torch.device, dtype: torch.dtype) -> list[Check]:
    """Every operation besides attention, with what the reference says in float32."""
    reference = _by_field(load_ops("torch"))
    works = row_works(shape, device, dtype)
    exact = row_works(shape, device, torch.float32)
    return [
        Check(work, right.run(reference[right.field]))
        for work, right in zip(works, exact, strict=True)
    ]


def _groups(
    shape: Shape, device: torch.device, dtype: torch.dtype
) -> dict[tuple[str, ...], list[Check]]:
    """The checks by group of operations that are chosen together."""
    checks = [*attend_checks(shape, device, dtype), *views_checks(shape, device, dtype)]
    groups: dict[tuple[str, ...], list[Check]] = {}
    for check in [*checks, *row_checks(shape, device, dtype)]:
        groups.setdefault((check.work.field,), []).append(check)
    return groups


@torch.no_grad()
def choose_ops(
    shape: Shape,
    device: torch.device,
    *,
    dtype: torch.dtype = torch.bfloat16,
    candidates: Sequence[Candidate] | None = None,
    timer: Timer | None = None,
    path: Path | None = None,
) -> tuple[Ops, list[Choice]]:
    """The operations to serve with on a device, each from its fastest right backend.

    shape: of the stream's steady state.  candidates: None takes all of CUDA; on other devices the
    references serve and nothing is measured.  timer: None times on the device.  path: the file
    of choices; None keeps nothing.
    """
    if candidates is None and device.type != "cuda":
        return load_ops("torch"), []
    candidates = candidates_at_hand() if candidates is None else candidates
    timer = timer or DeviceTimer(device)
    memory = Memory(path, _key(shape, device, dtype, candidates))
    chosen: dict[str, Operation] = {}
    choices = []
    for fields, checks in _groups(shape, device, dtype).items():
        choice, operations = choose(
            fields,
            checks,
            candidates,
            timer,
            TOLERANCES[dtype.itemsize],
            memory,
        )
        chosen |= {name: operations[name] for name in fields}
        choices.append(choice)
    if not all(choice.is_remembered for choice in choices):
        memory.keep({"+".join(choice.fields): asdict(choice) for choice in choices})
    return Ops(**chosen), choices


def _key(
    shape: Shape, device: torch.device, dtype: torch.dtype, candidates: Sequence[Candidate]
) -> str:
    """Device, versions and shape in words, and the kernels themselves as a number."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    sources = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        sources.update(file.read_bytes())
    names = ",".join(each.name for each in candidates)
    return f"{name} torch-{torch.__version__} {dtype} {shape} {names} {sources.hexdigest()[:12]}"
