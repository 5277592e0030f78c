"""Playout in virtual time: how long finished blocks wait, and how even the picture is.

python -m tests.playout --minutes 10
"""

from __future__ import annotations

import argparse
import asyncio
import random
from collections.abc import Callable

import numpy as np

from tests.test_pacing import BLOCK, jittery, run

SEEDS = (1, 2)
SETTLE_BLOCKS = 20
PAUSE_S = 0.15


def gauss(mean_s: float, deviation_s: float) -> Callable[[int], float]:
    """Times of blocks, normally distributed."""
    return lambda index: max(0.02, random.Random(index).gauss(mean_s, deviation_s))


ARRIVALS: dict[str, Callable[[int], float]] = {
    "fast, 0.2 s each": lambda index: 0.2,
    "steady, 0.70 s, give or take 0.03": gauss(0.70, 0.03),
    "uneven, 0.55 s, give or take 0.05": gauss(0.55, 0.05),
    "jittered, 0.68 s, give or take 0.12, spikes of 0.5 s": jittery,
    "slower than playback, 1.0 s, give or take 0.1": gauss(1.0, 0.1),
}


async def measure(time_for_block: Callable[[int], float], minutes: float, seed: int) -> str:
    """One line of figures."""
    one = await run(lambda index: time_for_block(index + seed * 1_000_000), 60 * minutes)
    waits = np.array(one.waits(SETTLE_BLOCKS, one.shown[-1][1].block))
    gaps = one.gaps(SETTLE_BLOCKS * BLOCK)
    return (
        f"waits {np.median(waits):.3f} s in the median, p95 {np.quantile(waits, 0.95):.3f}; "
        f"{(gaps > PAUSE_S).sum() / minutes:.1f} pauses a minute, longest gap {gaps.max():.3f} s; "
        f"{1 / gaps.mean():.2f} fps"
    )


async def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    minutes: float = parser.parse_args().minutes
    for name, times in ARRIVALS.items():
        print(name)
        for seed in SEEDS:
            print("  ", await measure(times, minutes, seed))


if __name__ == "__main__":
    asyncio.run(main())
