import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from streamer.config import Config, load_config
from streamer.driver import StreamDriver
from streamer.engine.handle import Engine, WorkerStream
from streamer.engine.pattern import read_barcode
from streamer.errors import (
    ConfigError,
    EngineError,
    OutOfMemoryError,
    PromptError,
    StreamUnknownError,
    WeightsError,
    WorkerDiedError,
    WorkerStartError,
)
from streamer.stream import Prompt, Restored, StreamSpec
from tests.calm import is_calm
from tests.engine import faulty_worker

ROOT = Path(__file__).resolve().parents[2]
SPEC = StreamSpec("pattern", 5, 256, 160, 16)
PROMPTLY_S = 0.5
"""The handle sees a death in milliseconds; a busy machine may schedule it late."""


@pytest.fixture
def config() -> Config:
    return load_config("pattern")


@pytest.fixture
async def engine(config: Config) -> AsyncIterator[Engine]:
    """An engine whose worker fails when a prompt asks for it."""
    engine = Engine(config, entry=faulty_worker.run)
    yield engine
    await engine.close()


def driver_on(engine: Engine, config: Config) -> StreamDriver:
    return StreamDriver(engine, SPEC, config.stream)


def kill(engine: Engine) -> int:
    pid = engine.worker_pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    return pid


async def test_starting_reports_progress_until_the_worker_is_ready(config: Config):
    seen: list[tuple[float, str]] = []
    engine = Engine(config, on_progress=lambda part, stage: seen.append((part, stage)))
    assert not engine.is_ready
    await engine.start()
    try:
        assert engine.is_ready
        assert engine.worker_pid is not None
        assert psutil.pid_exists(engine.worker_pid)
        assert engine.progress == 1.0
        assert [part for part, _ in seen] == sorted(part for part, _ in seen)
        assert seen[0][0] == 0.0
        assert seen[-1] == (1.0, "ready")
    finally:
        await engine.close()


async def test_blocks_arrive_whole_and_in_order(engine: Engine):
    stream = await engine.open(SPEC)
    numbers = []
    for index in range(20):
        block = await stream.next_block([Prompt("a", "red blue")] if index == 0 else [])
        assert block.index == index
        assert block.prompt_id == "a"
        numbers += [read_barcode(frame) for frame in block.frames]
    assert numbers == list(range(240))


async def test_a_stream_whose_opener_gave_up_is_not_left_in_the_worker(engine: Engine):
    busy = await engine.open(SPEC)
    making = asyncio.create_task(busy.next_block([Prompt("a", "slow")]))
    await asyncio.sleep(0)
    worker = engine._worker
    assert worker is not None
    given_up = asyncio.create_task(engine.open(SPEC))
    await asyncio.sleep(0)
    newest = max(worker._pending)
    given_up.cancel()
    with pytest.raises(asyncio.CancelledError):
        await given_up
    await making
    for number in (newest - 1, newest, newest + 1):  # of request and stream, in whatever order
        with pytest.raises(StreamUnknownError):
            await WorkerStream(worker, number).next_block([])


async def test_a_block_is_not_changed_by_the_blocks_after_it(engine: Engine):
    stream = await engine.open(SPEC)
    kept = [await stream.next_block([]) for _ in range(10)]
    assert [read_barcode(block.frames[0]) for block in kept] == list(range(0, 120, 12))


async def test_a_killed_worker_fails_the_pending_call_at_once(engine: Engine):
    stream = await engine.open(SPEC)
    call = asyncio.create_task(stream.next_block([Prompt("a", "hang")]))
    await asyncio.sleep(0)
    killed_at = time.monotonic()
    kill(engine)
    with pytest.raises(WorkerDiedError, match="killed by signal 9"):
        await call
    assert time.monotonic() - killed_at < PROMPTLY_S or not is_calm()


async def test_a_stream_goes_on_in_a_new_worker_after_kill_9(engine: Engine, config: Config):
    driver = driver_on(engine, config)
    await driver.advance([Prompt("a", "slow")])
    made = asyncio.create_task(driver.advance())
    await asyncio.sleep(faulty_worker.SLOW_S / 4)
    old = kill(engine)
    block = await made
    assert block.index == 1
    assert [read_barcode(frame) for frame in block.frames] == list(range(12, 24))
    assert engine.worker_pid not in (None, old)
    assert driver.script.events[-1] == (1, Restored())


