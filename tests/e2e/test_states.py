"""Every state of the page, brought about by what a server says, and what the visitor then reads.

Pictures of each, wide and narrow, are left in `artefacts/`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.slow]

EXAMPLES = json.loads((Path(__file__).resolve().parents[1] / "data" / "protocol.json").read_text())[
    "server"
]


def message(kind: str, **fields: Any) -> dict[str, Any]:
    return {**EXAMPLES[kind], **fields}


LOADING = message("welcome", loading=0.1)
REFUSED = message("error", code="weights_invalid", about=None, message="weights.pt is damaged")
MEMORY = message("error", code="out_of_memory", about=None, message="the GPU is full")

WITHOUT_PICTURE = {
    "loading": (
        [LOADING, message("loading", progress=0.62, stage="reading weights")],
        "Say what you want to see.",
        "The model is being loaded. You can type already.",
    ),
    "failed-loading": (
        [LOADING, REFUSED],
        "This did not work.",
        "weights.pt is damaged. Check the weights file on the server, then start the server again.",
    ),
    "starting": (
        [message("welcome"), message("stream", state="starting")],
        "a red balloon over green hills",
        "Warming up: the first picture is being made.",
    ),
    "queued": (
        [message("welcome"), message("queued", position=3, length=5)],
        "All places are taken; 2 are before you.",
        "It begins by itself as soon as a place is free.",
    ),
    "busy": (
        [
            message("welcome"),
            message("error", code="busy", about="start", message="32 wait already"),
        ],
        "All places are taken.",
        "32 wait already.",
    ),
}

OVER_PICTURE = {
    "slow": (
        message(
            "statistics", playback_rate=0.7, measure="rate", measure_reason="a block takes 1.1 s"
        ),
        "0.7x real time",
        None,
    ),
    "paused": (message("status", state="paused"), "paused", None),
    "restoring": (
        message("status", state="restoring", detail="the engine stopped"),
        "restoring",
        "One moment, the picture comes back.",
    ),
    "parked": (message("status", state="parked"), "waiting", "The stream waits."),
    "busy": (
        message("error", code="busy", about="offer", message="8 places are taken"),
        "busy",
        "All places are taken.",
    ),
    "failed": (MEMORY, "failed", "This did not work."),
}


class Server:
    """What the page takes for the server: says what the test wants, hears what the page says."""

    def __init__(self, visitor: Any, *, is_real: bool = False) -> None:
        self._heard: list[dict[str, Any]] = []
        self.is_measuring = True
        self._socket: Any = None
        self._is_real = is_real
        self._greeting: list[dict[str, Any]] = []
        visitor.page.route_web_socket("**/ws", self._connected)

    def greet_with(self, *messages: dict[str, Any]) -> None:
        """To be said as soon as the page comes."""
        self._greeting = list(messages)

    @property
    def kinds(self) -> list[str]:
        """What the page said, by type, but for the signs of life."""
        return [each["type"] for each in self._heard if each["type"] != "ping"]

    def say(self, *messages: dict[str, Any]) -> None:
        for each in messages:
            self._socket.send(json.dumps(each))

    def leave(self) -> None:
        self._socket.close(code=1001)

    def _connected(self, socket: Any) -> None:
        self._socket = socket
        if self._is_real:
            real = socket.connect_to_server()
            socket.on_message(lambda text: self._hear(text, real))
            real.on_message(lambda text: self._pass_on(socket, text))
        else:
            socket.on_message(self._hear)
            self.say(*self._greeting)

    def _pass_on(self, socket: Any, text: str) -> None:
        """The real figures would overwrite what the test says of them."""
        if self.is_measuring or json.loads(text)["type"] != "statistics":
            socket.send(text)

    def _hear(self, text: str, real: Any = None) -> None:
        self._heard.append(json.loads(text))
        if real is not None:
            real.send(text)


def test_each_state_before_the_first_picture_says_what_happens(server, visit) -> None:
    visitor = visit()
    fake = Server(visitor)
    for name, (messages, title, sentence) in WITHOUT_PICTURE.items():
        fake.greet_with(*messages)
        visitor.page.goto("about:blank")
        visitor.open(server.url, until=name.partition("-")[0])
        assert visitor.text("#hero-title") == title, name
        assert visitor.text("#hero-sentence") == sentence, name
        visitor.shoot_both(f"state-{name}")
    assert visitor.problems == []


def test_loading_tells_progress_stage_and_the_time_left(server, visit) -> None:
    visitor = visit()
    fake = Server(visitor)
    fake.greet_with(LOADING, message("loading", progress=0.1, stage="reading weights"))
    visitor.open(server.url, until="loading")
    visitor.page.wait_for_timeout(1100)
    fake.say(message("loading", progress=0.4, stage="compiling"))
    visitor.until("document.getElementById('progress').value === 0.4")
    assert visitor.text("#stage") == "compiling"
    visitor.until(
        r"/^(about \d+ s|a moment) left$/.test(document.getElementById('time-left').textContent)"
    )


def test_each_state_over_a_picture_says_what_happens(server, visit) -> None:
    visitor = visit()
    between = Server(visitor, is_real=True)
    visitor.open(server.url)
    visitor.type_prompt("green and white stripes")
    visitor.until_playing()
    visitor.press("i")
    visitor.type_prompt("a blue evening")
    visitor.until("streamer.state().notice?.text.startsWith('changed')")
    visitor.shoot_both("state-playing")
    visitor.press("i")
    between.is_measuring = False
    for name, (told, badge, title) in OVER_PICTURE.items():
        between.say(told)
        visitor.until_phase(name)
        assert visitor.text("#badge") == badge
        assert visitor.is_visible("#hero") == (title is not None)
        if title is not None:
            assert visitor.text("#hero-title") == title
        if name == "slow":
            assert visitor.text("#hint") == "a block takes 1.1 s"
        if name == "failed":
            assert visitor.text("#hero-code") == "code: out_of_memory"
            assert visitor.text("#action") == "Start a new stream"
        visitor.shoot_both(f"state-{name}-over-picture")
        between.say(message("status", state="playing"))
        if name == "busy":
            visitor.page.locator("#action").click()
    visitor.page.locator("#action").click()
    visitor.until_phase("ready")
    assert between.kinds[-1] == "stop"
    assert visitor.problems == []


def test_the_director_sees_where_it_is_published_and_what_was_kept_of_a_failed_recording(
    server, visit
) -> None:
    visitor = visit()
    between = Server(visitor, is_real=True)
    visitor.open(server.url)
    visitor.type_prompt("green and white stripes")
    visitor.until_playing()
    failed = message("recording", state="failed", detail="the disk is full", seconds=75.0)
    between.say(message("publication", state="waiting", detail="no answer"), failed)
    visitor.press("m")
    visitor.until("document.querySelectorAll('#publications li').length === 1")
    assert visitor.text("#publications") == "trying sfu.example again: no answer"
    assert visitor.text("#files .file span") == "1:15, then failed: the disk is full"
    assert visitor.is_visible("#files .file a >> nth=0")
    visitor.shoot_both("panel-menu-published")
    between.say(message("publication", state="refused", detail="401 Unauthorized"))
    visitor.until("streamer.state().notice?.text.includes('401 Unauthorized')")
    between.say(message("publication", state="ended", detail=""))
    visitor.until("document.querySelectorAll('#publications li').length === 0")
    assert visitor.problems == []
    visitor.press("Escape")
    visitor.end()


def test_who_leaves_the_line_is_on_the_first_screen(server, visit) -> None:
    visitor = visit()
    fake = Server(visitor)
    fake.greet_with(message("welcome"))
    visitor.open(server.url)
    visitor.type_prompt("a hill")
    fake.say(message("queued", position=1, length=1))
    visitor.until_phase("queued")
    visitor.page.locator("#action").click()
    visitor.until_phase("ready")
    assert fake.kinds == ["hello", "start", "stop"]


def test_what_can_be_said_is_offered_where_the_server_knows_it(
    server: Any, visit: Callable[..., Any]
) -> None:
    visitor = visit()
    words = {"attributes": {"scene": {"meadow": ["in a meadow"], "sea": ["at sea"]}}}
    visitor.page.route("**/api/vocabulary", lambda route: route.fulfill(json=words))
    visitor.open(server.url)
    visitor.until("!document.getElementById('words-toggle').hidden")
    visitor.press("v")
    visitor.page.locator(".word").first.click()
    visitor.page.locator(".word").last.click()
    assert visitor.page.locator("#prompt").input_value() == "in a meadow, at sea"
    visitor.shoot_both("panel-words")


def test_without_a_vocabulary_nothing_is_offered(server: Any, visit: Callable[..., Any]) -> None:
    visitor = visit()
    visitor.page.route("**/api/vocabulary", lambda route: route.fulfill(status=404, json={}))
    visitor.open(server.url)
    visitor.press("v")
    assert not visitor.is_visible("#words")
    assert not visitor.is_visible("#words-toggle")
