"""The engine while its model loads, and after: streams may be opened at once, and wait for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from streamer.config import Config
from streamer.driver import Engine, EngineStream
from streamer.errors import EngineError, StreamerError
from streamer.stream import Opening, Saving, StreamSpec, Truth

log = logging.getLogger(__name__)

CLOSE_S = 2.0
"""How long ending the engine may take before the server ends without it."""


class ServedEngine(Engine, Protocol):
    """An engine with a beginning and an end: `engine.handle.Engine`, fakes in tests."""

    @property
    def outage(self) -> StreamerError | None:
        """Why a worker that is gone could not be replaced; None while all is well."""

    async def start(self) -> None:
        """Load the model.  Raises StreamerError when that fails."""

    async def close(self) -> None:
        """End the worker."""

    async def encode(self, pictures: NDArray[np.uint8]) -> Opening:
        """What a stream begins with that goes on from pictures."""


class EngineFactory(Protocol):
    """What makes the engine of a server."""

    def __call__(
        self, config: Config, *, on_progress: Callable[[float, str], None]
    ) -> ServedEngine:
        """An engine not yet started; on_progress: called on the loop with 0..1 and the stage."""


class LoadingEngine:
    """The one engine of a server, shared by all its streams.

    Owner: the application, from start to shutdown.  `open` and `restore` wait until the model is
    loaded, and raise what loading raised when it failed.
    on_progress: told each step of loading.  on_failed: told once when loading failed.
    """

    def __init__(
        self,
        config: Config,
        factory: EngineFactory,
        *,
        on_progress: Callable[[float, str], None],
        on_failed: Callable[[StreamerError], None],
    ) -> None:
        self.progress = 0.0
        self.stage = "starting"
        self.error: StreamerError | None = None
        self._on_progress, self._on_failed = on_progress, on_failed
        self._engine = factory(config, on_progress=self._progressed)
        self._is_loaded = False
        self._loading: asyncio.Task[None] | None = None

    @property
    def able(self) -> frozenset[Saving]:
        """What the model can save when blocks are made too slowly."""
        return self._engine.able

    @property
    def is_ready(self) -> bool:
        """Whether the model is loaded."""
        return self._is_loaded

    @property
    def outage(self) -> StreamerError | None:
        """Why nothing can be made: loading failed, or a lost worker could not be replaced."""
        return self.error or self._engine.outage

    def start(self) -> None:
        """Load in the background."""
        self._loading = asyncio.get_running_loop().create_task(self._load(), name="loading")

    async def close(self) -> None:
        """Stop loading and end the worker."""
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.gather(self._loading, return_exceptions=True)
        try:
            await asyncio.wait_for(self._engine.close(), CLOSE_S)
        except TimeoutError:
            log.error("engine did not end within_s=%s", CLOSE_S)

    async def open(self, spec: StreamSpec) -> EngineStream:
        """A new stream at block 0, as soon as the model is loaded."""
        await self._loaded()
        return await self._engine.open(spec)

    async def restore(self, truth: Truth) -> EngineStream:
        """A stream that goes on from its truth."""
        await self._loaded()
        return await self._engine.restore(truth)

    async def encode(self, pictures: NDArray[np.uint8]) -> Opening:
        """What a stream begins with that goes on from pictures, as soon as the model is loaded."""
        await self._loaded()
        return await self._engine.encode(pictures)

    def require_sound(self) -> None:
        """Raise what loading raised."""
        if self.error is not None:
            raise self.error

    async def _loaded(self) -> None:
        if self._loading is not None:
            await asyncio.shield(self._loading)
        self.require_sound()

    async def _load(self) -> None:
        try:
            await self._engine.start()
        except StreamerError as error:
            self._fail(error)
        except Exception as error:
            log.exception("loading failed unexpectedly")
            self._fail(EngineError(f"loading failed: {type(error).__name__}: {error}"))
        else:
            if self.progress < 1:
                self._progressed(1.0, "ready")
            self._is_loaded = True

    def _fail(self, error: StreamerError) -> None:
        log.error("loading failed code=%s reason=%s", error.code, error)
        self.error = error
        self._on_failed(error)

    def _progressed(self, progress: float, stage: str) -> None:
        """The engine reports a step; also when it starts another worker later on."""
        if self._is_loaded:
            return
        self.progress, self.stage = progress, stage
        self._on_progress(progress, stage)
