"""What happens when memory runs out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from streamer.errors import OutOfMemoryError


@contextlib.contextmanager
def memory_guard() -> Iterator[None]:
    """Turn the ways in which torch says that memory ran out into OutOfMemoryError."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise OutOfMemoryError(f"the device has no memory left for this stream: {error}") from error
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):
            raise
        raise OutOfMemoryError(
            f"the machine has no memory left for this stream: {error}"
        ) from error
