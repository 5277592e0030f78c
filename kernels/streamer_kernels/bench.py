"""How fast the kernels are on this GPU: against libraries, and against what the device can do.

    python -m streamer_kernels.bench [--json FILE]

Attention of Wan2.1 1.3B at 832x480 over windows of 21, 12 and 9 latent frames, its matrix products
for one block and for two blocks in one pass, and every other kernel against PyTorch.  Every result
is checked before it is timed.  Takes less than three minutes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from streamer_kernels.choose import (
    TOLERANCES,
    Candidate,
    Check,
    Result,
    attend_checks,
    candidates_at_hand,
    examine,
    row_checks,
    views_checks,
)
from streamer_kernels.quantise import quantise_rows, scaled_linear_library
from streamer_kernels.timing import DeviceTimer, Timer
from streamer_kernels.workload import Draw, Shape, Work

SHAPE = Shape()
WINDOWS = (32760, 18720, 14040)
SINK = 4680
"""One more attention at the middle window: three latent frames of sinks."""
ROWS = (4680, 9360)
NEEDS_GPU = (
    "the kernel benchmark needs a CUDA device and this machine has none; "
    "python -m streamer_kernels.check compiles the kernels without one"
)


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


def measure(
    checks: Sequence[Check], candidates: Sequence[Candidate], timer: Timer, tolerance: float
) -> Iterator[Line]:
    """Check and time every candidate that offers the operation of the first check.

    Only the first is timed; the others must be right.
    """
    work = checks[0].work
    fields = tuple(dict.fromkeys(check.work.field for check in checks))
    base: float | None = None
    for candidate in candidates:
        result = examine(candidate, fields, checks, timer, tolerance)[0]
        if not result.is_offered:
            continue
        line = _line(work, result)
        if candidate.name == "torch":
            base = line.milliseconds
        if base is not None and line.milliseconds is not None:
            line = replace(line, speedup=base / line.milliseconds)
        yield line


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


def products(shape: Shape, rows: int, draw: Draw, timer: Timer) -> Iterator[Line]:
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
        base = None
        for backend, call, tolerance in (("torch", whole, 2e-2), ("fp8", eighth, 8e-2)):
            line = _timed(work, backend, call, exact, timer, tolerance)
            base = line.milliseconds if backend == "torch" else base
            if base is not None and line.milliseconds is not None:
                line = replace(line, speedup=base / line.milliseconds)
            yield line


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
) -> Iterator[Line]:
    """Every measurement, one after the other."""
    candidates = candidates_at_hand() if candidates is None else candidates
    tolerance = TOLERANCES[dtype.itemsize]
    shapes = [replace(shape, num_valid=window) for window in windows]
    middle = replace(shape, num_valid=windows[len(windows) // 2])
    shapes += [replace(middle, num_sink=num_sink), replace(middle, ring="int8")]
    shapes += [replace(middle, ring="fp8")]
    for each in shapes:
        yield from measure(attend_checks(each, device, dtype), candidates, timer, tolerance)
    # The pass that ends one block and begins the next.
    for window in windows:
        checks = views_checks(replace(shape, num_valid=window), device, dtype)
        yield from measure(checks, candidates, timer, tolerance)
    for count in rows:
        yield from products(shape, count, Draw(device, dtype), timer)
    for check in row_checks(shape, device, dtype):
        yield from measure([check], candidates, timer, tolerance)


def table(lines: Sequence[Line]) -> str:
    """The measurements as text, a row each."""
    head = ("work", "backend", "ms", "TFLOP/s", "GB/s", "vs torch", "error")
    rows = [
        (
            line.work,
            line.backend,
            _number(line.milliseconds, ".4f"),
            _number(line.tflops, ".0f"),
            _number(line.gigabytes_per_s, ".0f"),
            _number(line.speedup, ".2f"),
            _number(line.error, ".1e") if line.fault is None else f"not used: {line.fault}",
        )
        for line in lines
    ]
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head) - 1)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, (*widths, 0), strict=True))
        )
        for row in (head, *rows)
    )


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; 2 where there is no GPU, 1 when a Triton kernel is wrong."""
    parser = argparse.ArgumentParser(prog="streamer_kernels.bench", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print(NEEDS_GPU, file=sys.stderr)
        return 2
    device = torch.device("cuda", torch.cuda.current_device())
    name = torch.cuda.get_device_name(device)
    print(f"{name}, torch {torch.__version__}")
    lines = []
    for line in run(device, torch.bfloat16, DeviceTimer(device)):
        lines.append(line)
        print(f"{len(lines)} {line.work} {line.backend}", file=sys.stderr)
    print(table(lines))
    if options.json is not None:
        told = {"device": name, "torch": torch.__version__, "lines": [asdict(x) for x in lines]}
        options.json.write_text(json.dumps(told, indent=1), encoding="utf-8")
    # A form that this device does not have has no error, a wrong one does.
    is_wrong = any(
        line.fault is not None and line.error is not None and line.backend.startswith("triton")
        for line in lines
    )
    return int(is_wrong)


if __name__ == "__main__":
    raise SystemExit(main())
