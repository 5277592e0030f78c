"""The line for a stream."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from streamer.errors import BusyError
from streamer.server.line import LINE_LIMIT, Line

Serve = Any


class Visitor:
    """Somebody who wants a stream, and what they were told."""

    def __init__(self) -> None:
        self.told: list[tuple[int, int]] = []
        self.has_entered = False

    def enter(self) -> None:
        self.has_entered = True

    def advance(self, position: int, length: int) -> None:
        self.told.append((position, length))


class Places:
    """So many places are free; time passes when the test says so."""

    def __init__(self, free: int) -> None:
        self.free = free
        self._ticks: asyncio.Queue[None] = asyncio.Queue()

    def require(self) -> None:
        if self.free <= 0:
            raise BusyError("all places are taken")

    async def sleep(self, seconds: float) -> None:
        await self._ticks.get()

    async def pass_time(self) -> None:
        self._ticks.put_nowait(None)
        for _ in range(3):
            await asyncio.sleep(0)


async def test_who_finds_a_place_enters_at_once() -> None:
    line, visitor = Line(Places(1).require), Visitor()
    line.join(visitor)
    assert visitor.has_entered
    assert visitor.told == []


async def test_places_are_given_in_the_order_of_coming() -> None:
    places = Places(0)
    line = Line(places.require, sleep=places.sleep)
    first, second = Visitor(), Visitor()
    line.join(first)
    line.join(second)
    assert (first.told, second.told) == ([(1, 1)], [(2, 2)])
    await places.pass_time()
    assert not first.has_entered
    places.free = 1
    latecomer = Visitor()
    line.join(latecomer)
    assert not latecomer.has_entered, "a place that became free is the first one's"
    await places.pass_time()
    assert first.has_entered
    assert not second.has_entered
    assert second.told[-1] == (1, 2)
    await line.close()


async def test_who_leaves_lets_the_others_move_up() -> None:
    places = Places(0)
    line = Line(places.require, sleep=places.sleep)
    visitors = [Visitor() for _ in range(3)]
    for visitor in visitors:
        line.join(visitor)
    line.leave(visitors[0])
    line.leave(visitors[0])
    assert visitors[2].told[-1] == (2, 2)
    places.free = 1
    await places.pass_time()
    assert [visitor.has_entered for visitor in visitors] == [False, True, False]
    await line.close()


async def test_a_full_line_is_a_refusal() -> None:
    places = Places(0)
    line = Line(places.require, sleep=places.sleep)
    for _ in range(LINE_LIMIT):
        line.join(Visitor())
    with pytest.raises(BusyError, match="try again later"):
        line.join(Visitor())
    assert len(line) == LINE_LIMIT
    await line.close()
    assert len(line) == 0


async def test_nothing_runs_while_nobody_waits() -> None:
    places = Places(0)
    line, visitor = Line(places.require, sleep=places.sleep), Visitor()
    line.join(visitor)
    await asyncio.sleep(0)
    places.free = 1
    await places.pass_time()
    assert visitor.has_entered
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "line"]


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that nobody watches yet keeps its place for as long as a test takes."""
    monkeypatch.setattr("streamer.server.streams.LEAVING_S", 60.0)


@pytest.mark.usefixtures("patient")
async def test_a_client_that_waits_gets_its_stream_when_another_ends(serve: Serve) -> None:
    served = await serve(max_streams=1)
    one, two = await served.talk(), await served.talk()
    await one.greet()
    await one.start()
    await two.greet()
    prompt = {"id": "p1", "text": "snow"}
    await two.say("start", prompt=prompt, wait=True)
    assert (await two.hear("queued"))["position"] == 1
    await two.say("start", prompt=prompt, wait=True)
    assert await two.refusal() == ("stream_state", "start")
    await one.say("stop")
    stream = await two.hear("stream")
    assert stream["prompt"]["text"] == "snow"
    assert stream["token"]


@pytest.mark.usefixtures("patient")
async def test_a_client_may_leave_the_line_and_come_back(serve: Serve) -> None:
    served = await serve(max_streams=1)
    one, two = await served.talk(), await served.talk()
    await one.greet()
    await one.start()
    await two.greet()
    for _ in range(2):
        await two.say("start", prompt={"id": "p1", "text": "snow"}, wait=True)
        assert await two.hear("queued") == {"type": "queued", "position": 1, "length": 1}
        await two.say("stop")
        await two.say("ping", id=1)
        await two.hear("pong")
