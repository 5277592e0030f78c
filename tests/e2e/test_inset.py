"""The picture in a window of its own: where the browser has one, refuses one, or knows none."""

from __future__ import annotations

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.slow]

STRIPES = "green and white stripes"
IS_OUT = "document.pictureInPictureElement?.id === 'video'"
REFUSE = """HTMLVideoElement.prototype.requestPictureInPicture =
  () => Promise.reject(new DOMException("not now", "NotAllowedError"))"""


def test_the_picture_goes_into_a_window_of_its_own_and_comes_back(director) -> None:
    director.press("m")
    row = director.page.locator("#inset")
    assert row.get_attribute("aria-disabled") == "false"
    assert row.get_attribute("aria-pressed") == "false"
    row.click()
    director.until(IS_OUT)
    director.until_playing()
    director.until("document.getElementById('inset').getAttribute('aria-pressed') === 'true'")
    director.until("document.getElementById('action').textContent === 'Bring it back'")
    director.shoot_both("inset")
    # The stream goes on there while it changes here.
    director.type_prompt("a blue evening")
    director.until("streamer.state().notice?.text.startsWith('changed in')")
    director.press("p")
    director.until(f"!({IS_OUT})")
    director.until("document.getElementById('inset').getAttribute('aria-pressed') === 'false'")
    director.until_playing()


def test_a_refusal_is_told(server, visit) -> None:
    visitor = visit()
    visitor.page.add_init_script(REFUSE)
    visitor.open(server.url)
    visitor.type_prompt(STRIPES)
    visitor.until_playing()
    visitor.press("p")
    visitor.until("streamer.state().notice?.tone === 'problem'")
    assert visitor.text("#notice") == "Picture in picture was refused: not now"
    assert visitor.problems == []
    visitor.end()


def test_a_browser_without_it_says_so_at_the_button(server, visit) -> None:
    visitor = visit()
    visitor.page.add_init_script("delete HTMLVideoElement.prototype.requestPictureInPicture")
    visitor.open(server.url)
    visitor.type_prompt(STRIPES)
    visitor.until_playing()
    visitor.press("m")
    row = visitor.page.locator("#inset")
    assert row.get_attribute("aria-disabled") == "true"
    assert "not in this browser" in row.inner_text()
    visitor.shoot("inset-missing")
    row.press("Enter")
    assert visitor.text("#notice") == "Picture in picture: not in this browser."
    assert visitor.problems == []
    visitor.end()
