"""A server as its user starts it, a real browser, and visitors who look at the page."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
ARTEFACTS = ROOT / "artefacts"
WIDE = (1280, 800)
NARROW = (390, 844)
STARTED_WITHIN_S = 90.0
PATIENCE_S = 30.0
"""For what is not promised to be fast: a busy machine must not fail a test that waits for it."""

# Loop-back only: no DNS, no mDNS names instead of addresses, nothing fetched in the background.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
    "--allow-loopback-in-peer-connection",
    "--disable-features=WebRtcHideLocalIpsWithMdns",
]

# A small copy of what the video element shows now, as numbers 0..255.
LOOK = """() => {
  const canvas = new OffscreenCanvas(32, 20);
  const context = canvas.getContext("2d", {willReadFrequently: true});
  context.drawImage(document.getElementById("video"), 0, 0, 32, 20);
  return [...context.getImageData(0, 0, 32, 20).data];
}"""

# Each phase the page shows goes through this attribute, also those shorter than a look at it.
NOTE_PHASES = """() => {
  const app = document.getElementById("app");
  window.phases = [app.dataset.phase];
  new MutationObserver((changes) => {
    const then = changes.slice(1).map((change) => change.oldValue);
    window.phases.push(...then, app.dataset.phase);
  }).observe(app, {attributeFilter: ["data-phase"], attributeOldValue: true});
}"""

IN_SHORT = """() => {
  const {phase, framesShown, fpsShown, route, server} = streamer.stats();
  const {connection, stream, notice, failure} = streamer.state();
  return `phase ${phase}, connection ${connection}, stream ${stream?.id} ${stream?.state}, ` +
    `${framesShown} frames by ${route} at ${fpsShown?.toFixed?.(1)}/s, block ${server?.block}, ` +
    `notice ${JSON.stringify(notice?.text)}, failure ${JSON.stringify(failure?.message)}`;
}"""


class Server:
    """`streamer serve` in a process of its own."""

    def __init__(self, log: Path, port: int = 0, config: str = "pattern") -> None:
        self._log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "streamer", "serve", "--config", config]
        with log.open("w") as file:
            self._process = subprocess.Popen(
                [*command, "--port", str(port)],
                cwd=ROOT,
                stdout=file,
                stderr=subprocess.STDOUT,
                # Recordings go to a folder of the user's: not to that of who runs the tests.
                env={
                    **os.environ,
                    "PYTHONUNBUFFERED": "1",
                    "OMP_NUM_THREADS": "1",
                    "HOME": str(log.parent / "home"),
                },
            )
        self.url = self._wait_for(r"http://127\.0\.0\.1:\d+")
        self.port = int(self.url.rsplit(":", 1)[1])

    def workers(self) -> list[psutil.Process]:
        """The processes that make the video, whatever helpers Python starts beside them."""
        return [
            child
            for child in psutil.Process(self._process.pid).children(recursive=True)
            if any("spawn_main" in part for part in child.cmdline())
        ]

    def kill_worker(self) -> int:
        """Kill -9 the worker; returns its process id."""
        (worker,) = self.workers()
        worker.send_signal(signal.SIGKILL)
        return worker.pid

    def kill(self) -> None:
        """The machine loses power."""
        family = psutil.Process(self._process.pid).children(recursive=True)
        self._process.kill()
        self._process.wait()
        for child in family:
            with suppress(psutil.NoSuchProcess):
                child.kill()

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self.kill()

    def _wait_for(self, pattern: str) -> str:
        until_s = time.monotonic() + STARTED_WITHIN_S
        while time.monotonic() < until_s:
            found = re.search(pattern, self._log.read_text())
            if found:
                return found[0]
            if self._process.poll() is not None:
                break
            time.sleep(0.05)
        self.stop()
        pytest.fail(f"the server did not start:\n{self._log.read_text()}")


def difference(a: list[int], b: list[int]) -> float:
    """The mean difference of two looks, of 255."""
    return sum(abs(x - y) for x, y in zip(a, b, strict=True)) / len(a)


@dataclass
class Visitor:
    """Somebody in front of the page."""

    page: Any
    problems: list[str]

    def open(self, url: str, until: str | None = "ready") -> Visitor:
        self.page.goto(url)
        if until is not None:
            self.until_phase(until)
        return self

    def type_prompt(self, text: str) -> None:
        self.page.keyboard.press("/")
        self.page.locator("#prompt").fill(text)
        self.page.keyboard.press("Enter")

    def ask(self, script: str) -> Any:
        return self.page.evaluate(script)

    def until(self, script: str, within_s: float = PATIENCE_S) -> Any:
        """Wait until the script gives something true.  (In-page polling would need eval.)"""
        until_s = time.monotonic() + within_s
        while True:
            value = self.ask(script)
            if value:
                return value
            if time.monotonic() > until_s:
                # The whole is long: the last lines of a run show the message alone.
                print(self.ask("JSON.stringify([streamer.stats(), streamer.state()], null, 1)"))
                pytest.fail(f"not within {within_s:g} s: {script}; {self._in_short()}")
            self.page.wait_for_timeout(30)

    def until_phase(self, *phases: str, within_s: float = PATIENCE_S) -> None:
        self.until(f"{list(phases)}.includes(streamer.stats().phase)", within_s)

    def note_phases(self) -> None:
        """From now on the page remembers every phase it shows, however short: for `until_noted`."""
        self.ask(NOTE_PHASES)

    def until_noted(self, *phases: str, within_s: float = PATIENCE_S) -> None:
        """Until these phases, in this order, were shown since `note_phases`."""
        text = json.dumps(phases)
        self.until(
            f"{text}.every((at => each => (at = phases.indexOf(each, at) + 1) > 0)(0))", within_s
        )

    def _in_short(self) -> str:
        """What is shown, in one line."""
        return str(self.ask(IN_SHORT)) + f"; problems: {self.problems}"

    def until_playing(self, within_s: float = PATIENCE_S) -> None:
        """Until ten more frames than now were painted, and it says that it plays."""
        frames = self.ask("streamer.stats().framesShown")
        self.until(f"streamer.stats().framesShown >= {frames + 10}", within_s)
        self.until_phase("playing", "slow", within_s=within_s)

    def text(self, selector: str) -> str:
        return str(self.page.locator(selector).inner_text())

    def is_visible(self, selector: str) -> bool:
        return bool(self.page.locator(selector).is_visible())

    def look(self) -> list[int]:
        return list(self.ask(LOOK))

    def until_unlike(self, before: list[int], by: float) -> None:
        """Until the picture differs from an earlier look by that much in the mean, of 255."""
        until_s = time.monotonic() + PATIENCE_S
        while (found := difference(before, self.look())) <= by:
            if time.monotonic() > until_s:
                pytest.fail(f"the picture differs by {found:.1f}, not {by:g}; {self._in_short()}")
            self.page.wait_for_timeout(30)

    def until_still(self, by: float = 0.5, for_ms: int = 700) -> None:
        """Until two looks that far apart are alike: what was on its way has arrived."""
        until_s = time.monotonic() + PATIENCE_S
        while True:
            before = self.look()
            self.page.wait_for_timeout(for_ms)
            if (found := difference(before, self.look())) < by:
                return
            if time.monotonic() > until_s:
                pytest.fail(f"the picture moves by {found:.1f} in {for_ms} ms; {self._in_short()}")

    def press(self, *keys: str) -> None:
        """Press keys of the page: outside the prompt line."""
        self.ask("document.activeElement.blur()")
        for key in keys:
            self.page.keyboard.press(key)

    def shoot(self, name: str) -> Path:
        ARTEFACTS.mkdir(exist_ok=True)
        path = ARTEFACTS / f"{name}.png"
        self.page.screenshot(path=str(path))
        return path

    def shoot_both(self, name: str) -> None:
        """Wide, and as a phone shows it."""
        for size, suffix in ((NARROW, "-narrow"), (WIDE, "")):
            self.page.set_viewport_size({"width": size[0], "height": size[1]})
            self.page.mouse.move(120, 220 if suffix else 221)
            self.page.wait_for_timeout(60)
            self.shoot(f"{name}{suffix}")

    def end(self) -> None:
        """End the stream, if there is one to end."""
        if self.is_visible("#menu-toggle") and self.ask("!document.getElementById('end').disabled"):
            self.ask("document.getElementById('end').click()")
            self.until_phase("ended")


def find_browser() -> str:
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    if os.environ.get("CI"):
        pytest.fail("no Chromium; CI must have one")
    pytest.skip("no Chromium on this machine; install it to try the page in a real browser")


# Module scope, not session: Playwright's loop must be gone before asynchronous tests run.


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = find_browser()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, headless=True, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def server(browser: Any) -> Iterator[Server]:
    server = Server(ARTEFACTS / "server.log")
    yield server
    server.stop()


@pytest.fixture
def start_server(browser: Any) -> Iterator[Callable[..., Server]]:
    """Start a server of the test's own; port: an earlier one's, to come back in its place."""
    started: list[Server] = []

    def start(port: int = 0, config: str = "pattern") -> Server:
        started.append(Server(ARTEFACTS / f"server-own-{len(started)}.log", port, config))
        return started[-1]

    yield start
    for server in started:
        server.stop()


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Visitor]]:
    """A new visitor with an empty tab of the given size."""
    with ExitStack() as stack:

        def enter(size: tuple[int, int] = WIDE, scheme: str = "dark") -> Visitor:
            context = browser.new_context(
                viewport={"width": size[0], "height": size[1]},
                color_scheme=scheme,
                reduced_motion="reduce",
            )
            stack.callback(context.close)
            visitor = Visitor(context.new_page(), [])
            visitor.page.on("pageerror", lambda error: visitor.problems.append(str(error)))
            return visitor

        yield enter


@pytest.fixture
def director(server: Server, visit: Callable[..., Visitor]) -> Iterator[Visitor]:
    """A visitor with a playing stream of their own, which is ended afterwards."""
    visitor = visit().open(server.url)
    visitor.type_prompt("green and white stripes")
    visitor.until_playing()
    yield visitor
    assert visitor.problems == []
    visitor.end()
