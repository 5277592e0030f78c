"""Kernels under Triton's interpreter, in a process of its own.

Triton reads TRITON_INTERPRET when it is imported, for good, and so would every other test of the
same process.
"""

from __future__ import annotations

import importlib
import io
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any

import torch
from streamer_kernels import Ops, load_ops
from torch import Tensor


@dataclass
class Interpreter:
    """Calls functions of `streamer_kernels` with the interpreter behind them."""

    process: ProcessPoolExecutor
    num_calls: int = field(default=0)

    def call(self, target: str, *args: Any, **kwargs: Any) -> Any:
        """`module.function` of the package, called in the other process.

        Tensors that it writes are written here, too.
        """
        self.num_calls += 1
        # Packed here, because multiprocessing would move tensors through shared memory.
        answer = self.process.submit(_call, _pack((target, args, kwargs))).result()
        result, left_args, left_kwargs = _unpack(answer)
        given, left = (*args, *kwargs.values()), (*left_args, *left_kwargs.values())
        for here, there in zip(_tensors(given), _tensors(left), strict=True):
            here.copy_(there)
        return result

    def ops(self) -> Ops:
        """Every operation of the Triton backend."""
        targets = {}
        for name in (each.name for each in fields(Ops)):
            operation = getattr(load_ops("triton"), name)
            module = operation.__module__.removeprefix("streamer_kernels.")
            targets[name] = partial(self.call, f"{module}.{operation.__name__}")
        return Ops(**targets)

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        num_valid: int,
        q_sink: Tensor | None = None,
        num_sink: int = 0,
    ) -> Tensor:
        """The Triton attend."""
        out = self.call("attend_triton.attend", q, k, v, num_valid, q_sink, num_sink)
        assert isinstance(out, Tensor)
        return out


def _tensors(values: Any) -> Iterator[Tensor]:
    """The tensors among arguments, also those of tuples."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, tuple):
            yield from _tensors(value)


@contextmanager
def start_interpreter() -> Iterator[Interpreter]:
    """The interpreter, as long as its process lives."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=_prepare) as process:
        yield Interpreter(process)


def _prepare() -> None:
    os.environ["TRITON_INTERPRET"] = "1"
    torch.set_num_threads(1)


def _call(request: bytes) -> bytes:
    target, args, kwargs = _unpack(request)
    module, name = target.rsplit(".", 1)
    function = getattr(importlib.import_module(f"streamer_kernels.{module}"), name)
    with torch.no_grad():
        return _pack((function(*args, **kwargs), args, kwargs))


def _pack(value: Any) -> bytes:
    """Pickled by torch, which knows eight-bit floats."""
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def _unpack(packed: bytes) -> Any:
    return torch.load(io.BytesIO(packed), weights_only=False)
