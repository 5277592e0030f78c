"""What one H200 was predicted to reach, rung by rung, and which rungs a measurement missed.

Predictions for Wan2.1 1.3B at 832x480, four steps and the clean pass, from counted operations and
assumed rates of kernels; they are about ten per cent uncertain.  Nothing here was measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

UNCERTAINTY = 0.10
WINDOWS = (21, 12)
NUM_PASSES = 5
PERCENT = 100

Verdict = Literal["reached", "within the uncertainty", "missed", "not measured"]


@dataclass(frozen=True)
class Rung:
    """A state of the program and the pictures a second predicted for it, by window.

    setting: how `streamer bench` is asked for it; None where the program has no such state.
    """

    name: str
    fps: Mapping[int, float]
    setting: str | None


LADDER = (
    Rung(
        "PyTorch's operators, library attention, no graphs",
        {21: 24.5, 12: 32.0},
        "backend=torch,graphs=false,fused=false",
    ),
    Rung("fused kernels, chosen attention, graphs", {21: 30.2, 12: 43.5}, "fused=false"),
    Rung("and the clean pass with the next first step", {21: 33.3, 12: 47.6}, "fused=true"),
    Rung(
        "and fp8 linear maps",
        {21: 36.0, 12: 53.3},
        "fused=true,eight_bit=fp8",
    ),
    Rung("and fp8 attention", {21: 46.1, 12: 65.7}, None),
)
LIMIT_BF16 = {21: 46.9, 12: 67.0}
"""Pictures a second if every product ran at the bf16 rate of a large one, 790 TFLOP/s."""


@dataclass(frozen=True)
class Rate:
    """A rate of a kind of kernel, in TFLOP/s: what the ladder assumes."""

    name: str
    tflops: float


ATTENTION_RATES = {
    "triton-pointer": Rate("attention, pointer form", 380.0),
    "triton-hopper": Rate("attention, Hopper form", 460.0),
    "cudnn": Rate("attention, library", 500.0),
}
PAIR_RATE = Rate("attention of the pass over two blocks", 560.0)
PRODUCT_RATE = Rate("linear maps, bf16, one block", 620.0)
EIGHT_BIT_RATE = Rate("linear maps, fp8, one block", 950.0)

# TFLOP of one pass over one block: all layers.
PRODUCTS_TFLOP = 11.70
ATTENTION_TFLOP = {21: 28.259, 12: 16.148}
OTHER_MS = 20.0
"""Cross-attention, norms, gates and the rest of a block's five passes."""


@dataclass(frozen=True)
class Step:
    """One rung at one window: what was predicted, what was found."""

    rung: Rung
    window: int
    measured_fps: float | None

    @property
    def predicted_fps(self) -> float:
        """Pictures a second by the prediction."""
        return self.rung.fps[self.window]

    @property
    def verdict(self) -> Verdict:
        """Whether the rung was reached."""
        if self.measured_fps is None:
            return "not measured"
        if self.measured_fps >= self.predicted_fps:
            return "reached"
        least = self.predicted_fps * (1.0 - UNCERTAINTY)
        return "within the uncertainty" if self.measured_fps >= least else "missed"

    def __str__(self) -> str:
        """A sentence."""
        said = f"window {self.window}, {self.rung.name}: predicted {self.predicted_fps:.1f}"
        if self.measured_fps is None:
            why = "" if self.rung.setting else " (the program has no such state)"
            return f"{said}, not measured{why}"
        off = self.measured_fps / self.predicted_fps - 1.0
        return f"{said}, measured {self.measured_fps:.1f} ({PERCENT * off:+.0f} %): {self.verdict}"


def climb(found: Mapping[tuple[int, str], float]) -> list[Step]:
    """Every rung at every window.  found: pictures a second by window and name of a rung."""
    return [
        Step(rung, window, found.get((window, rung.name))) for window in WINDOWS for rung in LADDER
    ]


def explain(window: int, block_ms: float, attention_tflops: float, product_tflops: float) -> str:
    """Where a block's time goes by the rates of the kernels alone, against the assumed ones.

    block_ms: without fused passes, steady.  *_tflops: measured, of one block.
    """
    attention = NUM_PASSES * ATTENTION_TFLOP[window] * 1000
    products = NUM_PASSES * PRODUCTS_TFLOP * 1000
    spent = attention / attention_tflops, products / product_tflops
    assumed = attention / ATTENTION_RATES["cudnn"].tflops, products / PRODUCT_RATE.tflops
    rest = block_ms - sum(spent)
    return (
        f"window {window}: {block_ms:.0f} ms a block = attention {spent[0]:.0f} (assumed "
        f"{assumed[0]:.0f}) + linear maps {spent[1]:.0f} (assumed {assumed[1]:.0f}) + all else "
        f"{rest:.0f} (assumed {OTHER_MS:.0f})"
    )
