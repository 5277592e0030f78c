"""A visitor brings a picture or a clip, and a stream begins with it."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image, ImageDraw

from streamer.config import load_config
from streamer.server.session import _opening_of

pytestmark = [pytest.mark.browser, pytest.mark.slow]

STRIPES = "green and white stripes"
OPENING = {"bytes": 3_000_000, "width": 256, "height": 160}
Visit = Callable[..., Any]


def meadow() -> bytes:
    """A picture whose middle can be told from its edges: sky, sun, grass, 600x600, PNG."""
    image = Image.new("RGB", (600, 600), (92, 170, 226))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 380, 600, 600), fill=(88, 150, 70))
    draw.ellipse((400, 150, 500, 250), fill=(250, 220, 120))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def clip() -> bytes:
    """Two seconds that go from red to blue, WebM."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="webm") as container:
        stream = container.add_stream("libvpx", rate=8)
        stream.width, stream.height, stream.pix_fmt = 128, 80, "yuv420p"
        for number in range(16):
            pixels = np.zeros((80, 128, 3), np.uint8)
            pixels[:] = (220, 30, 30) if number < 8 else (30, 30, 220)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(stream.encode(None))
    return buffer.getvalue()


class Brought:
    """A visitor before a server of colour bars that says it can begin with pictures.

    uploads: what the page asked for, to be answered by `answer`.
    """

    def __init__(self, visitor: Any, server: Any) -> None:
        self.visitor, self.page, self.server = visitor, visitor.page, server
        self.uploads: list[Any] = []
        self.page.route_web_socket("**/ws", self._connected)

    def catch_uploads(self) -> None:
        self.page.route("**/api/streams/from-file**", lambda route: self.uploads.append(route))

    def answer(self) -> Any:
        """Do what was asked, but for the picture; returns the request."""
        self.visitor.until("!document.getElementById('opening-progress').hidden")
        for _ in range(200):
            if self.uploads:
                break
            self.page.wait_for_timeout(30)
        route = self.uploads.pop()
        made = self.page.request.post(
            f"{self.server.url}/api/streams", data={"prompt": "a blue evening"}
        )
        route.fulfill(status=201, json=made.json())
        return route.request

    def bring(self, name: str, kind: str, content: bytes) -> None:
        self.page.locator("#opening-file").set_input_files(
            {"name": name, "mimeType": kind, "buffer": content}
        )

    def drop(self, name: str, kind: str, content: bytes, *events: str) -> None:
        data = self.page.evaluate_handle(
            """([name, type, text]) => {
                 const bytes = Uint8Array.from(atob(text), (each) => each.charCodeAt(0));
                 const data = new DataTransfer();
                 data.items.add(new File([bytes], name, {type}));
                 return data; }""",
            [name, kind, base64.b64encode(content).decode()],
        )
        for event in events:
            self.page.dispatch_event("#picture", event, {"dataTransfer": data})

    def _connected(self, socket: Any) -> None:
        real = socket.connect_to_server()
        socket.on_message(real.send)
        real.on_message(lambda text: socket.send(json.dumps(with_opening(json.loads(text)))))


def with_opening(message: dict[str, Any]) -> dict[str, Any]:
    return message | {"opening": OPENING} if message["type"] == "welcome" else message


@pytest.fixture
def brought(server: Any, visit: Visit) -> Brought:
    return Brought(visit(), server)


def test_a_chosen_picture_is_shown_and_begins_a_stream(brought: Brought) -> None:
    visitor, page = brought.visitor, brought.page
    brought.catch_uploads()
    # Listened to from the beginning: a chooser that opens before anybody listens is lost.
    choosers: list[Any] = []
    page.on("filechooser", lambda chooser: choosers.append(chooser))
    visitor.open(brought.server.url)
    # By keys alone: to the button, and open it.
    page.locator("#opening-toggle").focus()
    page.keyboard.press("Enter")
    for _ in range(200):
        if choosers:
            break
        page.wait_for_timeout(30)
    meadow_file = {"name": "meadow.png", "mimeType": "image/png", "buffer": meadow()}
    choosers.pop().set_files(meadow_file)
    visitor.until("document.getElementById('opening-image').naturalWidth === 600")
    assert visitor.text("#opening-name").startswith("meadow.png, ")
    assert visitor.text("#opening-about") == (
        "A new stream begins with this picture, cut to 256x160."
    )
    frame = page.locator("#opening-frame").bounding_box()
    assert frame["width"] / frame["height"] == pytest.approx(1.6, abs=0.02)
    visitor.shoot_both("opening-picture")
    assert visitor.ask("document.activeElement.id") == "prompt"

    page.keyboard.press("Enter")
    assert visitor.text("#opening-about") == "Say what happens next, then press Enter."
    assert brought.uploads == []
    page.keyboard.type("the sun sets")
    page.keyboard.press("Enter")
    request = brought.answer()
    assert "prompt=the+sun+sets" in request.url
    assert "instead_of" not in request.url
    assert request.headers["content-type"] == "image/png"
    visitor.until_playing()
    assert not visitor.is_visible("#opening")
    assert page.locator("#prompt").input_value() == ""
    assert visitor.ask("streamer.state().stream.token") is not None
    assert visitor.text("#notice").startswith("first picture after")
    assert visitor.problems == []
    visitor.end()


