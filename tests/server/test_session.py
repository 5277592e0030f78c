"""The conversation over the WebSocket: order, limits, faults, and what is freed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, cast

import pytest

from streamer.errors import OfferError, OutOfMemoryError, WeightsError
from streamer.server import channel
from streamer.server import session as session_module
from streamer.server.access import Rate
from streamer.server.loading import LoadingEngine
from streamer.server.protocol import Pong
from streamer.server.streams import Streams
from tests.fakes import FakeEngine, pattern_config, settle

Serve = Any

SNOW = {"id": "p2", "text": "snow"}


class FakeViewer:
    """Answers any offer but `broken`; `hang` never gets an answer."""

    open: list[FakeViewer]

    def __init__(self, on_closed: Callable[[Any], None]) -> None:
        self.answer_sdp, self.codec = "v=0 answer", "VP8"
        self.on_closed = on_closed
        self.round_trip_s = 0.08
        self.is_closed = asyncio.Event()

    @classmethod
    async def accept(
        cls, sdp: str, broadcast: Any, ice: Any, *, on_closed: Callable[[Any], None]
    ) -> FakeViewer:
        if sdp == "broken":
            raise OfferError("the offer has no video")
        if sdp == "hang":
            await asyncio.Event().wait()
        viewer = cls(on_closed)
        cls.open.append(viewer)
        return viewer

    def rtp_timestamp(self, pts: int) -> int | None:
        return 5000 + pts

    async def close(self) -> None:
        if self in self.open:
            self.open.remove(self)
            self.is_closed.set()
            self.on_closed(self)


@pytest.fixture
def viewers(monkeypatch: pytest.MonkeyPatch) -> list[FakeViewer]:
    """The open viewers; connections are imagined."""
    FakeViewer.open = []
    monkeypatch.setattr(session_module, "Viewer", FakeViewer)
    return FakeViewer.open


async def test_from_hello_to_the_first_frame_and_a_change(
    serve: Serve, viewers: list[FakeViewer]
) -> None:
    talk = await (await serve()).talk()
    welcome = await talk.greet()
    assert welcome["version"] == 1
    assert {"swap", "recache", "blend", "cut"} <= set(welcome["transitions"])
    stream = await talk.start(seed=7)
    assert stream["token"]
    assert (stream["seed"], stream["width"], stream["fps"]) == (7, 64, 16)
    assert stream["prompt"] == {"id": "p1", "text": "a red balloon", "transition": None}
    await talk.say("offer", sdp="v=0")
    assert await talk.hear("answer") == {"type": "answer", "sdp": "v=0 answer", "codec": "VP8"}
    await talk.say("set_prompt", prompt=SNOW)
    accepted = await talk.hear("prompt_accepted")
    applied = await talk.hear("prompt_applied", prompt_id="p2")
    assert applied["block"] == accepted["block"]
    assert applied["text"] == "snow"
    assert applied["rtp_timestamp"] >= 5000


async def test_pings_are_answered_and_shown_is_taken(serve: Serve) -> None:
    talk = await (await serve()).talk()
    await talk.greet()
    await talk.say("shown", prompt_id="p1", latency_ms=612.5)
    await talk.say("ping", id=3)
    assert await talk.hear("pong") == {"type": "pong", "id": 3}


async def test_hello_comes_first_and_once(serve: Serve) -> None:
    talk = await (await serve()).talk()
    await talk.say("ping", id=1)
    assert await talk.refusal() == ("stream_state", "ping")
    await talk.greet()
    await talk.say("hello", version=1)
    assert await talk.refusal() == ("stream_state", "hello")


async def test_another_protocol_version_is_told_to_reload(serve: Serve) -> None:
    talk = await (await serve()).talk()
    await talk.say("hello", version=2)
    error = await talk.hear("error")
    assert "reload the page" in error["message"]
    assert await talk.close_code() == 1002


async def test_a_client_that_says_no_hello_is_closed(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "HELLO_S", 0.05)
    talk = await (await serve()).talk()
    assert await talk.close_code() == 1002


async def test_a_silent_client_is_closed_and_its_viewer_freed(
    serve: Serve, viewers: list[FakeViewer]
) -> None:
    served = await serve(viewer_silence_s=0.2)
    talk = await served.talk()
    await talk.greet()
    await talk.start()
    await talk.say("offer", sdp="v=0")
    await talk.hear("answer")
    assert (await served.health())["viewers"] == 1
    assert await talk.close_code() == 1001
    await served.until(viewers=0)
    assert not viewers


@pytest.mark.parametrize(
    ("text", "code", "about"),
    [
        ("{", "message_invalid", None),
        (b"\x00\x01", "message_invalid", None),
        ('{"type": "dance"}', "message_invalid", None),
        ('{"type": "pause", "now": true}', "message_invalid", "pause"),
        ('{"type": "set_seed", "seed": "7"}', "message_invalid", "set_seed"),
        ('{"type": "set_prompt", "prompt": {"id": "p", "text": "  "}}', "prompt_invalid", None),
        (
            json.dumps({"type": "set_prompt", "prompt": {"id": "p", "text": "x" * 2001}}),
            "prompt_invalid",
            None,
        ),
        ('{"type": "start", "prompt": {"id": "p", "text": "x"}}', "stream_state", "start"),
        ('{"type": "offer", "sdp": "broken"}', "offer_invalid", "offer"),
    ],
)
async def test_bad_input_is_an_error_event_and_changes_nothing(
    serve: Serve,
    viewers: list[FakeViewer],
    text: str | bytes,
    code: str,
    about: str | None,
) -> None:
    served = await serve()
    talk = await served.talk()
    await talk.greet()
    stream = await talk.start()
    before = (await served.http.get(f"/api/streams/{stream['id']}/script")).text
    await talk.socket.send(text)
    found_code, found_about = await talk.refusal()
    assert found_code == code
    if about is not None:
        assert found_about == about
    await talk.say("ping", id=9)
    await talk.hear("pong")
    assert (await served.http.get(f"/api/streams/{stream['id']}/script")).text == before
    assert (await served.health())["viewers"] == 0


async def test_a_message_that_is_too_big_closes_with_1009(serve: Serve) -> None:
    talk = await (await serve(message_bytes=1000)).talk()
    await talk.greet()
    await talk.socket.send("x" * 1001)
    assert await talk.close_code() == 1009


@pytest.mark.parametrize("kind", ["offer", "set_prompt", "set_seed", "pause", "resume", "stop"])
async def test_what_needs_a_stream_says_so_without_one(serve: Serve, kind: str) -> None:
    talk = await (await serve()).talk()
    await talk.greet()
    fields: dict[str, dict[str, Any]] = {
        "offer": {"sdp": "v=0"},
        "set_prompt": {"prompt": SNOW},
        "set_seed": {"seed": 1},
    }
    await talk.say(kind, **fields.get(kind, {}))
    assert await talk.refusal() == ("stream_state", kind)


async def test_a_reconnecting_director_goes_on_with_the_same_stream(
    serve: Serve, viewers: list[FakeViewer]
) -> None:
    served = await serve()
    first = await served.talk()
    await first.greet()
    stream = await first.start()
    await first.socket.close()
    again = await served.talk()
    await again.greet(stream=stream["id"], token=stream["token"])
    assert (await again.hear("stream"))["token"] == stream["token"]
    await again.say("set_prompt", prompt=SNOW)
    await again.hear("prompt_accepted")


async def test_a_viewer_by_link_watches_and_cannot_steer(
    serve: Serve, viewers: list[FakeViewer]
) -> None:
    served = await serve()
    director, guest = await served.talk(), await served.talk()
    await director.greet()
    stream = await director.start()
    await guest.greet(stream=stream["id"])
    assert (await guest.hear("stream"))["token"] is None
    for kind, fields in (
        ("set_prompt", {"prompt": SNOW}),
        ("set_seed", {"seed": 1}),
        ("pause", {}),
        ("resume", {}),
    ):
        await guest.say(kind, **fields)
        assert await guest.refusal() == ("not_director", kind)
    await guest.say("offer", sdp="v=0")
    await guest.hear("answer")
    await director.say("pause")
    await guest.hear("status", state="paused")
    await guest.say("stop")
    await served.until(viewers=0, streams=1)


async def test_a_wrong_token_or_an_unknown_stream_attaches_nothing(serve: Serve) -> None:
    served = await serve()
    director = await served.talk()
    await director.greet()
    stream = await director.start()
    for fields, code in (
        ({"stream": stream["id"], "token": "guess"}, "not_director"),
        ({"stream": "s-none"}, "stream_unknown"),
    ):
        talk = await served.talk()
        await talk.greet(**fields)
        assert await talk.refusal() == (code, "hello")
        await talk.say("pause")
        assert await talk.refusal() == ("stream_state", "pause")


async def test_stopping_ends_the_stream_for_everybody_and_makes_place_for_another(
    serve: Serve, viewers: list[FakeViewer]
) -> None:
    served = await serve()
    director, guest = await served.talk(), await served.talk()
    await director.greet()
    stream = await director.start()
    await guest.greet(stream=stream["id"])
    for talk in (director, guest):
        await talk.say("offer", sdp="v=0")
        await talk.hear("answer")
    both = list(viewers)
    await director.say("stop")
    for talk in (director, guest):
        assert (await talk.hear("status", state="ended"))["detail"]
    await served.until(streams=0, viewers=0)
    await director.start("another")
    for viewer in both:
        await asyncio.wait_for(viewer.is_closed.wait(), 30)


@pytest.mark.parametrize("is_polite", [True, False])
async def test_a_client_that_leaves_frees_its_viewer(
    serve: Serve, viewers: list[FakeViewer], is_polite: bool
) -> None:
    served = await serve()
    talk = await served.talk()
    await talk.greet()
    await talk.start()
    await talk.say("offer", sdp="v=0")
    await talk.hear("answer")
    if is_polite:
        await talk.socket.close()
    else:
        talk.socket.transport.abort()
    await served.until(viewers=0, streams=1)
    assert not viewers


async def test_a_client_that_leaves_while_its_offer_is_answered_frees_its_place(
    serve: Serve, viewers: list[FakeViewer], monkeypatch: pytest.MonkeyPatch
) -> None:
    entered = asyncio.Event()
    accept = FakeViewer.accept.__func__  # type: ignore[attr-defined]

    async def noted(cls: Any, *args: Any, **kwargs: Any) -> FakeViewer:
        entered.set()
        return await accept(cls, *args, **kwargs)  # type: ignore[no-any-return]

    monkeypatch.setattr(FakeViewer, "accept", classmethod(noted))
    monkeypatch.setattr(session_module, "ANSWER_S", 0.1)
    served = await serve()
    talk = await served.talk()
    await talk.greet()
    await talk.start()
    await talk.say("offer", sdp="hang")
    await asyncio.wait_for(entered.wait(), 30)
    await talk.socket.close()
    await served.until(viewers=0)


async def test_a_viewer_whose_connection_fails_may_offer_again(
    serve: Serve, viewers: list[FakeViewer]
) -> None:
    served = await serve()
    talk = await served.talk()
    await talk.greet()
    await talk.start()
    await talk.say("offer", sdp="v=0")
    await talk.hear("answer")
    await viewers[0].close()
    await served.until(viewers=0)
    await talk.say("offer", sdp="v=0")
    await talk.hear("answer")
    await served.until(viewers=1)


async def test_a_second_offer_replaces_the_first_only_when_it_can_be_answered(
    serve: Serve, viewers: list[FakeViewer]
) -> None:
    served = await serve(max_viewers=1)
    talk = await served.talk()
    await talk.greet()
    await talk.start()
    await talk.say("offer", sdp="v=0")
    await talk.hear("answer")
    (first,) = viewers
    await talk.say("offer", sdp="broken")
    assert await talk.refusal() == ("offer_invalid", "offer")
    assert viewers == [first]
    await talk.say("offer", sdp="v=0")
    await talk.hear("answer")
    await asyncio.wait_for(first.is_closed.wait(), 30)
    assert len(viewers) == 1
    assert (await served.health())["viewers"] == 1


async def test_viewers_beyond_the_limit_are_told_when_to_come_back(
    serve: Serve, viewers: list[FakeViewer]
) -> None:
    served = await serve(max_viewers=1)
    director, guest = await served.talk(), await served.talk()
    await director.greet()
    stream = await director.start()
    await director.say("offer", sdp="v=0")
    await director.hear("answer")
    await guest.greet(stream=stream["id"])
    await guest.say("offer", sdp="v=0")
    error = await guest.hear("error")
    assert error["code"] == "busy"
    assert "try again when" in error["message"]


async def test_streams_beyond_the_limit_are_told_when_to_come_back(
    serve: Serve, viewers: list[FakeViewer]
) -> None:
    served = await serve(max_streams=1)
    one, two = await served.talk(), await served.talk()
    await one.greet()
    await one.start()
    await one.say("offer", sdp="v=0")
    await one.hear("answer")
    await two.greet()
    await two.say("start", prompt=SNOW)
    error = await two.hear("error")
    assert (error["code"], error["about"]) == ("busy", "start")
    assert "try again in a minute" in error["message"]


async def test_changes_that_come_too_fast_are_refused_and_the_newest_accepted_one_plays(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Rate, "take", _take_three(Rate.take))
    talk = await (await serve()).talk()
    await talk.greet()
    await talk.start()
    for number in range(4):
        await talk.say("set_prompt", prompt={"id": f"q{number}", "text": "snow"})
    assert await talk.refusal() == ("busy", "set_prompt")
    await talk.say("ping", id=1)
    await talk.hear("pong")


def _take_three(take: Callable[[Rate, str], None]) -> Callable[[Rate, str], None]:
    """The same rate with a burst of three, and a clock that stands still."""

    def patched(rate: Rate, what: str) -> None:
        if what == "changes":
            rate.clock = lambda: 0.0
            rate.burst, rate.per_s = 3, 0.001
            rate._left = min(rate._left, 3)
            rate._then_s = 0.0
        take(rate, what)

    return patched


async def test_loading_is_shown_and_a_stream_may_be_started_meanwhile(serve: Serve) -> None:
    engine = FakeEngine(block_s=0.02)
    engine.start_gate = asyncio.Event()
    served = await serve(engine)
    talk = await served.talk()
    welcome = await talk.greet()
    assert welcome["loading"] == 0.5
    assert await talk.hear("loading") == {
        "type": "loading",
        "progress": 0.5,
        "stage": "reading weights",
    }
    assert (await talk.start())["state"] == "starting"
    assert (await served.http.get("/readyz")).status_code == 503
    engine.start_gate.set()
    await talk.hear("loading", progress=1.0)
    await talk.hear("status", state="playing")
    assert (await served.http.get("/readyz")).status_code == 200


async def test_a_model_that_cannot_be_loaded_is_told_to_everybody(serve: Serve) -> None:
    engine = FakeEngine()
    engine.start_gate = asyncio.Event()
    engine.start_error = WeightsError("storybook.safetensors: missing; is it downloaded?")
    served = await serve(engine)
    talk = await served.talk()
    await talk.greet()
    engine.start_gate.set()
    assert (await talk.hear("error"))["code"] == "weights_invalid"
    await talk.say("start", prompt=SNOW)
    assert await talk.refusal() == ("weights_invalid", "start")
    late = await served.talk()
    await late.greet()
    assert await late.refusal() == ("weights_invalid", "hello")
    ready = await served.http.get("/readyz")
    assert ready.status_code == 503
    assert ready.json()["status"] == "failed"
    assert "storybook.safetensors" in ready.json()["stage"]


async def test_a_stream_that_fails_is_told_and_the_other_one_plays_on(serve: Serve) -> None:
    engine = FakeEngine(block_s=0.02)
    engine.prompt_failures["p2"] = OutOfMemoryError("no memory left for this stream")
    served = await serve(engine)
    one, two = await served.talk(), await served.talk()
    for talk in (one, two):
        await talk.greet()
        await talk.start()
        await talk.hear("prompt_applied", prompt_id="p1")
    await one.say("set_prompt", prompt=SNOW)
    assert await one.refusal() == ("out_of_memory", None)
    assert "no memory left" in (await one.hear("status", state="ended"))["detail"]
    await two.say("set_prompt", prompt={"id": "p3", "text": "rain"})
    await two.hear("prompt_applied", prompt_id="p3")
    assert (await served.health())["streams"] == 1
    await one.start("again")
    await one.hear("prompt_applied", prompt_id="p1")


async def test_a_failure_of_the_server_itself_closes_with_1011(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: object, *args: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(session_module.Session, "_start", fail)
    talk = await (await serve()).talk()
    await talk.greet()
    await talk.say("start", prompt=SNOW)
    assert await talk.refusal() == ("internal", None)
    assert await talk.close_code() == 1011


async def test_a_page_of_another_site_is_closed_with_1008(serve: Serve) -> None:
    served = await serve()
    talk = await served.talk(origin="http://evil.example")
    assert await talk.close_code() == 1008
    own = await served.talk(origin=served.url.rstrip("/"))
    await own.greet()


class StuckSocket:
    """A client that says hello, then does not close, and reads nothing until `reads` is set."""

    def __init__(self) -> None:
        self.hello = ['{"type": "hello", "version": 1}']
        self.reads = asyncio.Event()
        self.sent: list[str] = []
        self.closed: tuple[int, str] | None = None

    async def accept(self) -> None:
        pass

    async def receive(self) -> dict[str, str]:
        if self.hello:
            return {"type": "websocket.receive", "text": self.hello.pop()}
        return await asyncio.Event().wait()  # type: ignore[return-value]

    async def send_text(self, text: str) -> None:
        await self.reads.wait()
        self.sent.append(text)

    async def close(self, code: int, reason: str) -> None:
        self.closed = (code, reason)


@pytest.mark.parametrize("reads_at_last", [False, True])
async def test_a_client_that_does_not_read_is_given_up_instead_of_filling_memory(
    monkeypatch: pytest.MonkeyPatch, reads_at_last: bool
) -> None:
    monkeypatch.setattr(channel, "FLUSH_S", 20.0 if reads_at_last else 0.01)
    config, engine = pattern_config(), FakeEngine()
    loading = LoadingEngine(
        config, engine, on_progress=lambda done, stage: None, on_failed=lambda error: None
    )
    socket = StuckSocket()
    session = session_module.Session(cast("Any", socket), config, loading, Streams(config, loading))
    running = asyncio.ensure_future(session.run())
    await settle()
    for number in range(channel.OUTBOX_LIMIT + 1):
        session.tell(Pong(id=number))
    if reads_at_last:
        socket.reads.set()
    await asyncio.wait_for(running, 30)
    # Of all that was told no more than the one message that was under way.
    assert len(socket.sent) == int(reads_at_last)
    assert socket.closed == ((channel.CLOSE_GONE, "too slow") if reads_at_last else None)
