"""What a server tells Prometheus.  Times are histograms, so that any quantile can be asked for:

histogram_quantile(0.95, sum by (le, stage) (rate(streamer_prompt_seconds_bucket[5m])))
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Literal

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from streamer.changes import Stages

Stage = Literal[
    "wait", "text", "block", "decode", "queue", "encode", "network", "jitter_buffer", "total"
]

QUANTILES_OF = 256
"""Median and 95th percentile are told of so many newest prompts."""

_BUCKETS_S = (
    *(0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5),
    *(0.6, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.5, 10.0, 20.0),
)


class Metrics:
    """The figures of one server, in a registry of their own.  Lives on the event loop."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self._prompt = Histogram(
            "streamer_prompt_seconds",
            "From a prompt to its first picture, by stage; total as the page measured it",
            ["stage"],
            buckets=_BUCKETS_S,
            registry=registry,
        )
        self._block = Histogram(
            "streamer_block_seconds", "Time to make a block", buckets=_BUCKETS_S, registry=registry
        )
        self._encode = Histogram(
            "streamer_encode_seconds",
            "Time to encode a frame in every rendition in use",
            buckets=_BUCKETS_S,
            registry=registry,
        )
        self._frames = Counter("streamer_frames", "Frames sent", registry=registry)
        self._blocks = Counter("streamer_blocks", "Blocks made", registry=registry)
        self._prompts = Counter("streamer_prompts", "Prompts shown", registry=registry)
        self._errors = Counter(
            "streamer_errors", "Errors told to clients", ["code"], registry=registry
        )
        self._painted: deque[float] = deque(maxlen=QUANTILES_OF)
        quantiles = Gauge(
            "streamer_prompt_to_picture_seconds",
            f"From a prompt to its first picture on screen, over the newest {QUANTILES_OF} prompts",
            ["quantile"],
            registry=registry,
        )
        for quantile in (0.5, 0.95):
            quantiles.labels(str(quantile)).set_function(partial(self._quantile, quantile))
        self._measures = Counter(
            "streamer_governor_decisions",
            "Decisions of the governor",
            ["measure"],
            registry=registry,
        )

    def gauge(self, name: str, help_text: str, read: Callable[[], float]) -> None:
        """A figure that is read when Prometheus asks.  name: without the prefix `streamer_`."""
        gauge = Gauge(f"streamer_{name}", help_text, registry=self.registry)
        gauge.set_function(read)

    def note_shown(self, stages: Stages) -> None:
        """A prompt's first frame was sent; where its time went until then."""
        self._prompts.inc()
        for stage, seconds in (
            ("wait", stages.wait_s),
            ("text", stages.text_s),
            ("block", stages.block_s),
            ("decode", stages.decode_s),
            ("queue", stages.queue_s),
            ("encode", stages.encode_s),
        ):
            self._prompt.labels(stage).observe(seconds)

    def note_painted(self, seconds: float) -> None:
        """A page measured the whole way from a prompt to its first picture."""
        self.note_stage("total", seconds)
        self._painted.append(seconds)

    def note_stage(self, stage: Stage, seconds: float) -> None:
        """One prompt spent so long in a stage."""
        self._prompt.labels(stage).observe(max(0.0, seconds))

    def note_block(self, seconds: float) -> None:
        """A block was made."""
        self._blocks.inc()
        self._block.observe(seconds)

    def note_frame(self, encode_s: float) -> None:
        """A frame was sent."""
        self._frames.inc()
        if encode_s > 0:
            self._encode.observe(encode_s)

    def note_error(self, code: str) -> None:
        """A client was told of an error."""
        self._errors.labels(code).inc()

    def note_measure(self, measure: str) -> None:
        """The governor decided anew."""
        self._measures.labels(measure).inc()

    def _quantile(self, part: float) -> float:
        """NaN before the first, as Prometheus has it."""
        if not self._painted:
            return math.nan
        return float(np.quantile(self._painted, part))

    def exposition(self) -> bytes:
        """All figures in Prometheus' text format."""
        return generate_latest(self.registry)
