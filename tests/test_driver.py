import io

import pytest

from streamer.driver import MAX_DEATHS, StreamDriver
from streamer.errors import EngineError, OutOfMemoryError, WorkerDiedError, WorkerLostError
from streamer.stream import (
    Prompt,
    Reseed,
    Restored,
    Script,
    StreamSpec,
    Transition,
    TransitionKind,
)
from tests.fakes import FakeEngine, pattern_config

SPEC = StreamSpec("pattern", 7, 64, 64, 16)
RED = Prompt("red", "red")


def new_driver(engine: FakeEngine, **options: object) -> StreamDriver:
    return StreamDriver(engine, SPEC, pattern_config().stream, **options)


async def instant(_: float) -> None:
    """No time passes."""


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(sleep=instant)


async def test_blocks_follow_each_other_and_events_are_recorded_with_the_default_transition(engine):
    driver = new_driver(engine)
    blocks = [await driver.advance([RED]), await driver.advance(), await driver.advance()]
    assert [block.index for block in blocks] == [0, 1, 2]
    assert [block.first_frame for block in blocks] == [0, 12, 24]
    assert driver.script.events == [(0, Prompt("red", "red", Transition(TransitionKind.SWAP)))]


async def test_a_dead_worker_is_answered_by_a_restore_that_the_script_remembers(engine):
    told = []
    driver = new_driver(engine, on_restoring=lambda: told.append(driver.next_block))
    await driver.advance([RED])
    engine.failures[1] = WorkerDiedError("killed")
    block = await driver.advance([Prompt("blue", "blue")])
    assert block.index == 1
    assert block.prompt_id == "blue"
    assert told == [1]
    assert engine.restored_at == [1]
    assert [type(event) for event in driver.script.at(1)] == [Prompt, Restored]


async def test_a_script_is_on_disk_before_its_events_take_effect(engine):
    file = io.StringIO()
    driver = new_driver(engine, script_file=file)
    engine.failures[0] = OutOfMemoryError("full")
    with pytest.raises(OutOfMemoryError):
        await driver.advance([RED])
    assert Script.read(io.StringIO(file.getvalue())).events[0][1].id == "red"


async def test_a_block_that_kills_every_worker_ends_the_stream(engine):
    driver = new_driver(engine)
    await driver.advance([RED])
    engine.prompt_failures["bad"] = WorkerDiedError("killed")
    with pytest.raises(EngineError, match=f"ended {MAX_DEATHS} workers"):
        await driver.advance([Prompt("bad", "bad")])


async def test_a_parked_stream_comes_back_where_it_was(engine):
    driver = new_driver(engine)
    await driver.advance([RED])
    await driver.park()
    assert driver.is_parked
    assert engine.num_open == 0
    block = await driver.advance()
    assert block.index == 1
    assert driver.script.at(1) == (Restored(),)


async def test_a_recorded_restore_is_made_again_at_its_block(engine):
    driver = new_driver(engine)
    await driver.advance([RED])
    await driver.advance([Restored()])
    assert engine.restored_at == [1]
    assert driver.script.at(1) == (Restored(),)
    assert engine.num_open == 1


async def test_the_truth_drops_what_was_before_a_new_seed(engine):
    driver = new_driver(engine)
    for _ in range(3):
        await driver.advance()
    await driver.advance([Reseed(3)])
    truth = driver.truth()
    assert [index for index, _ in truth.history] == [3]
    assert (truth.next_block, truth.first_frame) == (4, 48)


async def test_the_end_frees_the_worker_and_is_recorded(engine):
    driver = new_driver(engine)
    await driver.advance([RED])
    await driver.end()
    assert engine.num_open == 0
    assert "ended" in list(driver.script.lines())[-1]


async def test_workers_that_died_of_other_streams_are_not_held_against_this_one(engine):
    driver = new_driver(engine)
    await driver.advance([RED])
    lost = [WorkerLostError("somebody else's block")] * (MAX_DEATHS + 2)
    make = engine.restore

    async def restore_to_be_lost(truth):
        if lost:
            engine.failures[1] = lost.pop()
        return await make(truth)

    engine.restore = restore_to_be_lost
    engine.failures[1] = lost.pop()
    assert (await driver.advance()).index == 1
    assert len(engine.restored_at) == MAX_DEATHS + 2
