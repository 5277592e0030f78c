"""A worker that hands pictures over as planes on a processor, too, where it is not done."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from streamer_kernels.i420 import to_i420

from streamer.config import Config
from streamer.engine import worker
from streamer.engine.diffusion import DiffusionModel


def run_planar_worker(*arguments: Any) -> None:
    """Entry of the process."""
    load_model = worker.load_model

    def load(config: Config, report: Callable[[float, str], None]) -> worker.VideoModel:
        model = load_model(config, report)
        assert isinstance(model, DiffusionModel)
        model.to_planes = to_i420
        return model

    worker.load_model = load
    worker.run_worker(*arguments)
