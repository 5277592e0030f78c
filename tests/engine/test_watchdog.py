"""A worker that is stopped or stuck is killed and replaced; one that is slow is left in peace."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

from streamer.config import Config, load_config
from streamer.driver import StreamDriver
from streamer.engine import handle, process
from streamer.engine.handle import Engine
from streamer.engine.pattern import read_barcode
from streamer.engine.pulse import Patience
from streamer.errors import WeightsError, WorkerDiedError, WorkerStartError
from streamer.stream import Prompt, Restored, StreamSpec
from tests.engine import faulty_worker

SPEC = StreamSpec("pattern", 5, 256, 160, 16)
SILENT_S = 1.5
"""Thirty beats of the faulty worker, so that a busy machine is not taken for a stopped one."""
STILL_S = 0.5
LATE_S = 10.0
"""Time for a machine that is busy with other things."""


@pytest.fixture
def config() -> Config:
    return load_config("pattern")


@pytest.fixture
async def engine(config: Config) -> AsyncIterator[Engine]:
    patience = Patience(silent_s=SILENT_S, still_s=STILL_S)
    engine = Engine(config, entry=faulty_worker.run, patience=patience)
    yield engine
    await engine.close()


def stop(engine: Engine) -> int:
    """Stop the worker as a debugger would."""
    pid = engine.worker_pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    return pid


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(LATE_S):
        while not condition():  # noqa: ASYNC110 - a property of the engine, which tells nobody
            await asyncio.sleep(0.01)


async def test_a_stream_goes_on_in_a_new_worker_after_sigstop(engine: Engine, config: Config):
    driver = StreamDriver(engine, SPEC, config.stream)
    await driver.advance([Prompt("a", "red")])
    old = stop(engine)
    block = await driver.advance()
    assert block.index == 1
    assert [read_barcode(frame) for frame in block.frames] == list(range(12, 24))
    assert driver.script.events[-1] == (1, Restored())
    assert engine.worker_pid not in (None, old)
    assert not psutil.pid_exists(old)


async def test_the_pending_call_is_told_why(engine: Engine):
    stream = await engine.open(SPEC)
    stop(engine)
    with pytest.raises(WorkerDiedError, match=r"no sign of life for 1\.5 s"):
        await stream.next_block([])


async def test_a_stopped_idle_worker_is_replaced_without_anybody_asking(engine: Engine):
    await engine.start()
    old = stop(engine)
    await until(lambda: engine.worker_pid not in (None, old))


async def test_a_worker_that_stops_while_it_loads_cannot_start(config: Config):
    patience = Patience(loading_silent_s=SILENT_S)
    engine = Engine(config, entry=faulty_worker.run_stopped, patience=patience)
    with pytest.raises(WorkerStartError, match="no sign of life"):
        await engine.start()
    await engine.close()


async def test_a_worker_stuck_in_one_call_is_killed(engine: Engine, config: Config):
    stream = await engine.open(SPEC)
    old = engine.worker_pid
    with pytest.raises(WorkerDiedError, match=r"busy for \d+ s without moving on"):
        await stream.next_block([Prompt("a", "hang")])
    assert (await StreamDriver(engine, SPEC, config.stream).advance()).index == 0
    assert engine.worker_pid not in (None, old)


async def test_a_slow_block_of_many_passes_is_waited_for(engine: Engine):
    assert faulty_worker.CRAWL_S > 2 * STILL_S
    stream = await engine.open(SPEC)
    pid = engine.worker_pid
    assert (await stream.next_block([Prompt("a", "crawl")])).index == 0
    assert engine.worker_pid == pid


async def test_an_idle_worker_is_left_alone(engine: Engine):
    stream = await engine.open(SPEC)
    pid = engine.worker_pid
    await asyncio.sleep(SILENT_S + STILL_S)
    assert (await stream.next_block([])).index == 0
    assert engine.worker_pid == pid


async def test_asking_a_stopped_worker_much_never_holds_the_loop(engine: Engine):
    """More than a pipe holds: whoever writes it waits, and that must not be the event loop."""
    await engine.start()
    stop(engine)
    asked = asyncio.create_task(engine.encode(np.zeros((40, 160, 256, 3), np.uint8)))
    longest_s, then_s = 0.0, time.perf_counter()
    while not asked.done():
        await asyncio.sleep(0)
        now_s = time.perf_counter()
        longest_s, then_s = max(longest_s, now_s - then_s), now_s
    with pytest.raises(WorkerDiedError):
        await asked
    assert longest_s < SILENT_S / 2


async def test_a_process_that_even_kill_does_not_end_counts_as_gone(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
):
    """As one that waits in a driver for ever: its streams are restored elsewhere all the same."""
    monkeypatch.setattr(process, "TERMINATE_S", 0.05)
    stream = await engine.open(SPEC)
    worker = engine._worker
    assert worker is not None
    kill = worker._process.kill
    monkeypatch.setattr(worker._process, "kill", lambda: None)
    stop(engine)
    try:
        with pytest.raises(WorkerDiedError, match="no sign of life"):
            await stream.next_block([])
        assert (await (await engine.open(SPEC)).next_block([])).index == 0
    finally:
        kill()


async def test_a_worker_that_cannot_be_replaced_is_an_outage_until_one_starts(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    gone = tmp_path / "gone"
    monkeypatch.setenv(faulty_worker.GONE, str(gone))
    monkeypatch.setattr(handle, "FIRST_RETRY_S", 0.05)
    engine = Engine(config, entry=faulty_worker.run_once)
    await engine.start()
    assert engine.outage is None
    gone.touch()
    pid = engine.worker_pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    await until(lambda: engine.outage is not None)
    assert isinstance(engine.outage, WeightsError)
    assert not engine.is_ready
    gone.unlink()
    await until(lambda: engine.is_ready)
    assert engine.outage is None
    await engine.close()
