"""One interpreter for all tests of kernels: starting it takes longer than most of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kernels.interpreter import Interpreter, start_interpreter


@pytest.fixture(scope="session")
def interpreter() -> Iterator[Interpreter]:
    with start_interpreter() as started:
        yield started
