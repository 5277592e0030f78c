"""Several people in front of one stream, and what each of them takes away."""

from __future__ import annotations

import io
import json
from pathlib import Path

import av
import pytest

from streamer.delivery.screenshot import read_recipe

pytestmark = [pytest.mark.browser, pytest.mark.slow]

NARROW = (390, 844)
STRIPES = "green and white stripes"
"""What the `director` of these tests begins with."""


def test_viewers_suggest_the_director_picks_and_hands_over(director, visit) -> None:
    viewer = visit(NARROW).open(director.page.url, until=None)
    viewer.until("streamer.stats().framesShown > 5")
    assert "takes no suggestions" in viewer.text("#watching")
    assert not viewer.is_visible("#prompt-form")
    viewer.press("w")
    viewer.page.locator("#own-name").fill("Ada")
    viewer.page.keyboard.press("Enter")
    director.until("streamer.state().audience?.members.some(({name}) => name === 'Ada')")

    director.press("w")
    director.page.locator("#suggestions-open").check()
    director.shoot("panel-people-audience")
    director.page.keyboard.press("Escape")
    viewer.until("streamer.state().audience?.suggestions_open")
    viewer.page.keyboard.press("Escape")
    for wish in ("red", "a blue evening"):
        viewer.type_prompt(wish)
    director.until("document.querySelectorAll('.suggestion').length === 2")
    assert director.page.locator(".suggestion-text").all_inner_texts() == ["red", "a blue evening"]
    director.shoot("suggestions")
    viewer.shoot("suggestions-narrow")
    director.page.locator(".suggestion-drop").first.click()
    director.page.locator(".suggestion-play").last.click()
    director.until("streamer.state().notice?.text.startsWith('changed')")
    viewer.until("document.getElementById('caption').textContent === 'a blue evening'")
    viewer.until("document.querySelectorAll('.suggestion').length === 0")

    director.press("w")
    heir = director.page.locator(".member button:visible")
    heir.click()
    assert heir.inner_text() == "Really hand over?"
    assert director.ask("streamer.state().stream.token") is not None, "the first press only asks"
    heir.click()
    viewer.until("streamer.state().stream.token !== null")
    director.until("streamer.state().stream.token === null")
    director.page.keyboard.press("Escape")
    assert director.text("#badge") == "watching"
    viewer.type_prompt("red")
    viewer.until("streamer.state().notice?.text.startsWith('changed')")
    assert viewer.problems == []
    viewer.end()


def test_who_comes_late_sees_what_was_shown_on_the_ribbon(director, visit) -> None:
    director.type_prompt("a blue evening")
    director.until("streamer.state().notice?.text.startsWith('changed')")
    late = visit().open(director.page.url, until=None)
    late.until("streamer.stats().framesShown > 5")
    late.until("document.querySelectorAll('.ribbon-piece').length === 2")
    labels = late.ask(
        "[...document.querySelectorAll('.ribbon-piece button')].map((each) => each.ariaLabel)"
    )
    assert labels[0] == f"0:00 {STRIPES}"
    assert labels[1].endswith(" a blue evening")
    first, second = (late.page.locator(".ribbon-piece").nth(i).bounding_box() for i in (0, 1))
    assert first["x"] + first["width"] == pytest.approx(second["x"], abs=2)
    # The past is at hand: a press puts it into the line.
    director.page.locator(".ribbon-piece button").first.click()
    assert director.page.locator("#prompt").input_value() == STRIPES
    director.page.locator("#prompt").fill("")


def test_a_link_with_the_token_directs_and_the_video_alone_is_alone(director, visit) -> None:
    director.press("l")
    director.until("document.querySelector('#code path') !== null")
    assert director.page.locator("#link").input_value() == director.page.url
    director.page.locator("#share-direction").check()
    link = director.page.locator("#link").input_value()
    director.page.keyboard.press("Escape")
    other = visit().open(link, until=None)
    other.until("streamer.stats().framesShown > 5")
    assert "/#" in other.page.url
    assert other.page.url == director.page.url, "the token leaves the address at once"
    assert other.is_visible("#prompt-form")

    clean = visit().open(director.page.url.replace("/#", "/?clean=1#"), until=None)
    clean.until("streamer.stats().framesShown > 5")
    for selector in (".top", ".dock", ".hero", ".landscape", ".shade"):
        assert not clean.is_visible(selector), selector
    box = clean.page.locator("#screen").bounding_box()
    assert (box["width"], box["height"]) == (1280, 800)
    clean.shoot("clean")
    assert other.problems == clean.problems == []


