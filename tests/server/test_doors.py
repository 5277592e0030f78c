"""Every door against those who may not pass, and a disk that fills while it is written to."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect

Serve = Any

STEERING = (
    ("POST", "/prompt", {"prompt": "rain"}),
    ("DELETE", "", None),
    ("POST", "/recordings", None),
    ("POST", "/recordings/stop", None),
    ("POST", "/clips", {"seconds": 5.0}),
    ("POST", "/publications", {"url": "http://127.0.0.1:9/whip"}),
    ("GET", "/publications", None),
    ("DELETE", "/publications/w-1", None),
)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def started(served: Any, prompt: str) -> dict[str, Any]:
    made = await served.http.post("/api/streams", json={"prompt": prompt, "seed": 7})
    return made.json()  # type: ignore[no-any-return]


@pytest.mark.parametrize("whose", ["nobody's", "a guess", "another stream's", "cut short"])
async def test_only_the_streams_own_token_opens_what_is_the_directors(
    serve: Serve, tmp_path: Path, whose: str
) -> None:
    served = await serve(recording_dir=str(tmp_path))
    stream, other = await started(served, "snow"), await started(served, "night")
    headers = {
        "nobody's": {},
        "a guess": bearer("guess"),
        "another stream's": bearer(other["token"]),
        "cut short": bearer(stream["token"][:-1]),
    }[whose]
    base = f"/api/streams/{stream['id']}"
    for method, path, body in STEERING:
        answer = await served.http.request(method, base + path, json=body, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (403, "not_director"), path
    assert (await served.until_state(stream["id"], "playing"))["prompt"]["text"] == "snow"
    assert (await served.http.get(f"{base}/recordings")).json() == []
    own = await served.http.get(f"{base}/publications", headers=bearer(stream["token"]))
    assert own.json() == []


async def test_the_token_of_a_stream_that_is_over_opens_nothing(serve: Serve) -> None:
    served = await serve(max_streams=1)
    over = await started(served, "snow")
    path = f"/api/streams/{over['id']}"
    assert (await served.http.delete(path, headers=bearer(over["token"]))).status_code == 204
    stream = await started(served, "night")
    for target, status in ((over, 404), (stream, 403)):
        answer = await served.http.post(
            f"/api/streams/{target['id']}/prompt",
            json={"prompt": "rain"},
            headers=bearer(over["token"]),
        )
        assert answer.status_code == status
    talk = await served.talk()
    await talk.greet(stream=stream["id"], token=over["token"])
    assert await talk.refusal() == ("not_director", "hello")


@pytest.mark.parametrize("headers", [{"Origin": "http://evil.example"}, {"Host": "rebound.test"}])
async def test_the_video_socket_is_closed_to_pages_of_others(
    serve: Serve, headers: dict[str, str]
) -> None:
    served = await serve()
    stream = await started(served, "snow")
    url = served.url.replace("http", "ws") + f"ws/video/{stream['id']}"
    options: dict[str, Any] = {"proxy": None}
    if "Origin" in headers:
        options["origin"] = headers["Origin"]
    else:
        # The name in the address is what the browser says in Host.
        options |= {"host": "127.0.0.1", "port": int(served.url.rsplit(":", 1)[1].strip("/"))}
        url = url.replace("127.0.0.1", headers["Host"])
    async with connect(url, **options) as socket:
        await asyncio.wait_for(socket.wait_closed(), 10)
        assert socket.close_code == 1008
    assert (await served.health())["viewers"] == 0


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"url": "http://127.0.0.1:9/whip", "tokn": "x"}, "message_invalid"),
        ({"url": 7}, "message_invalid"),
        ({"url": "http://127.0.0.1:9/" + "x" * 2000}, "message_invalid"),
        ({"url": "file:///etc/passwd"}, "publish_refused"),
        ({}, "message_invalid"),
    ],
)
async def test_what_is_no_place_to_publish_to_is_not_tried(
    serve: Serve, body: dict[str, Any], code: str
) -> None:
    served = await serve()
    stream = await started(served, "snow")
    path, headers = f"/api/streams/{stream['id']}/publications", bearer(stream["token"])
    answer = await served.http.post(path, json=body, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (400, code)
    assert (await served.http.get(path, headers=headers)).json() == []


@contextlib.contextmanager
def small_disk(num_bytes: int) -> Iterator[None]:
    """No file may become larger."""
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


async def test_a_disk_that_fills_up_ends_the_recording_in_words_and_nothing_else(
    serve: Serve, tmp_path: Path
) -> None:
    served = await serve(recording_dir=str(tmp_path))
    talk = await served.talk()
    await talk.greet()
    stream = await talk.start("snow")
    base = f"/api/streams/{stream['id']}/recordings"
    await served.until_state(stream["id"], "playing")

    async def record() -> dict[str, Any]:
        made = await served.http.post(base, headers=bearer(stream["token"]))
        assert made.status_code == 201
        return made.json()  # type: ignore[no-any-return]

    with small_disk(2_500):
        first = await record()
        failed = await talk.hear("recording", id=first["id"], state="failed")
    assert failed["detail"].endswith(".mp4: cannot be written: File too large")
    (shown,) = (await served.http.get(base)).json()
    assert (shown["state"], shown["detail"]) == ("failed", failed["detail"])

    await talk.hear("statistics")
    assert (await served.until_state(stream["id"], "playing"))["prompt"]["text"] == "snow"
    second = await record()
    await asyncio.sleep(0.3)
    ended = await served.http.post(f"{base}/stop", headers=bearer(stream["token"]))
    assert (ended.json()["id"], ended.json()["state"]) == (second["id"], "finished")