def test_a_dropped_clip_takes_the_place_of_the_stream_that_plays(brought: Brought) -> None:
    visitor = brought.visitor
    brought.catch_uploads()
    visitor.open(brought.server.url)
    visitor.type_prompt(STRIPES)
    visitor.until_playing()
    stream = visitor.ask("streamer.state().stream")
    brought.drop("tide.webm", "video/webm", clip(), "dragenter", "dragover")
    assert visitor.text("#drop") == "Let go: a new stream begins with it."
    visitor.shoot_both("opening-drop")
    brought.drop("tide.webm", "video/webm", clip(), "drop")
    assert not visitor.is_visible("#drop")
    assert visitor.text("#opening-about") == (
        "A new stream goes on from the end of this clip, cut to 256x160. This one ends."
    )
    # The preview shows what the stream goes on from: the end, which is blue.
    visitor.until("document.getElementById('opening-clip').currentTime > 1.5")
    visitor.until(
        """(() => { const canvas = new OffscreenCanvas(1, 1), context = canvas.getContext("2d");
             context.drawImage(document.getElementById("opening-clip"), 0, 0, 1, 1);
             const [red, , blue] = context.getImageData(0, 0, 1, 1).data;
             return blue > 120 && red < 120; })()"""
    )
    visitor.shoot_both("opening-clip")
    visitor.type_prompt("the tide comes in")
    request = brought.answer()
    assert f"instead_of={stream['id']}" in request.url
    assert request.headers["authorization"] == f"Bearer {stream['token']}"
    visitor.until(f"streamer.state().stream?.id !== '{stream['id']}'")
    visitor.until_playing()
    assert visitor.text("#caption") == "a blue evening"
    visitor.until("document.querySelectorAll('.ribbon-piece').length === 1")
    visitor.end()


@pytest.mark.parametrize(
    ("name", "kind", "content", "said"),
    [
        ("notes.txt", "text/plain", b"dear diary", "neither a picture nor a clip"),
        ("logo.svg", "image/svg+xml", b"<svg/>", "neither a picture nor a clip"),
        ("nothing.png", "image/png", b"", "is empty"),
        ("huge.mp4", "video/mp4", b"0" * 3_000_001, "is too big: 3.0 MB, at most 3.0 MB are taken"),
    ],
)
def test_what_cannot_be_taken_is_named(
    brought: Brought, name: str, kind: str, content: bytes, said: str
) -> None:
    brought.visitor.open(brought.server.url)
    brought.drop(name, kind, content, "dragenter", "dragover", "drop")
    brought.visitor.until("streamer.state().notice !== null")
    assert said in brought.visitor.text("#notice")
    assert brought.visitor.text("#notice").startswith(name)
    assert not brought.visitor.is_visible("#opening")
    if kind == "video/mp4":
        brought.visitor.shoot_both("opening-too-big")


def test_what_the_server_cannot_read_is_told_and_another_try_is_possible(brought: Brought) -> None:
    visitor = brought.visitor
    visitor.open(brought.server.url)
    brought.bring("broken.png", "image/png", b"neither picture nor clip")
    visitor.type_prompt("snow")
    visitor.until("document.getElementById('opening').hasAttribute('data-fault')")
    assert visitor.text("#opening-about").startswith(
        "The picture: cannot be read: it is neither a picture nor a clip"
    )
    assert brought.page.locator("#prompt").input_value() == "snow", "nothing typed is lost"
    visitor.shoot_both("opening-unreadable")
    brought.page.locator("#opening-remove").click()
    assert not visitor.is_visible("#opening")
    visitor.press("Escape")
    visitor.type_prompt(STRIPES)
    visitor.until_playing()
    visitor.end()