def test_picture_clip_and_recording_are_saved(director) -> None:
    page = director.page
    with page.expect_download() as download:
        director.press("s")
    recipe = read_recipe(Path(download.value.path()).read_bytes())
    assert recipe["prompt"] == STRIPES
    assert recipe["seed"] == director.ask("streamer.state().stream.seed")

    director.press("r")
    director.until("document.getElementById('record').getAttribute('aria-pressed') === 'true'")
    director.until("document.getElementById('recorded').textContent !== ''")
    frames = director.ask("streamer.stats().framesShown")
    director.until(f"streamer.stats().framesShown > {frames + 20}")
    director.shoot("recording")
    with page.expect_download() as download:
        director.press("r")
    assert num_frames(Path(download.value.path())) > 10
    director.until("document.getElementById('record').getAttribute('aria-pressed') === 'false'")

    with page.expect_download() as download:
        director.press("c")
    assert num_frames(Path(download.value.path())) > 10
    director.press("m")
    assert page.locator(".file").count() == 2
    director.shoot_both("panel-menu")
    captions = page.request.get(page.locator(".file a").nth(1).get_attribute("href"))
    assert captions.ok
    assert STRIPES in captions.text()
    page.keyboard.press("Escape")


def num_frames(path: Path) -> int:
    with av.open(io.BytesIO(path.read_bytes())) as film:
        return sum(1 for _ in film.decode(video=0))


def test_the_statistics_are_drawn_as_they_come(director) -> None:
    director.press("i")
    director.until("document.querySelectorAll('.plot').length === 6")
    director.until(
        "[...document.querySelectorAll('.plot path')]"
        ".filter((path) => (path.getAttribute('d') ?? '').includes('L')).length >= 5"
    )
    director.type_prompt("a blue evening")
    director.until("document.getElementById('way-stages').textContent.includes('block')")
    assert "median" in director.text("#way-spread")
    facts = director.text("#facts")
    assert "256x160 at 16 fps" in facts
    assert "over WebRTC" in facts
    director.shoot_both("statistics")
    director.press("i")
    assert not director.is_visible("#statistics")


def test_without_webrtc_the_video_comes_over_the_websocket(server, visit) -> None:
    visitor = visit()
    visitor.page.add_init_script("delete window.RTCPeerConnection")
    visitor.open(server.url)
    visitor.type_prompt(STRIPES)
    visitor.until_playing()
    assert visitor.ask("streamer.stats().route") == "websocket"
    visitor.type_prompt("a blue evening")
    visitor.until("streamer.state().notice?.text.startsWith('changed')")
    assert 50 < visitor.ask("streamer.stats().latencyMs") < 30_000
    # A pause leaves a gap in the times; playback gets over it.
    visitor.press(" ")
    visitor.until_phase("paused")
    visitor.page.wait_for_timeout(600)
    visitor.press(" ")
    visitor.until_playing()
    assert visitor.problems == []
    visitor.end()


def test_a_path_that_lets_no_webrtc_through_is_left_for_the_other(server, visit) -> None:
    visitor = visit()
    # The offer never gets an answer that leads anywhere: as behind a firewall.
    visitor.page.add_init_script(
        "RTCPeerConnection.prototype.setRemoteDescription = "
        "() => Promise.reject(new Error('blocked'))"
    )
    visitor.open(server.url)
    visitor.type_prompt(STRIPES)
    visitor.until_playing()
    assert visitor.ask("streamer.stats().route") == "websocket"
    assert json.loads(visitor.ask("JSON.stringify(streamer.state().failure)")) is None
    visitor.end()
