"""What a second of video looks like in numbers, and what the judge sees in it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import astuple

import numpy as np
from numpy.typing import NDArray

from streamer.distill.classifier import CLIP_FPS, AttributeClassifier, choose_frames
from streamer.distill.report import Look

BEST = 5
"""So many classes are kept of what the judge sees, the likeliest first."""
Guess = dict[str, tuple[int, ...]]
"""What the judge says of one clip: class numbers for each attribute, the likeliest first."""


def judge(classifier: AttributeClassifier, frames: NDArray[np.uint8], fps: int) -> Guess:
    """What the judge sees at the end of some frames [T, H, W, 3]."""
    logits = classifier.classify(choose_frames(frames, fps)[None])
    return {
        name: tuple(values[0].topk(min(BEST, values.shape[1])).indices.tolist())
        for name, values in logits.items()
    }


def measure_look(frames: NDArray[np.uint8], fps: int) -> Look:
    """Measure the last second of some frames, [T, H, W, 3]."""
    last = frames[-fps:].astype(np.float32)
    red, green, blue = (float(value) for value in last.mean((0, 1, 2)))
    bright = last @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    middle = bright[:, 1:-1, 1:-1]
    around = bright[:, :-2, 1:-1] + bright[:, 2:, 1:-1] + bright[:, 1:-1, :-2] + bright[:, 1:-1, 2:]
    step = max(1, fps // CLIP_FPS)
    return Look(
        red=red,
        green=green,
        blue=blue,
        contrast=float(bright.std((1, 2)).mean()),
        saturation=float((last.max(-1) - last.min(-1)).mean()),
        sharpness=float(np.abs(around - 4 * middle).mean()),
        motion=float(np.abs(bright[step:] - bright[:-step]).mean()),
    )


def mean_look(looks: Sequence[Look]) -> Look:
    """The mean of every measure."""
    return Look(*(statistics.fmean(column) for column in zip(*map(astuple, looks), strict=True)))
