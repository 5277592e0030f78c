"""The page in Firefox: another engine, another codec, the same stream."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import ARTEFACTS, LOOK, difference
from tests.e2e.firefox import ENTER, Firefox

pytestmark = [pytest.mark.browser, pytest.mark.slow]

DIFFERENT = 25
"""Mean difference of two pictures, of 255, that nobody overlooks."""


@pytest.fixture
def firefox(tmp_path: Path) -> Iterator[Firefox]:
    with Firefox(tmp_path / "profile") as started:
        yield started


def test_a_stream_plays_and_follows_its_prompts(server: Any, firefox: Firefox) -> None:
    problems = """window.problems = [];
      addEventListener("error", (event) => problems.push(event.message));
      addEventListener("unhandledrejection", (event) => problems.push(String(event.reason)));"""
    firefox.order("script.addPreloadScript", functionDeclaration=f"() => {{ {problems} }}")
    firefox.open(server.url)
    firefox.until("streamer.stats().phase === 'ready'")
    firefox.shoot(ARTEFACTS / "firefox-first.png")
    assert firefox.ask("document.activeElement.id") == "prompt"
    firefox.type(f"green and white stripes{ENTER}")
    firefox.until("streamer.stats().framesShown >= 10")
    firefox.until("['playing', 'slow'].includes(streamer.stats().phase)")
    assert firefox.ask("streamer.stats().codec") == "VP8"
    assert firefox.ask("streamer.stats().route") == "webrtc"
    assert firefox.ask("streamer.stats().lastRtpTimestamp") is not None
    before = firefox.ask(f"({LOOK})()")
    firefox.type(f"a blue evening{ENTER}")
    firefox.until("streamer.state().notice?.text.startsWith('changed in')")
    assert firefox.ask("document.getElementById('caption').textContent") == "a blue evening"
    firefox.until("streamer.stats().fpsShown > 2")
    assert difference(before, firefox.ask(f"({LOOK})()")) > DIFFERENT
    firefox.shoot(ARTEFACTS / "firefox-playing.png")
    assert firefox.ask("problems") == []
    firefox.ask("document.getElementById('end').click()")
    firefox.until("streamer.stats().phase === 'ended'")


def test_the_menu_opens_by_key_and_says_what_this_browser_has(
    server: Any, firefox: Firefox
) -> None:
    firefox.open(server.url)
    firefox.until("streamer.stats().phase === 'ready'")
    firefox.type(f"red{ENTER}")
    firefox.until("streamer.stats().framesShown >= 10")
    firefox.ask("document.activeElement.blur()")
    firefox.type("m")
    firefox.until("document.querySelector('#menu:popover-open') !== null")
    has_inset = firefox.ask("'requestPictureInPicture' in HTMLVideoElement.prototype")
    says = firefox.ask("document.getElementById('inset-words').textContent")
    assert says == ("" if has_inset else "not in this browser")
    firefox.shoot(ARTEFACTS / "firefox-menu.png")
    firefox.ask("document.getElementById('end').click()")
    firefox.until("streamer.stats().phase === 'ended'")