def test_sending_is_shown_and_can_be_stopped(brought: Brought) -> None:
    visitor, page = brought.visitor, brought.page
    visitor.open(brought.server.url)
    slow = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 500_000}
    page.context.new_cdp_session(page).send("Network.emulateNetworkConditions", slow)
    noise = np.random.default_rng(0).bytes(2_900_000)
    brought.bring("long.mp4", "video/mp4", noise)
    visitor.type_prompt("snow")
    parts = "document.getElementById('opening-progress').value"
    visitor.until(f"{parts} > 0.1")
    assert 0.1 < visitor.ask(parts) < 1
    assert visitor.text("#opening-about").startswith("Sending: ")
    visitor.shoot_both("opening-sending")
    assert page.locator("#opening-remove").get_attribute("aria-label") == "Stop sending"
    page.locator("#opening-remove").click()
    assert not visitor.is_visible("#opening")
    assert visitor.ask("streamer.stats().phase") == "ready"
    assert visitor.problems == []


def test_a_model_that_takes_no_pictures_says_so(server: Any, visit: Visit) -> None:
    visitor = visit().open(server.url)
    chip = visitor.page.locator("#opening-toggle")
    assert chip.get_attribute("aria-label") == "This model cannot begin with a picture"
    assert chip.get_attribute("aria-disabled") == "true"
    chip.press("Enter")
    assert visitor.text("#notice") == "This model cannot begin with a picture."
    visitor.type_prompt(STRIPES)
    visitor.until_playing()
    visitor.press("m")
    row = visitor.page.locator("#menu-opening")
    assert "not with this model" in row.inner_text()
    assert row.get_attribute("aria-disabled") == "true"
    visitor.end()


def test_the_server_says_what_a_stream_may_begin_with() -> None:
    assert _opening_of(load_config("pattern")) is None
    config = load_config("storybook")
    opening = _opening_of(config)
    assert opening is not None
    assert opening.bytes == config.server.upload_bytes
    assert (opening.width, opening.height) == (config.stream.width, config.stream.height)


def test_a_viewer_without_the_token_leaves_for_a_stream_of_their_own(
    brought: Brought, visit: Visit
) -> None:
    other = visit().open(brought.server.url)
    other.type_prompt(STRIPES)
    other.until_playing()
    brought.catch_uploads()
    visitor = brought.visitor
    visitor.open(other.page.url, until=None)
    visitor.until("streamer.stats().framesShown > 5")
    assert not visitor.is_visible("#prompt-form")
    brought.bring("meadow.png", "image/png", meadow())
    assert visitor.text("#opening-about").endswith("You leave this one.")
    visitor.type_prompt("the sun sets")
    assert "authorization" not in brought.answer().headers
    visitor.until_playing()
    assert visitor.ask("streamer.state().stream.token") is not None
    assert other.ask("streamer.stats().phase") in ("playing", "slow"), "theirs goes on"
    visitor.end()
    other.end()


# From now on the number of pieces on the ribbon is noted with each screen refresh that shows it.
WATCH_RIBBON = """() => {
  window.ribbonLooks = [];
  const ribbon = document.getElementById("ribbon");
  const look = () => {
    if (!ribbon.hidden) window.ribbonLooks.push(ribbon.querySelectorAll(".ribbon-piece").length);
    requestAnimationFrame(look);
  };
  look();
}"""


def test_the_embedded_model_goes_on_from_a_picture(start_server: Any, visit: Visit) -> None:
    server = start_server(config="storybook")
    visitor = visit().open(server.url, until=None)
    visitor.until_phase("ready", within_s=90)
    visitor.page.locator("#opening-file").set_input_files(
        {"name": "meadow.png", "mimeType": "image/png", "buffer": meadow()}
    )
    visitor.type_prompt("green hills on a sunny day")
    visitor.ask(WATCH_RIBBON)
    visitor.until("streamer.stats().framesShown > 0", within_s=60)
    pixels = np.array(visitor.look()).reshape(20, 32, 4)
    visitor.shoot("opening-storybook")
    above, below = pixels[2:6].mean((0, 1)), pixels[-4:].mean((0, 1))
    assert above[2] > above[0], "the sky of the picture is blue"
    assert below[1] > below[2], "its meadow is green"
    stream = visitor.ask("streamer.state().stream.id")
    script = visitor.page.request.get(f"{server.url}/api/streams/{stream}/script").text()
    assert json.loads(script.splitlines()[0])["opening"] is not None
    visitor.until_playing(within_s=60)
    assert visitor.ask("window.ribbonLooks.length") > 0
    assert visitor.ask("window.ribbonLooks.every((pieces) => pieces > 0)"), "it is never empty"
    assert visitor.problems == []
    visitor.end()