async def test_streams_that_lose_a_worker_share_the_new_one(engine: Engine, config: Config):
    drivers = [driver_on(engine, config) for _ in range(3)]
    for driver in drivers:
        await driver.advance([Prompt("a", "red")])
    kill(engine)
    blocks = await asyncio.gather(*(driver.advance() for driver in drivers))
    assert [block.index for block in blocks] == [1, 1, 1]
    children = [p for p in psutil.Process().children() if "spawn_main" in " ".join(p.cmdline())]
    assert [child.pid for child in children] == [engine.worker_pid]


async def test_a_dead_idle_worker_is_replaced_without_anybody_asking(config: Config):
    starts = 0
    replaced = asyncio.Event()

    def count(part: float, stage: str) -> None:
        nonlocal starts
        starts += stage == "ready"
        if starts == 2:
            replaced.set()

    engine = Engine(config, on_progress=count)
    await engine.start()
    old = kill(engine)
    async with asyncio.timeout(10):
        await replaced.wait()
    assert engine.worker_pid not in (None, old)
    await engine.close()


async def test_closing_a_stream_of_a_dead_worker_is_fine(engine: Engine):
    stream = await engine.open(SPEC)
    kill(engine)
    await stream.close()
    with pytest.raises(WorkerDiedError):
        await stream.next_block([])


async def test_out_of_memory_ends_one_stream_only(engine: Engine):
    poor, other = await engine.open(SPEC), await engine.open(SPEC)
    pid = engine.worker_pid
    with pytest.raises(OutOfMemoryError, match="3 GiB"):
        await poor.next_block([Prompt("a", "no memory")])
    assert (await other.next_block([])).index == 0
    assert engine.worker_pid == pid


async def test_an_error_raised_on_purpose_comes_back_as_it_is(engine: Engine):
    stream = await engine.open(SPEC)
    with pytest.raises(PromptError, match="not this one; try another"):
        await stream.next_block([Prompt("a", "refuse")])
    assert (await stream.next_block([])).index == 0


async def test_an_unknown_error_ends_the_worker_with_its_reason(
    engine: Engine, capfd: pytest.CaptureFixture[str]
):
    stream, other = await engine.open(SPEC), await engine.open(SPEC)
    failing = asyncio.create_task(stream.next_block([Prompt("a", "crash")]))
    waiting = asyncio.create_task(other.next_block([]))
    for call in (failing, waiting):
        with pytest.raises(WorkerDiedError, match="ZeroDivisionError: nobody foresaw this"):
            await call
    assert "Traceback" in capfd.readouterr().err


async def test_a_block_that_always_kills_ends_the_stream_not_the_engine(
    engine: Engine, config: Config
):
    with pytest.raises(EngineError, match="3 workers in a row"):
        await driver_on(engine, config).advance([Prompt("a", "spit out")])
    assert (await driver_on(engine, config).advance([Prompt("a", "red")])).index == 0


async def test_a_cancelled_call_leaves_a_stream_that_must_be_restored(
    engine: Engine, config: Config
):
    driver = driver_on(engine, config)
    await driver.advance([Prompt("a", "slow")])
    call = asyncio.create_task(driver.advance())
    await asyncio.sleep(faulty_worker.SLOW_S / 4)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    block = await driver.advance()
    assert block.index == 1
    assert read_barcode(block.frames[0]) == 12


async def test_streams_take_turns(engine: Engine):
    greedy, modest = await engine.open(SPEC), await engine.open(SPEC)
    order: list[str] = []

    async def make(name: str, stream: object) -> None:
        await stream.next_block([])  # type: ignore[attr-defined]
        order.append(name)

    calls = [make("greedy", greedy) for _ in range(6)]
    await asyncio.gather(*calls, make("modest", modest))
    assert order.index("modest") <= 2


async def test_a_stream_for_another_model_is_refused(engine: Engine):
    with pytest.raises(ConfigError, match="'storybook' at 256x160"):
        await engine.open(StreamSpec("storybook", 1, 256, 160, 16))


async def test_missing_weights_are_reported_by_start(config: Config):
    engine = Engine(config, entry=faulty_worker.run_without_weights)
    with pytest.raises(WeightsError, match="there is no such weights file"):
        await engine.start()
    assert not engine.is_ready
    await engine.close()


