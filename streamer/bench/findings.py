"""What a run of `streamer bench gpu` has found, read from its folder, and what it means."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from streamer_kernels.faults import ITSELF, OVER

from streamer.bench.gpu_stages import COMPARED, FUSED, KERNELS, Asked
from streamer.bench.ladder import (
    ATTENTION_RATES,
    EIGHT_BIT_RATE,
    LIMIT_BF16,
    PAIR_RATE,
    PRODUCT_RATE,
    WINDOWS,
    Rate,
    climb,
    explain,
)
from streamer.bench.stages import Outcome

PER_LAYER = {"qkv": 1, "o": 3, "ffn up": 1, "ffn down": 1}
"""How often a layer takes each measured product; the two of cross-attention are as large as `o`."""
KERNEL_PARTS = ("attention", "products", "rows")


class Findings:
    """What lies in the folder of a run, however much that is."""

    def __init__(self, out: Path) -> None:
        self._out = out

    def read(self, name: str) -> Any:
        """A stage's figures; None where there are none, or half a file."""
        try:
            return json.loads((self._out / f"{name}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def lines(self, part: str) -> list[Mapping[str, Any]]:
        """Lines of a part of the kernel benchmark."""
        told = self.read(part)
        return told["lines"] if isinstance(told, dict) else []

    def reports(self) -> Iterator[tuple[Asked, Mapping[str, Any]]]:
        """Every rung of the 1.3B model that was run, with its report."""
        for compared in COMPARED:
            told = self.read(compared.name)
            if isinstance(told, dict):
                yield from zip(compared.pair, (told["first"], told["second"]), strict=True)

    def attention(self, backend: str) -> float | None:
        """TFLOP/s at the longest window."""
        return _tflops(self.lines("attention"), "attend ", backend)

    def fastest(self, start: str) -> float | None:
        """TFLOP/s of the fastest backend, at the longest window."""
        lines = self.lines("attention")
        found = [_tflops(lines, start, line["backend"]) for line in lines]
        return max((each for each in found if each is not None), default=None)

    def products(self, rows: int, backend: str) -> float | None:
        """TFLOP/s of all linear maps of a layer, each as often as a layer takes it."""
        work, spent_ms = 0.0, 0.0
        lines = self.lines("products")
        for name, count in PER_LAYER.items():
            start = f"linear {name} {rows} x "
            for line in lines:
                if line["backend"] == backend and line["work"].startswith(start) and line["tflops"]:
                    work += count * line["tflops"] * line["milliseconds"]
                    spent_ms += count * line["milliseconds"]
                    break
            else:
                return None
        return work / spent_ms


def _tflops(lines: Sequence[Mapping[str, Any]], start: str, backend: str) -> float | None:
    for line in lines:
        if line["backend"] == backend and line["work"].startswith(start):
            tflops: float | None = line["tflops"]
            return tflops
    return None


def report(out: Path, outcomes: Sequence[Outcome]) -> str:
    """What was found, for people: stages, rates, decoders, the ladder, and what was not used."""
    found = Findings(out)
    parts = [["stages", *(f"  {each}" for each in outcomes)], _rates(found), _decoders(found)]
    parts += [_ladder(found), _fourteen(found), _faults(found), _cut_off(found)]
    return "\n\n".join("\n".join(part) for part in parts if len(part) > 1) + "\n"


def _rates(found: Findings) -> list[str]:
    pairs: list[tuple[Rate, float | None]] = [
        (rate, found.attention(backend)) for backend, rate in ATTENTION_RATES.items()
    ]
    pairs += [
        (PAIR_RATE, found.fastest("attend_views ")),
        (PRODUCT_RATE, found.products(4680, "torch")),
        (EIGHT_BIT_RATE, found.products(4680, "fp8")),
    ]
    lines = ["kernels, TFLOP/s at window 21"]
    for rate, measured in pairs:
        if measured is not None:
            off = measured / rate.tflops - 1.0
            lines.append(f"  {rate.name}: {measured:.0f}, assumed {rate.tflops:.0f} ({off:+.0%})")
    return lines


def _decoders(found: Findings) -> list[str]:
    told = found.read("decoders")
    lines = ["decoders, milliseconds for the pictures of a block"]
    for each in told["decoders"] if isinstance(told, dict) else ():
        spent = each["fault"] or f"{each['milliseconds']:.2f}"
        lines.append(f"  {each['name']}: {spent}")
    return lines


def _ladder(found: Findings) -> list[str]:
    made = {(asked.window, asked.rung.name): told for asked, told in found.reports()}
    if not made:
        return []
    fps = {key: float(told["steady_fps"]) for key, told in made.items()}
    lines = ["the ladder: steady pictures a second of the 1.3B at 832x480, decode included"]
    lines += [f"  {step}" for step in climb(fps)]
    for window in WINDOWS:
        told = made.get((window, FUSED.name))
        if told is not None:
            share = float(told["steady_fps"]) / LIMIT_BF16[window]
            lines += [
                f"  window {window}: {share:.0%} of the limit {LIMIT_BF16[window]} in bfloat16; "
                f"{told['peak_memory_mb'] / 1000:.1f} GB at most, first picture after "
                f"{told['first_frame_ms']:.0f} ms, block p99 {told['block_ms_p99']} ms",
                f"  window {window}: served by {_served(told)}",
            ]
        attention, products = found.fastest("attend "), found.products(4680, "torch")
        told = made.get((window, KERNELS.name))
        if told is not None and attention and products:
            lines.append(f"  {explain(window, told['block_ms_p50'], attention, products)}")
    return lines


def _served(told: Mapping[str, Any]) -> str:
    by_backend: dict[str, list[str]] = {}
    for operations, backend in told["operations"]:
        by_backend.setdefault(backend, []).append(operations)
    return "; ".join(f"{backend}: {', '.join(names)}" for backend, names in by_backend.items())


def _fourteen(found: Findings) -> list[str]:
    told = found.read("14b")
    lines = ["14B"]
    if isinstance(told, dict):
        lines.append(f"  {told['steady_fps']} pictures a second steady; wanted at least 12")
        lines.append(f"  {told['verdict']}")
    return lines


def _faults(found: Findings) -> list[str]:
    lines = ["not used"]
    for part in KERNEL_PARTS:
        lines += [
            f"  {line['work']}, {line['backend']}: {line['fault']}"
            for line in found.lines(part)
            if line["fault"] not in (None, OVER)
        ]
    return lines


def _cut_off(found: Findings) -> list[str]:
    lines = ["not measured"]
    for part in KERNEL_PARTS:
        told = found.read(part)
        # One that could not even begin is among the faults.
        has_failed = any(line["work"] == ITSELF for line in found.lines(part))
        if isinstance(told, dict) and not told["is_complete"] and not has_failed:
            lines.append(f"  {part}: cut off by the time; the rest was not measured")
    return lines
