"""Firefox without a driver of its own: WebDriver BiDi, the protocol it speaks itself.

Only what the tests need of https://w3c.github.io/webdriver-bidi/.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import re
import shutil
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

STARTED_WITHIN_S = 60.0
ENTER = "\ue007"

# Nothing is asked of the network, and addresses of this machine are told as they are.
PREFERENCES = {
    "app.update.enabled": False,
    "browser.safebrowsing.update.enabled": False,
    "browser.search.update": False,
    "browser.shell.checkDefaultBrowser": False,
    "datareporting.policy.dataSubmissionEnabled": False,
    "extensions.update.enabled": False,
    "media.autoplay.default": 0,
    "media.gmp-manager.updateEnabled": False,
    "media.peerconnection.ice.loopback": True,
    "media.peerconnection.ice.obfuscate_host_addresses": False,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "services.settings.server": "data:,none",
    "toolkit.telemetry.enabled": False,
}


def find_firefox() -> str:
    """Its path; the test is skipped, or in CI failed, where there is none."""
    for name in ("firefox-esr", "firefox"):
        if path := shutil.which(name):
            return path
    if os.environ.get("CI"):
        pytest.fail("no Firefox; CI must have one")
    pytest.skip("no Firefox on this machine; install it to try the page in it")


class Firefox:
    """One headless Firefox with one tab, for as long as the `with` lasts."""

    def __init__(self, profile: Path, size: tuple[int, int] = (1280, 800)) -> None:
        self._profile = profile
        self._size = size
        self._ids = itertools.count(1)
        self._open = ExitStack()
        self._socket: ClientConnection | None = None
        self._tab = ""

    def __enter__(self) -> Firefox:
        self._profile.mkdir(parents=True, exist_ok=True)
        (self._profile / "user.js").write_text(
            "".join(
                f"user_pref({json.dumps(name)}, {json.dumps(value)});\n"
                for name, value in PREFERENCES.items()
            )
        )
        self._log = self._profile / "firefox.log"
        with self._log.open("w") as file:
            self._process = subprocess.Popen(
                [
                    *(find_firefox(), "--headless", "--no-remote"),
                    *("--profile", str(self._profile), "--remote-debugging-port=0", "about:blank"),
                ],
                stdout=subprocess.DEVNULL,
                stderr=file,
                env={**os.environ, "HOME": str(self._profile), "MOZ_CRASHREPORTER_DISABLE": "1"},
            )
        try:
            opening = connect(f"{self._address()}/session", max_size=None)
            self._socket = self._open.enter_context(opening)
            self.order("session.new", capabilities={})
            self._tab = self.order("browsingContext.getTree")["contexts"][0]["context"]
            width, height = self._size
            self.on_tab("browsingContext.setViewport", viewport={"width": width, "height": height})
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.close()
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def order(self, method: str, **params: object) -> Any:
        """Do one command.  Raises RuntimeError with Firefox's own words."""
        assert self._socket is not None
        number = next(self._ids)
        self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            answer = json.loads(self._socket.recv(timeout=60))
            if answer.get("id") != number:
                continue  # an event that nobody asked about
            if answer["type"] == "error":
                raise RuntimeError(f"{method}: {answer['error']}: {answer['message']}")
            return answer["result"]

    def on_tab(self, method: str, **params: object) -> Any:
        """One command about the tab."""
        return self.order(method, context=self._tab, **params)

    def open(self, url: str) -> None:
        self.on_tab("browsingContext.navigate", url=url, wait="complete")

    def ask(self, script: str) -> Any:
        """The value of an expression, a promise's too."""
        answer = self.order(
            "script.evaluate",
            expression=f"Promise.resolve({script}).then((value) => JSON.stringify(value ?? null))",
            target={"context": self._tab},
            awaitPromise=True,
        )
        if answer["type"] != "success":
            raise RuntimeError(f"{script}: {answer['exceptionDetails']['text']}")
        return json.loads(answer["result"]["value"])

    def until(self, script: str, within_s: float = 30.0) -> None:
        """Wait until the expression is true."""
        until_s = time.monotonic() + within_s
        while not self.ask(script):
            if time.monotonic() > until_s:
                stats = self.ask("[streamer.stats(), streamer.state().failure]")
                pytest.fail(f"Firefox: not within {within_s:g} s: {script}; {stats}")
            time.sleep(0.05)

    def type(self, text: str) -> None:
        """Press the keys of a text."""
        presses = [{"type": kind, "value": key} for key in text for kind in ("keyDown", "keyUp")]
        self.on_tab(
            "input.performActions", actions=[{"type": "key", "id": "keyboard", "actions": presses}]
        )

    def shoot(self, path: Path) -> None:
        """Save what is seen."""
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(base64.b64decode(self.on_tab("browsingContext.captureScreenshot")["data"]))

    def _address(self) -> str:
        until_s = time.monotonic() + STARTED_WITHIN_S
        while time.monotonic() < until_s:
            if found := re.search(r"ws://\S+", self._log.read_text()):
                return found[0]
            if self._process.poll() is not None:
                break
            time.sleep(0.05)
        pytest.fail(f"Firefox did not start:\n{self._log.read_text()}")