async def test_a_worker_that_dies_while_loading_cannot_start(config: Config):
    engine = Engine(config, entry=faulty_worker.run_broken)
    with pytest.raises(WorkerStartError, match="exit code 7"):
        await engine.start()
    await engine.close()


async def test_an_unknown_error_while_loading_is_named(
    config: Config, capfd: pytest.CaptureFixture[str]
):
    engine = Engine(config, entry=faulty_worker.run_unforeseen)
    with pytest.raises(WorkerStartError, match="ZeroDivisionError"):
        await engine.start()
    await engine.close()
    assert "Traceback" in capfd.readouterr().err


async def test_closing_ends_a_hanging_worker_and_frees_everything(config: Config):
    counts = []
    for _ in range(4):
        engine = Engine(config, entry=faulty_worker.run)
        stream = await engine.open(SPEC)
        call = asyncio.create_task(stream.next_block([Prompt("a", "hang")]))
        await asyncio.sleep(0)
        pid = engine.worker_pid
        await engine.close()
        with pytest.raises(WorkerDiedError):
            await call
        assert pid is not None
        assert not psutil.pid_exists(pid)
        with pytest.raises(EngineError, match="closed"):
            await engine.open(SPEC)
        del engine, stream, call
        gc.collect()
        counts.append((psutil.Process().num_fds(), threading.active_count()))
    assert counts[3] == counts[1]  # the first start also starts what Python keeps for later ones


async def test_closing_while_it_starts_leaves_no_process(config: Config):
    engine = Engine(config)
    starting = asyncio.create_task(engine.start())
    await asyncio.sleep(0.01)
    await engine.close()
    with pytest.raises(asyncio.CancelledError):
        await starting
    children = [p for p in psutil.Process().children() if "spawn_main" in " ".join(p.cmdline())]
    assert children == []


async def test_the_worker_ignores_ctrl_c(engine: Engine):
    stream = await engine.open(SPEC)
    pid = engine.worker_pid
    assert pid is not None
    os.kill(pid, signal.SIGINT)
    assert (await stream.next_block([])).index == 0
    assert engine.worker_pid == pid


ORPHAN = """
import asyncio, sys
from streamer.config import load_config
from streamer.engine.handle import Engine
from streamer.stream import Prompt, StreamSpec
from tests.engine import faulty_worker

async def main():
    engine = Engine(load_config("pattern"), entry=faulty_worker.run)
    stream = await engine.open(StreamSpec("pattern", 5, 256, 160, 16))
    call = asyncio.create_task(stream.next_block([Prompt("a", "hang")]))
    await asyncio.sleep(0)
    print(engine.worker_pid, flush=True)
    await call

if __name__ == "__main__":
    asyncio.run(main())
"""

TIDY = """
import asyncio, os, signal, sys
from streamer.config import load_config
from streamer.driver import StreamDriver
from streamer.engine.handle import Engine
from streamer.stream import Prompt, StreamSpec

async def main():
    config = load_config("pattern")
    engine = Engine(config)
    driver = StreamDriver(engine, StreamSpec("pattern", 5, 256, 160, 16), config.stream)
    await driver.advance([Prompt("a", "red")])
    os.kill(engine.worker_pid, signal.SIGKILL)
    await driver.advance()
    await engine.close()

if __name__ == "__main__":
    import logging
    logging.disable(logging.CRITICAL)
    asyncio.run(main())
    assert "torch" not in sys.modules
"""


def script(folder: Path, text: str) -> list[str]:
    path = folder / "parent.py"
    path.write_text(text)
    return [sys.executable, "-W", "error", str(path)]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'kernels'}"}


def test_a_worker_ends_with_its_parent_even_in_the_middle_of_a_block(tmp_path: Path):
    with subprocess.Popen(
        script(tmp_path, ORPHAN), env=environment(), stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        worker = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    worker.wait(timeout=5)


def test_nothing_is_left_behind_and_nothing_is_said_after_kill_9(tmp_path: Path):
    shared = Path("/dev/shm")
    before = set(shared.iterdir()) if shared.is_dir() else set()
    done = subprocess.run(
        script(tmp_path, TIDY), env=environment(), capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    if shared.is_dir():
        assert {p for p in set(shared.iterdir()) - before if p.name.startswith("pym")} == set()


def test_the_event_loop_side_never_imports_torch():
    modules = "streamer.engine.handle, streamer.driver, streamer.stream, streamer.server.protocol"
    code = f"import sys, {modules}; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
