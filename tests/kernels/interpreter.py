"""Kernels under Triton's interpreter, in a process of its own.

Triton reads TRITON_INTERPRET when it is imported, for good, and so would every other test of the
same process.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager

import torch
from streamer_kernels import load_ops
from torch import Tensor


class InterpretedAttend:
    """`load_ops("triton").attend` with the interpreter behind it; counts how often it ran."""

    def __init__(self, process: ProcessPoolExecutor) -> None:
        self._process = process
        self.num_calls = 0

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        num_valid: int,
        q_sink: Tensor | None = None,
        num_sink: int = 0,
    ) -> Tensor:
        self.num_calls += 1
        # Pickled here, because multiprocessing would move tensors through shared memory.
        request = pickle.dumps((q, k, v, num_valid, q_sink, num_sink))
        out = pickle.loads(self._process.submit(_attend, request).result())
        assert isinstance(out, Tensor)
        return out


@contextmanager
def start_interpreter() -> Iterator[InterpretedAttend]:
    """The interpreter, as long as its process lives."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=_prepare) as process:
        yield InterpretedAttend(process)


def _prepare() -> None:
    os.environ["TRITON_INTERPRET"] = "1"
    torch.set_num_threads(1)


def _attend(request: bytes) -> bytes:
    with torch.no_grad():
        return pickle.dumps(load_ops("triton").attend(*pickle.loads(request)))
