"""The line for a stream."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from streamer.errors import BusyError
from streamer.server.line import LINE_LIMIT, Line
from streamer.server.streams import Streams
from streamer.stream import Prompt
from tests.fakes import FakeEngine, pattern_config
from tests.server.test_app import png

Serve = Any


class Visitor:
    """Somebody who wants a stream, and what they were told."""

    def __init__(self) -> None:
        self.told: list[tuple[int, int]] = []
        self.has_entered = False
        self.is_there = True

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


async def test_who_went_without_a_word_is_left_out() -> None:
    places = Places(0)
    line = Line(places.require, sleep=places.sleep)
    visitors = [Visitor() for _ in range(3)]
    for visitor in visitors:
        line.join(visitor)
    visitors[0].is_there = False
    places.free = 1
    await places.pass_time()
    assert [visitor.has_entered for visitor in visitors] == [False, True, False]
    assert visitors[2].told[-1] == (1, 1)
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


SNOW = {"prompt": "snow"}


async def begin(served: Any, **body: object) -> Any:
    return await served.http.post("/api/streams", json={**SNOW, **body})


async def its_turn(served: Any, url: str) -> Any:
    """What a ticket answers when it waits no longer."""
    async with asyncio.timeout(10):
        while True:
            answer = await served.http.get(url)
            if answer.status_code != 202:
                return answer
            await asyncio.sleep(0.05)


@pytest.mark.usefixtures("patient")
async def test_no_door_passes_the_line(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one waits by WebSocket, a place that becomes free is theirs, whoever asks how."""
    monkeypatch.setattr("streamer.server.line.LOOK_EVERY_S", 2.0)
    served = await serve(max_streams=1)
    one, two, three = [await served.talk() for _ in range(3)]
    for talk in (one, two, three):
        await talk.greet()
    await one.start()
    await two.say("start", prompt={"id": "p1", "text": "rain"}, wait=True)
    await two.hear("queued")
    await one.say("stop")  # the place is free from here on, and seen to be after a while
    await one.hear("status", state="ended")
    refused = await begin(served)
    assert (refused.status_code, refused.json()["code"]) == (503, "busy")
    assert "1 waits for a place" in refused.json()["message"]
    assert int(refused.headers["retry-after"]) > 0
    await three.say("start", prompt={"id": "p1", "text": "fog"})
    assert await three.refusal() == ("busy", "start")
    queued = await begin(served, wait=True)
    assert (queued.status_code, queued.json()["position"]) == (202, 2)
    assert (await two.hear("stream"))["prompt"]["text"] == "rain"


@pytest.mark.usefixtures("patient")
async def test_a_ticket_becomes_a_stream_when_it_is_its_turn(serve: Serve) -> None:
    served = await serve(max_streams=1)
    first = (await begin(served, wait=True)).json()
    assert first["token"], "there was a place: no waiting"
    tickets = [await begin(served, wait=True, seed=seed) for seed in (7, 8)]
    assert [answer.status_code for answer in tickets] == [202, 202]
    url, later = (answer.headers["location"] for answer in tickets)
    assert tickets[0].json() == {
        "ticket": url.rpartition("/")[2],
        "position": 1,
        "length": 1,
        "url": url,
    }
    looked = await served.http.get(later)
    assert (looked.status_code, looked.json()["position"], looked.json()["length"]) == (202, 2, 2)
    headers = {"Authorization": f"Bearer {first['token']}"}
    await served.http.delete(f"/api/streams/{first['id']}", headers=headers)
    answer = await its_turn(served, url)
    stream = answer.json()
    assert (answer.status_code, stream["seed"]) == (200, 7)
    assert stream["token"]
    assert stream["url"] == f"{served.url}#{stream['id']}"
    assert (await served.http.get(url)).json()["id"] == stream["id"], "an answer may get lost"
    left = await served.http.delete(url)
    assert (left.status_code, left.json()["code"]) == (409, "stream_state")
    assert (await served.http.get(later)).json()["position"] == 1
    assert (await served.http.delete(later)).status_code == 204
    gone = await served.http.get(later)
    assert (gone.status_code, gone.json()["code"]) == (404, "stream_unknown")


@pytest.mark.usefixtures("patient")
async def test_a_ticket_nobody_asks_for_leaves_the_line(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = await serve(max_streams=1)
    await begin(served)
    monkeypatch.setattr("streamer.server.tickets.SILENT_S", 0.2)
    silent = (await begin(served, wait=True)).headers["location"]
    await asyncio.sleep(0.3)
    after = await begin(served, wait=True)
    assert after.json()["position"] == 1
    assert (await served.http.get(silent)).status_code == 404


@pytest.mark.usefixtures("patient")
async def test_a_stream_from_a_file_waits_in_the_same_line(serve: Serve) -> None:
    served = await serve(max_streams=1)
    first = (await begin(served)).json()

    async def upload(**query: str) -> Any:
        return await served.http.post(
            "/api/streams/from-file",
            params={"prompt": "snow", **query},
            content=png(90),
            headers={"Content-Type": "image/png"},
        )

    assert (await upload()).status_code == 503
    queued = await upload(wait="true")
    assert queued.status_code == 202
    assert (await begin(served, wait=True)).json()["position"] == 2
    headers = {"Authorization": f"Bearer {first['token']}"}
    await served.http.delete(f"/api/streams/{first['id']}", headers=headers)
    answer = await its_turn(served, queued.headers["location"])
    script = await served.http.get(f"/api/streams/{answer.json()['id']}/script")
    assert '"opening"' in script.text


async def test_a_parked_stream_comes_back_behind_those_who_wait() -> None:
    streams = Streams(pattern_config(max_streams=1), FakeEngine(0.02))
    parked = streams.start(Prompt("p1", "red"), 1)
    parked.stream._park_after_s = 0.0
    assert not parked.stream.holds_place
    playing = streams.start(Prompt("p2", "blue"), 2)
    waiting = Visitor()
    streams.wait(waiting)
    assert waiting.told == [(1, 1)]
    await playing.stream.end("over")
    with pytest.raises(BusyError, match="1 waits for a place"):
        streams.admit_viewer(parked.stream)
    streams.line.leave(waiting)
    streams.admit_viewer(parked.stream)
    await streams.close()
