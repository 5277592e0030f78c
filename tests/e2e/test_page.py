"""The page in a real browser against a real server: what a visitor does, and what they then see."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.calm import is_calm
from tests.e2e.conftest import PATIENCE_S

pytestmark = [pytest.mark.browser, pytest.mark.slow]

NARROW = (390, 844)
EXAMPLES = Path(__file__).resolve().parents[1] / "data" / "protocol.json"
STRIPES = "green and white stripes"
"""What the `director` of these tests begins with."""
SLOWEST_MS = 1000 * PATIENCE_S
"""Milliseconds, and no other unit, also on a busy machine."""
DIFFERENT = 25
"""Mean difference of two pictures, of 255, that nobody overlooks."""


def call(method: str, url: str, body: object = None, token: str = "") -> Any:
    request = urllib.request.Request(
        url,
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json", "Authorization": f"Bearer {token}"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.loads(answer.read() or "null")


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_the_first_screen_invites_to_type(server, visit, scheme) -> None:
    visitor = visit(scheme=scheme).open(server.url)
    assert visitor.text("#hero-title") == "Say what you want to see."
    assert visitor.page.locator("#examples .example").all_inner_texts() == [
        "red",
        "green and white stripes",
        "a blue evening",
    ]
    assert visitor.ask("document.activeElement.id") == "prompt"
    assert not visitor.is_visible("#controls")
    visitor.shoot_both(f"first-{scheme}")
    assert visitor.problems == []


def test_a_prompt_starts_a_picture_that_moves(director) -> None:
    before = director.look()
    director.until(f"streamer.stats().framesShown > {director.ask('streamer.stats().framesShown')}")
    director.until_unlike(before, 5)
    assert director.text("#caption") == STRIPES
    assert 0 < director.ask("streamer.stats().latencyMs") < SLOWEST_MS
    # The browser shows what the server plays, however fast this machine is.
    director.until("streamer.stats().fpsShown > streamer.stats().server?.fps_played / 2")
    director.page.mouse.move(400, 300)
    director.shoot("playing")


def test_a_new_prompt_changes_the_picture_while_it_plays(director) -> None:
    before, frames = director.look(), director.ask("streamer.stats().framesShown")
    notices = """() => { window.seen = [];
      new MutationObserver(() => seen.push(document.getElementById("notice").textContent))
        .observe(document.getElementById("notice"), {childList: true, characterData: true}); }"""
    director.ask(notices)
    director.type_prompt("a blue evening")
    director.until("streamer.state().notice?.text.startsWith('applies in')")
    director.shoot("prompt-notice")
    director.until("streamer.state().notice?.text.startsWith('changed')")
    director.until_unlike(before, DIFFERENT)
    assert director.text("#caption") == "a blue evening"
    assert any(text.startswith("applies in ") for text in director.ask("seen"))
    assert 50 < director.ask("streamer.stats().latencyMs") < SLOWEST_MS
    assert director.ask("streamer.stats().framesShown") > frames
    director.page.wait_for_timeout(150)
    director.shoot("prompt-changed")


def test_the_stream_survives_the_death_of_its_worker(server, director) -> None:
    stream = director.ask("streamer.state().stream.id")
    director.note_phases()
    dead = server.kill_worker()
    killed_s = time.monotonic()
    # The stream finds out when it next wants a block; by then the next worker may be there already.
    director.until_noted("restoring")
    director.until_phase("playing", "slow")
    took_s = time.monotonic() - killed_s
    assert took_s < 5 or not is_calm()
    director.until_playing()
    assert director.ask("streamer.state().stream.id") == stream
    assert [worker.pid for worker in server.workers()] != [dead]


def test_a_reload_goes_on_with_the_same_stream(server, director) -> None:
    stream = director.ask("streamer.state().stream.id")
    assert director.page.url == f"{server.url}/#{stream}"
    director.page.reload()
    director.until("streamer.stats().framesShown > 5")
    assert director.ask("streamer.state().stream.id") == stream
    assert director.text("#caption") == STRIPES
    before = director.look()
    director.type_prompt("a blue evening")
    director.until("streamer.state().notice?.text.startsWith('changed')")
    director.until_unlike(before, DIFFERENT)


def test_pause_keeps_the_picture_and_resume_goes_on(director) -> None:
    director.page.keyboard.press("Escape")
    director.page.keyboard.press(" ")
    director.until_phase("paused")
    # Only what repeating the encoding of one picture changes.
    director.until_still(0.5)
    director.shoot("paused")
    director.page.locator("#pause").click()
    director.until_playing()


def test_keys_reach_what_they_name(director) -> None:
    director.type_prompt("red")
    # Else it is said in the place of what is waited for below.
    director.until("streamer.state().notice?.text.startsWith('changed')")
    director.page.keyboard.press("ArrowUp")
    assert director.page.locator("#prompt").input_value() == "red"
    director.page.keyboard.press("ArrowUp")
    assert director.page.locator("#prompt").input_value() == STRIPES
    director.page.locator("#prompt").fill("")
    director.press("n")
    seed = director.ask("streamer.state().stream.seed")
    director.until(f"streamer.state().notice?.text === 'new seed {seed}'")
    director.press("m")
    assert director.page.locator("#seed").input_value() == str(seed)
    director.page.locator("#seed").fill("7")
    director.page.keyboard.press("Enter")
    director.until("streamer.state().stream.seed === 7")
    with director.page.expect_download() as download:
        director.page.locator("#script").click()
    lines = [json.loads(line) for line in Path(download.value.path()).read_text().splitlines()]
    assert [line["type"] for line in lines][:2] == ["spec", "prompt"]
    director.page.keyboard.press("Escape")
    assert not director.is_visible("#menu")
    for key, panel in (("?", "#keys"), ("l", "#share"), ("w", "#people")):
        director.press(key)
        assert director.is_visible(panel), panel
        director.shoot(f"panel-{panel[1:]}")
        director.page.keyboard.press("Escape")
        assert not director.is_visible(panel), panel
    director.page.keyboard.press("/")
    director.page.keyboard.press("/")
    assert director.ask("document.activeElement.id") == "prompt"
    assert director.page.locator("#prompt").input_value() == ""


def test_a_link_lets_others_watch_but_not_steer(director, visit) -> None:
    viewer = visit(NARROW).open(director.page.url, until=None)
    viewer.until("streamer.stats().framesShown > 5")
    assert viewer.is_visible("#watching")
    assert not viewer.is_visible("#prompt-form")
    assert not viewer.is_visible("#pause")
    director.type_prompt("a blue evening")
    viewer.until("document.getElementById('caption').textContent === 'a blue evening'")
    viewer.shoot("viewer-narrow")
    assert viewer.problems == []


def test_every_window_shows_picture_prompt_and_controls(director) -> None:
    page = director.page
    for width, height in ((320, 568), NARROW, (844, 390), (1920, 1080)):
        page.set_viewport_size({"width": width, "height": height})
        page.mouse.move(100 + width % 7, 100)
        page.wait_for_timeout(150)
        if (width, height) == NARROW:
            director.shoot("playing-narrow")
        for selector in ("#prompt", "#send", "#pause", "#menu-toggle", "#caption", "#ribbon"):
            box = page.locator(selector).bounding_box()
            assert box is not None, (width, selector)
            assert min(box["x"], box["y"]) >= 0, (width, selector, box)
            assert box["x"] + box["width"] <= width, (width, selector, box)
            assert box["y"] + box["height"] <= height, (width, selector, box)
        assert director.ask("document.documentElement.scrollWidth") <= width


def test_who_waits_in_line_is_served_when_a_place_is_free(server, visit) -> None:
    made: list[dict[str, Any]] = []
    try:
        for _ in range(2):
            made.append(call("POST", f"{server.url}/api/streams", {"prompt": "red"}))
        visitor = visit().open(server.url)
        visitor.type_prompt("a blue evening")
        visitor.until_phase("queued")
        assert visitor.text("#hero-title") == "All places are taken; you are next."
    finally:
        for stream in made:
            call("DELETE", f"{server.url}/api/streams/{stream['id']}", token=stream["token"])
    visitor.until_playing()
    assert visitor.text("#caption") == "a blue evening"
    visitor.end()
    visitor.shoot_both("ended")
    visitor.page.locator("#action").click()
    visitor.until_phase("ready")
    assert visitor.page.url == f"{server.url}/"


def test_a_viewer_who_found_no_place_watches_once_there_is_one(
    start_server: Callable[..., Any], visit: Callable[..., Any], tmp_path: Path
) -> None:
    tree = json.loads((EXAMPLES.parents[2] / "configs" / "pattern.json").read_text())
    config = tmp_path / "one-viewer.json"
    config.write_text(json.dumps({**tree, "server": {"max_viewers": 1}}))
    server = start_server(config=str(config))
    director = visit().open(server.url)
    director.type_prompt(STRIPES)
    director.until_playing()
    viewer = visit().open(director.page.url, until="busy")
    director.page.goto("about:blank")
    viewer.until("fetch('/healthz').then(a => a.json()).then(health => health.viewers === 0)")
    viewer.page.locator("#action").click()
    viewer.until_playing()
    assert viewer.problems == []


def test_a_broken_connection_is_told_and_mended(server, visit) -> None:
    visitor = visit()
    sockets: list[tuple[Any, Any]] = []
    is_open = True

    def connect(socket: Any) -> None:
        if is_open:
            sockets.append((socket, socket.connect_to_server()))
        else:
            socket.close(code=1001)

    visitor.page.route_web_socket("**/ws", connect)
    visitor.open(server.url)
    visitor.type_prompt("red")
    visitor.until_playing()
    stream = visitor.ask("streamer.state().stream.id")
    is_open = False
    for side in sockets[-1]:
        side.close(code=1001)
    visitor.until_phase("lost")
    assert visitor.is_visible("#still")
    is_open = True
    visitor.until_playing()
    assert visitor.ask("streamer.state().stream.id") == stream
    assert len(sockets) == 2
    visitor.end()


def test_a_server_that_comes_back_without_the_stream_leads_to_the_first_screen(
    start_server: Callable[..., Any], visit: Callable[..., Any]
) -> None:
    first = start_server()
    visitor = visit().open(first.url)
    visitor.type_prompt("green and white stripes")
    visitor.until_playing()
    first.kill()
    visitor.until_phase("lost")
    assert visitor.text("#hero-title") == "The connection was lost."
    visitor.until("streamer.state().retryMs !== null")
    visitor.shoot("lost")
    start_server(first.port)
    visitor.until_phase("loading", "ready", within_s=60)
    assert visitor.text("#notice") == "That stream is over. Type a prompt to begin a new one."
    visitor.until_phase("ready")
    assert "#" not in visitor.page.url
    visitor.page.locator(".example").first.click()
    visitor.until_playing()
    assert visitor.text("#caption") == "red"


def test_a_closed_tab_opened_again_at_its_address_still_directs(director) -> None:
    address = director.page.url
    again = director.page.context.new_page()
    director.page.close()
    director.page = again
    director.open(address, until=None)
    director.until("streamer.stats().framesShown > 5")
    before = director.look()
    director.type_prompt("a blue evening")
    director.until("streamer.state().notice?.text.startsWith('changed')")
    director.until_unlike(before, DIFFERENT)
