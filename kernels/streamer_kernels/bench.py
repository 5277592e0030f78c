"""How fast the kernels are on this GPU: against libraries, and against what the device can do.

    python -m streamer_kernels.bench [--json FILE] [--part PART ...] [--within SECONDS]

A process of its own measures, told here line by line.  If a kernel hangs or takes that process with
it, the pair is named, and a new process goes on behind it.  The file is written after every line.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TextIO

import torch

from streamer_kernels.bench_lines import PARTS, Line, Part, run, with_speedups
from streamer_kernels.choose import is_lost
from streamer_kernels.faults import ITSELF, OVER, SPOILED
from streamer_kernels.timing import DeviceTimer

NEEDS_GPU = (
    "the kernel benchmark needs a CUDA device and this machine has none; "
    "python -m streamer_kernels.check compiles the kernels without one"
)
WITHIN_S = 300.0
PATIENCE_S = 60.0
"""A process that has said nothing for so long hangs.  Compiling a kernel takes seconds."""
LOST = 3
"""How a measuring process ends when a kernel has spoiled the device for it."""
INTERRUPTED = 130
"""How this one ends after Ctrl-C or SIGTERM."""

Pair = tuple[str, str]
"""A work and a backend."""


class Measured:
    """What measuring processes have told so far.  Owner: `supervise`.

    device, versions: of the machine.  trying: the pair that is being measured.  done: all pairs
    that need not be measured again, those included that nobody survived.
    """

    def __init__(self) -> None:
        self.device = self.versions = ""
        self.lines: list[Line] = []
        self.trying: Pair | None = None
        self.done: list[Pair] = []

    def hear(self, text: str) -> bool:
        """Take one message; whether it brought a line."""
        try:
            told = json.loads(text)
        except ValueError:
            return False  # A library printed something.
        if not isinstance(told, dict):
            return False
        if "device" in told:
            self.device, self.versions = told["device"], told["versions"]
        if "trying" in told:
            self._settle()
            self.trying = (told["trying"][0], told["trying"][1])
        if "line" in told:
            self.lines.append(Line(**told["line"]))
        return "line" in told

    def lose(self, reason: str) -> bool:
        """The process is gone; whether another one can go on behind what it was trying."""
        pair = self.trying
        if pair is None:
            self.lines.append(Line(ITSELF, "-", None, fault=reason))
            return False
        if pair not in [(line.work, line.backend) for line in self.lines]:
            self.lines.append(Line(*pair, None, fault=reason))
        self._settle()
        return True

    def _settle(self) -> None:
        if self.trying is not None:
            self.done.append(self.trying)
        self.trying = None

    def as_dict(self, is_complete: bool) -> dict[str, object]:
        """For JSON."""
        lines = [asdict(line) for line in with_speedups(self.lines)]
        told = {"device": self.device, "versions": self.versions}
        return {**told, "is_complete": is_complete, "lines": lines}


def supervise(
    command: Sequence[str],
    keep: Callable[[Measured, bool], None],
    *,
    within_s: float,
    patience_s: float = PATIENCE_S,
) -> Measured:
    """Run measuring processes until one has measured all that is left, or the time is over.

    keep: told after every line, and at last with True when everything was measured.
    """
    measured, until = Measured(), time.monotonic() + within_s
    while True:
        reason = _listen(command, measured, keep, until, patience_s)
        if reason is None:
            keep(measured, True)
            return measured
        is_over = time.monotonic() >= until
        can_go_on = measured.lose(OVER if is_over else reason)
        keep(measured, False)
        if is_over or not can_go_on:
            return measured


def _listen(
    command: Sequence[str],
    measured: Measured,
    keep: Callable[[Measured, bool], None],
    until: float,
    patience_s: float,
) -> str | None:
    """Hear one process to its end; why it ended before its work did, None when it did not."""
    child = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert child.stdin is not None
    assert child.stdout is not None
    heard: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    pump = threading.Thread(target=_pump, args=(child.stdout, heard), daemon=True)
    pump.start()
    try:
        child.stdin.write(json.dumps(measured.done))
        child.stdin.close()
        while True:
            wait_s = max(0.0, min(patience_s, until - time.monotonic()))
            try:
                text = heard.get(timeout=wait_s)
            except queue.Empty:
                return f"said nothing for {wait_s:.0f} s"
            if text is None:
                break
            if measured.hear(text):
                print(_brief(measured.lines[-1]), file=sys.stderr, flush=True)
                keep(measured, False)
        code = child.wait()
    except BrokenPipeError:
        code = child.wait()
    finally:
        # With all that it has started, such as a compiler.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        pump.join()
        child.stdout.close()
        with contextlib.suppress(BrokenPipeError):
            child.stdin.close()
    if code == LOST:
        return SPOILED
    return None if code == 0 else f"its process ended with {code}"


def _pump(source: TextIO, heard: queue.SimpleQueue[str | None]) -> None:
    for text in source:
        heard.put(text)
    heard.put(None)


def _brief(line: Line) -> str:
    spent = _number(line.milliseconds, ".4f")
    return f"{line.work}, {line.backend}: " + (line.fault or f"{spent} ms")


def measure_here(parts: Sequence[Part], done: Sequence[Pair], out: TextIO) -> int:
    """Body of a measuring process: tell every line as soon as it is there."""
    device = torch.device("cuda", torch.cuda.current_device())

    def tell(**message: object) -> None:
        print(json.dumps(message), file=out, flush=True)

    def begin(work: str, backend: str) -> bool:
        is_wanted = (work, backend) not in done
        if is_wanted:
            tell(trying=[work, backend])
        return is_wanted

    tell(device=torch.cuda.get_device_name(device), versions=_versions())
    for line in run(device, torch.bfloat16, DeviceTimer(device), parts=parts, begin=begin):
        if line.fault is not None and is_lost(device):
            tell(line=asdict(replace(line, fault=f"{line.fault} ({SPOILED})")))
            return LOST
        tell(line=asdict(line))
    return 0


def _versions() -> str:
    python = ".".join(map(str, sys.version_info[:3]))
    try:
        import triton
    except ImportError:
        return f"Python {python}, torch {torch.__version__}, no triton"
    return f"Python {python}, torch {torch.__version__}, triton {triton.__version__}"


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
    """Print the table; 2 where there is no GPU, 1 when a Triton kernel is wrong or kills."""
    parser = argparse.ArgumentParser(prog="streamer_kernels.bench", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    parser.add_argument("--part", action="append", choices=PARTS, help="only this; may be repeated")
    parser.add_argument("--within", type=float, default=WITHIN_S, metavar="SECONDS")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print(NEEDS_GPU, file=sys.stderr)
        return 2
    parts = options.part or PARTS
    if options.measure:
        done = [(work, backend) for work, backend in json.load(sys.stdin)]
        return measure_here(parts, done, sys.stdout)

    def keep(measured: Measured, is_complete: bool) -> None:
        if options.json is not None:
            told = json.dumps(measured.as_dict(is_complete), indent=1)
            options.json.write_text(told, encoding="utf-8")

    command = [sys.executable, "-m", "streamer_kernels.bench", "--measure"]
    for part in parts:
        command += ["--part", part]
    # What ends this process from outside ends what it has started, too.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        measured = supervise(command, keep, within_s=options.within)
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, before)
    print(f"{measured.device}, {measured.versions}")
    print(table(with_speedups(measured.lines)))
    return int(any(_is_our_fault(line) for line in measured.lines))


def _is_our_fault(line: Line) -> bool:
    """A form that this device does not have was never begun; a wrong one has an error, one that
    took its process with it says so."""
    is_broken = line.error is not None or any(
        told in (line.fault or "") for told in ("process", "said nothing")
    )
    return line.fault is not None and is_broken and line.backend.startswith("triton")


if __name__ == "__main__":
    raise SystemExit(main())
