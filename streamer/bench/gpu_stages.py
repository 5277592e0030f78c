"""What `streamer bench gpu` runs: commands, in the order of their worth."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from streamer.bench.ladder import LADDER, Rung
from streamer.bench.stages import WITHIN, Stage

SMALL, LARGE = "wan2.1-t2v-1.3b-self-forcing", "wan2.1-t2v-14b-self-forcing"
BLOCKS, FEW_BLOCKS = 24, 12
SINKS = {21: 0, 12: 3}
"""The published model looks back 21 frames without sinks; the short window keeps three."""


@dataclass(frozen=True)
class Asked:
    """A rung of the ladder at a window, with so many sinks."""

    window: int
    rung: Rung
    sink: int

    @property
    def setting(self) -> str:
        """How `streamer bench` is asked for it."""
        return f"window={self.window},sink={self.sink},{self.rung.setting}"


@dataclass(frozen=True)
class Compared:
    """A stage that makes blocks under two settings by turns."""

    name: str
    about: str
    pair: tuple[Asked, Asked]
    limit_s: float
    least_s: float


PLAIN, KERNELS, FUSED, EIGHT = LADDER[:4]


def _both_windows(rung: Rung) -> tuple[Asked, Asked]:
    return Asked(21, rung, SINKS[21]), Asked(12, rung, SINKS[12])


def _both_rungs(window: int) -> tuple[Asked, Asked]:
    # PyTorch's operators have no quick attention with sinks; the ladder knows none either.
    return Asked(window, KERNELS, SINKS[window]), Asked(window, PLAIN, 0)


COMPARED = (
    Compared("bf16", "1.3B in bfloat16, both windows", _both_windows(FUSED), 160.0, 90.0),
    Compared("rungs-21", "our kernels and PyTorch's, window 21", _both_rungs(21), 90.0, 50.0),
    Compared("fp8", "1.3B with fp8 linear maps, both windows", _both_windows(EIGHT), 110.0, 60.0),
    Compared("rungs-12", "our kernels and PyTorch's, window 12", _both_rungs(12), 80.0, 30.0),
)


def stages(out: Path) -> list[Stage]:
    """Everything, in the order of its worth; together under nine minutes."""
    python = (sys.executable, "-m")

    def kernels(part: str, about: str, limit_s: float, least_s: float) -> Stage:
        file = str(out / f"{part}.json")
        command = ("streamer_kernels.bench", "--json", file, "--part", part, "--within", WITHIN)
        return Stage(part, about, (*python, *command), limit_s, least_s)

    def blocks(
        name: str, about: str, asked: tuple[str, ...], limit_s: float, least_s: float
    ) -> Stage:
        fixed = "--random-weights --size 832x480 --decoder taehv --json --within"
        command = (*python, "streamer", "bench", *fixed.split(), WITHIN, *asked)
        return Stage(name, about, command, limit_s, least_s, f"{name}.json", num_tries=2)

    compared = {
        each.name: blocks(
            each.name,
            each.about,
            (
                "--config",
                SMALL,
                "--blocks",
                str(BLOCKS),
                "--compare",
                *(asked.setting for asked in each.pair),
            ),
            each.limit_s,
            each.least_s,
        )
        for each in COMPARED
    }
    decoders = (*python, "streamer.engine.decoder_bench", "--json", str(out / "decoders.json"))
    eight = ("--window", "12", "--sink", "3", "--eight-bit", "fp8", "--fused")
    fourteen = ("--config", LARGE, "--blocks", str(FEW_BLOCKS), *eight)
    return [
        kernels("attention", "attention at 12 heads x 4680 queries", 150.0, 60.0),
        kernels("products", "linear maps at 4680 and 9360 rows", 60.0, 20.0),
        Stage("decoders", "12 pictures of 832x480", decoders, 50.0, 20.0),
        compared["bf16"],
        compared["rungs-21"],
        compared["fp8"],
        blocks("14b", "14B, window 12, fp8 linear maps", fourteen, 100.0, 50.0),
        kernels("rows", "every other kernel", 110.0, 30.0),
        compared["rungs-12"],
    ]
