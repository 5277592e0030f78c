"""Passes of a model recorded once and replayed: what a GPU is asked, without asking it again.

A pass of a large model is some hundred launches, which cost the host milliseconds.  A CUDA graph
holds them with their addresses, so everything that a pass reads must stay where it is: the ring,
its slots and tables, the prompt's keys and values, and the latents and timestep that are copied
into place here.  What changes on the host between passes is the context's `fill`; each has a graph
of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from streamer.models.context import StreamingContext
from streamer.models.rolling import Fill, RollingContext
from streamer.models.transformer import PromptKV

logger = logging.getLogger(__name__)

Pass = Callable[[Tensor, Tensor, PromptKV, StreamingContext], Tensor]
Key = tuple[torch.Size, torch.dtype, Fill]


class Recorder(Protocol):
    """Records the launches of a call.

    Gives what launches them all again, and the tensor that every launch writes its result into.
    The call is not run; it must have run before, so that nothing is set up while recording.
    Raises RuntimeError for what cannot be recorded.
    """

    def __call__(self, call: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        """Record one call."""


class CudaRecorder:
    """Records into CUDA graphs, which share one pool of memory.

    They may: a stream runs one pass at a time, and results are copied out before the next.
    """

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, call: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        """See Recorder."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            result = call()
        return graph.replay, result


@dataclass
class _Recorded:
    """One graph.  replay: None until it is recorded; it is with the second pass."""

    latents: Tensor
    timestep: Tensor
    replay: Callable[[], None] | None = None
    result: Tensor | None = None


class ReplayedPass:
    """A model's pass over one context and one prompt, replayed wherever that is possible.

    Owner: a stream.  recorder: None runs every pass as it is.  The first pass of a kind runs as it
    is, which also sets up libraries; the second is recorded; all later ones are replayed.  A pass
    that cannot be recorded is logged, and from then on all run as they are.
    """

    def __init__(
        self, model: Pass, text: PromptKV, context: RollingContext, recorder: Recorder | None
    ) -> None:
        self._model = model
        self._text = text
        self._context = context
        self._recorder = recorder
        self._recorded: dict[Key, _Recorded] = {}

    @property
    def num_recorded(self) -> int:
        """How many kinds of pass are replayed."""
        return sum(each.replay is not None for each in self._recorded.values())

    def __call__(
        self, latents: Tensor, timestep: Tensor, text: PromptKV, context: StreamingContext
    ) -> Tensor:
        """The flow of latents [B, F, C, H, W] at timestep [B]; the sampler's `Model`."""
        if self._recorder is None or text is not self._text or context is not self._context:
            return self._model(latents, timestep, text, context)
        if not self._context.is_replayable:
            return self._model(latents, timestep, text, context)
        key = latents.shape, latents.dtype, self._context.fill
        found = self._recorded.get(key)
        if found is None:
            self._recorded[key] = _Recorded(latents.clone(), timestep.clone())
            return self._model(latents, timestep, text, context)
        found.latents.copy_(latents)
        found.timestep.copy_(timestep)
        if found.replay is None and not self._record(found):
            return self._model(latents, timestep, text, context)
        assert found.replay is not None
        assert found.result is not None
        found.replay()
        return found.result.clone()

    def _record(self, kind: _Recorded) -> bool:
        assert self._recorder is not None
        inputs = kind.latents, kind.timestep, self._text, self._context
        try:
            kind.replay, kind.result = self._recorder(lambda: self._model(*inputs))
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            logger.warning("event=graph_failed reason=%r passes=eager", reason)
            self._recorder = None
            self._recorded.clear()
            return False
        fill = self._context.fill
        logger.info(
            "event=graph_recorded frames=%d ahead=%d seen=%d shifted=%s",
            fill.num_frames,
            fill.num_ahead,
            fill.num_seen,
            fill.is_shifted,
        )
        return True
