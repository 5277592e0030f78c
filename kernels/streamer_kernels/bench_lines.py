"""What the kernel benchmark measures: works, backends, and a line for each pair.

Attention of Wan2.1 1.3B at 832x480 over windows of 21, 12 and 9 latent frames, its matrix products
for one block and for two blocks in one pass, and every other kernel against PyTorch.  Every result
is checked before it is timed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from streamer_kernels.choose import (
    TOLERANCES,
    Candidate,
    Check,
    Operation,
    Result,
    attend_checks,
    candidates_at_hand,
    examine,
    row_checks,
    views_checks,
)
from streamer_kernels.quantise import quantise_rows, scaled_linear_library
from streamer_kernels.timing import Timer
from streamer_kernels.workload import Draw, Shape, Work

SHAPE = Shape()
WINDOWS = (32760, 18720, 14040)
SINK = 4680
"""One more attention at the middle window: three latent frames of sinks."""
ROWS = (4680, 9360)
Part = Literal["attention", "products", "rows"]
PARTS: tuple[Part, ...] = ("attention", "products", "rows")


@dataclass(frozen=True)
class Line:
    """One measurement.

    tflops, gigabytes_per_s: None where the kernel is not bound by that.  speedup: over the line of
    the backend `torch` for the same work.  fault: why there is no time.
    """

    work: str
    backend: str
    milliseconds: float | None
    tflops: float | None = None
    gigabytes_per_s: float | None = None
    speedup: float | None = None
    error: float | None = None
    fault: str | None = None


class Begin(Protocol):
    """Told what is about to be measured; says whether it is wanted."""

    def __call__(self, work: str, backend: str) -> bool:
        """False leaves it out."""


def begin_all(work: str, backend: str) -> bool:
    """Leaves nothing out; see Begin."""
    return True


def measure(
    checks: Sequence[Check],
    candidates: Sequence[Candidate],
    timer: Timer,
    tolerance: float,
    begin: Begin = begin_all,
) -> Iterator[Line]:
    """Check and time every candidate that offers the operation of the first check.

    Only the first is timed; the others must be right.
    """
    work = checks[0].work
    fields = tuple(dict.fromkeys(check.work.field for check in checks))
    for candidate in candidates:
        if not begin(work.label, candidate.name):
            continue
        result = examine(candidate, fields, checks, timer, tolerance)[0]
        if result.is_offered:
            yield _line(work, result)


def with_speedups(lines: Sequence[Line]) -> list[Line]:
    """Every line with its speed over PyTorch's for the same work, where both were timed."""
    base = {line.work: line.milliseconds for line in lines if line.backend == "torch"}
    found = []
    for line in lines:
        once = base.get(line.work)
        is_timed = once is not None and line.milliseconds is not None
        found.append(
            replace(line, speedup=once / line.milliseconds) if is_timed else line  # type: ignore[operator]
        )
    return found


def _line(work: Work, result: Result) -> Line:
    spent = result.milliseconds
    is_bound_by_products = work.num_flops > 100 * work.num_bytes
    return Line(
        work=work.label,
        backend=result.name,
        milliseconds=spent,
        tflops=work.num_flops / spent / 1e9 if spent and is_bound_by_products else None,
        gigabytes_per_s=work.num_bytes / spent / 1e6
        if spent and work.num_bytes and not is_bound_by_products
        else None,
        error=result.error,
        fault=result.fault,
    )


def products(
    shape: Shape, rows: int, draw: Draw, timer: Timer, begin: Begin = begin_all
) -> Iterator[Line]:
    """The linear maps of a layer on so many rows, in the type of `draw` and in fp8.

    The fp8 line holds the product only; quantising its input is a line of its own elsewhere.
    """
    width, ffn = shape.width, shape.ffn_width
    for name, inputs, outputs in (
        ("qkv", width, 3 * width),
        ("o", width, width),
        ("ffn up", width, ffn),
        ("ffn down", ffn, width),
    ):
        x, weight = draw(rows, inputs), draw(outputs, inputs, scale=inputs**-0.5)
        bias = draw(outputs)
        exact = F.linear(x.float(), weight.float(), bias.float())
        label = f"linear {name} {rows} x {inputs} x {outputs}"
        work = Work(label, "linear", (), num_flops=2 * rows * inputs * outputs, num_bytes=1)
        codes, weights = quantise_rows(x, "fp8"), quantise_rows(weight, "fp8")

        def whole(x: Tensor = x, weight: Tensor = weight, bias: Tensor = bias) -> Tensor:
            return F.linear(x, weight, bias)

        def eighth(
            codes: tuple[Tensor, Tensor] = codes,
            weights: tuple[Tensor, Tensor] = weights,
            bias: Tensor = bias,
            dtype: torch.dtype = x.dtype,
        ) -> Tensor:
            return scaled_linear_library(*codes, *weights, bias, dtype)

        # Eight-bit numbers have three bits of mantissa: sums of many agree to a few per cent.
        for backend, call, tolerance in (("torch", whole, 2e-2), ("fp8", eighth, 8e-2)):
            if begin(label, backend):
                yield _timed(work, backend, call, exact, timer, tolerance)


def _timed(
    work: Work,
    backend: str,
    call: Callable[[], Tensor],
    exact: Tensor,
    timer: Timer,
    tolerance: float,
) -> Line:
    check = Check(work, (exact,))
    candidate = Candidate(backend, lambda: {"linear": call})
    return _line(work, examine(candidate, ("linear",), [check], timer, tolerance)[0])


def candidates_to_measure() -> list[Candidate]:
    """The backends that may serve, and PyTorch's compiler, which only shows what it would give."""

    def compiled() -> Mapping[str, Operation]:
        from streamer_kernels.compiled import COMPILED, compile_ops

        ops = compile_ops()
        return {name: getattr(ops, name) for name in COMPILED}

    return [*candidates_at_hand(), Candidate("torch-compile", compiled)]


@torch.no_grad()
def run(
    device: torch.device,
    dtype: torch.dtype,
    timer: Timer,
    *,
    shape: Shape = SHAPE,
    windows: Sequence[int] = WINDOWS,
    num_sink: int = SINK,
    rows: Sequence[int] = ROWS,
    candidates: Sequence[Candidate] | None = None,
    parts: Sequence[Part] = PARTS,
    begin: Begin = begin_all,
) -> Iterator[Line]:
    """Every measurement of these parts, one after the other, what matters most first."""
    candidates = candidates_to_measure() if candidates is None else candidates
    tolerance = TOLERANCES[dtype.itemsize]
    middle = replace(shape, num_valid=windows[len(windows) // 2])
    if "attention" in parts:
        for window in windows:
            plain = attend_checks(replace(shape, num_valid=window), device, dtype)
            yield from measure(plain, candidates, timer, tolerance, begin)
        # The pass that ends one block and begins the next.
        for window in windows:
            pair = views_checks(replace(shape, num_valid=window), device, dtype)
            yield from measure(pair, candidates, timer, tolerance, begin)
        sunk = replace(middle, num_sink=num_sink)
        for each in (sunk, replace(middle, ring="int8"), replace(middle, ring="fp8")):
            plain = attend_checks(each, device, dtype)
            yield from measure(plain, candidates, timer, tolerance, begin)
    if "products" in parts:
        for count in rows:
            yield from products(shape, count, Draw(device, dtype), timer, begin)
    if "rows" in parts:
        for check in row_checks(shape, device, dtype):
            yield from measure([check], candidates, timer, tolerance, begin)
