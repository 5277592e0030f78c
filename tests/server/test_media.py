"""Recordings, pictures, video over WebSocket, publishing and figures, over HTTP."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import av
import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from websockets.asyncio.client import connect

from streamer.delivery.mp4 import GrowingFile
from streamer.delivery.screenshot import read_recipe
from streamer.delivery.subscription import Packet
from streamer.errors import OutputError
from streamer.stream import Script

Serve = Any


def bearer(stream: dict[str, Any]) -> dict[str, str]:
    return {"Authorization": f"Bearer {stream['token']}"}


async def started(served: Any) -> dict[str, Any]:
    made = await served.http.post("/api/streams", json={"prompt": "snow", "seed": 7})
    return made.json()  # type: ignore[no-any-return]


async def test_a_recording_is_made_and_taken_away(serve: Serve, tmp_path: Path) -> None:
    served = await serve(recording_dir=str(tmp_path / "films"))
    stream = await started(served)
    base = f"/api/streams/{stream['id']}"
    talk = await served.talk()
    await talk.greet(stream=stream["id"])
    refused = await served.http.post(f"{base}/recordings")
    assert (refused.status_code, refused.json()["code"]) == (403, "not_director")
    begun = await served.http.post(f"{base}/recordings", headers=bearer(stream))
    assert (begun.status_code, begun.json()["state"]) == (201, "recording")
    again = await served.http.post(f"{base}/recordings", headers=bearer(stream))
    assert (again.status_code, again.json()["code"]) == (409, "stream_state")
    await talk.hear("recording", state="recording")
    await asyncio.sleep(1.0)
    body = {"prompt": "night"}
    await served.http.post(f"{base}/prompt", json=body, headers=bearer(stream))
    await talk.hear("prompt_applied", text="night")
    await asyncio.sleep(0.5)
    ended = await served.http.post(f"{base}/recordings/stop", headers=bearer(stream))
    assert ended.json()["state"] == "finished", ended.json()
    assert (await talk.hear("recording", state="finished"))["seconds"] > 1
    listed = (await served.http.get(f"{base}/recordings")).json()
    assert [each["id"] for each in listed] == [begun.json()["id"]]
    film = await served.http.get(ended.json()["url"])
    assert film.headers["content-type"] == "video/mp4"
    path = tmp_path / "film.mp4"
    path.write_bytes(film.content)
    with av.open(str(path)) as container:
        titles = [chapter["metadata"]["title"] for chapter in container.chapters()]
        frames = len(list(container.decode(video=0)))
        assert container.metadata["streamer.seed"] == "7"
        assert Script.read(_lines(container.metadata["comment"])).spec.seed == 7
    assert titles == ["snow", "night"]
    assert frames == pytest.approx(ended.json()["seconds"] * 16, rel=0.3)
    captions = await served.http.get(ended.json()["url"].replace(".mp4", ".vtt"))
    assert captions.text.count("-->") == 2
    for name in ("none.mp4", "..%2fprotocol.json", "%2e%2e"):
        assert (await served.http.get(f"{base}/recordings/{name}")).status_code == 404
    again = await served.http.post(f"{base}/recordings/stop", headers=bearer(stream))
    assert again.status_code == 409


def _lines(text: str) -> Any:
    import io

    return io.StringIO(text)


async def test_a_folder_that_cannot_be_made_is_said_and_the_stream_plays_on(
    serve: Serve, tmp_path: Path
) -> None:
    (tmp_path / "taken").write_text("a file")
    served = await serve(recording_dir=str(tmp_path / "taken" / "films"))
    stream = await started(served)
    answer = await served.http.post(
        f"/api/streams/{stream['id']}/recordings", headers=bearer(stream)
    )
    assert answer.json()["code"] == "output_unwritable"
    assert "recording_dir" in answer.json()["message"]
    await served.until_state(stream["id"], "playing")


@pytest.mark.parametrize("is_kept", [True, False])
async def test_a_recording_that_fails_tells_only_the_seconds_that_are_on_the_disk(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_kept: bool
) -> None:
    add = GrowingFile.add

    def add_one(file: GrowingFile, packet: Packet) -> None:
        if file.num_frames > 0:
            if not is_kept:
                file.path.unlink()
            raise OutputError("the disk is full")
        add(file, packet)

    monkeypatch.setattr(GrowingFile, "add", add_one)
    served = await serve(recording_dir=str(tmp_path))
    stream = await started(served)
    talk = await served.talk()
    await talk.greet(stream=stream["id"])
    await served.http.post(f"/api/streams/{stream['id']}/recordings", headers=bearer(stream))
    told = await talk.hear("recording", state="failed")
    assert told["detail"] == "the disk is full"
    assert (told["seconds"] > 0) == is_kept
    film = await served.http.get(told["url"])
    assert film.status_code == (200 if is_kept else 404)


async def test_a_picture_and_the_last_seconds_are_saved(serve: Serve, tmp_path: Path) -> None:
    served = await serve(recording_dir=str(tmp_path))
    stream = await started(served)
    base = f"/api/streams/{stream['id']}"
    await served.until_state(stream["id"], "playing")
    nothing = await served.http.post(f"{base}/clips", json={}, headers=bearer(stream))
    assert nothing.status_code == 409
    url = served.url.replace("http", "ws") + f"ws/video/{stream['id']}"
    async with connect(url, proxy=None) as socket:
        for _ in range(24):
            await asyncio.wait_for(socket.recv(), 30)
        clip = await served.http.post(f"{base}/clips", json={"seconds": 5}, headers=bearer(stream))
    assert clip.status_code == 201
    assert clip.json()["seconds"] > 0.5
    picture = await served.http.get(f"{base}/screenshot.png")
    assert picture.headers["content-type"] == "image/png"
    recipe = read_recipe(picture.content)
    assert (recipe["prompt"], recipe["seed"]) == ("snow", 7)
    assert Script.read(_lines(str(recipe["script"]))).spec.seed == 7


async def test_video_over_websocket_is_a_film_whose_clock_is_the_streams(
    serve: Serve, tmp_path: Path
) -> None:
    served = await serve()
    stream = await started(served)
    talk = await served.talk()
    await talk.greet(stream=stream["id"], token=stream["token"])
    url = served.url.replace("http", "ws") + f"ws/video/{stream['id']}"
    async with connect(url, proxy=None) as socket:
        about = json.loads(await asyncio.wait_for(socket.recv(), 30))
        assert about["type"] == "video"
        assert about["mime"].startswith('video/mp4; codecs="avc1.42C0')
        parts = [await asyncio.wait_for(socket.recv(), 30) for _ in range(20)]
        await served.until(viewers=1)
        await talk.say("set_prompt", prompt={"id": "p2", "text": "night"})
        pts = (await talk.hear("prompt_applied", prompt_id="p2"))["pts"]
        stamps: list[int] = []
        while pts not in stamps and len(parts) < 200:
            parts.append(await asyncio.wait_for(socket.recv(), 30))
            at = parts[-1].index(b"tfdt") + 8
            stamps.append(int.from_bytes(parts[-1][at : at + 8], "big"))
        assert pts in stamps
    path = tmp_path / "joined.mp4"
    path.write_bytes(b"".join(parts))
    with av.open(str(path)) as container:
        assert len(list(container.decode(video=0))) == len(parts) - 1
    await served.until(viewers=0)


async def test_video_over_websocket_ends_with_the_stream_and_refuses_in_words(serve: Serve) -> None:
    served = await serve(max_viewers=1)
    stream = await started(served)
    base = served.url.replace("http", "ws") + "ws/video/"
    async with connect(base + "s-none", proxy=None) as socket:
        assert json.loads(await socket.recv())["code"] == "stream_unknown"
    async with connect(base + stream["id"], proxy=None) as socket:
        await asyncio.wait_for(socket.recv(), 30)
        async with connect(base + stream["id"], proxy=None) as second:
            assert json.loads(await second.recv())["code"] == "busy"
        await served.http.delete(f"/api/streams/{stream['id']}", headers=bearer(stream))
        async with asyncio.timeout(30):
            async for _ in socket:
                pass
        assert socket.close_code == 1000


async def test_publishing_is_begun_shown_and_ended(serve: Serve) -> None:
    served = await serve()
    stream = await started(served)
    director, viewer = await served.talk(), await served.talk()
    await director.greet(stream=stream["id"], token=stream["token"])
    await viewer.greet(stream=stream["id"])
    base = f"/api/streams/{stream['id']}/publications"
    bad = await served.http.post(base, json={"url": "ftp://x"}, headers=bearer(stream))
    assert (bad.status_code, bad.json()["code"]) == (400, "publish_refused")
    body = {"url": "http://127.0.0.1:9/whip?key=secret"}
    made = await served.http.post(base, json=body, headers=bearer(stream))
    assert made.status_code == 201
    async with asyncio.timeout(30):
        while True:
            (shown,) = (await served.http.get(base, headers=bearer(stream))).json()
            if shown["state"] == "waiting":
                break
            await asyncio.sleep(0.02)
    assert shown["retry_in_s"] is not None
    assert shown["detail"] == "127.0.0.1:9 cannot be reached (Connection refused); " + (
        "does a server run there?"
    )
    await director.hear("publication", state="connecting", attempts=1)
    told = await director.hear("publication", state="waiting")
    assert told["id"] == shown["id"]
    assert told["detail"] == shown["detail"]
    assert "secret" not in json.dumps(shown)
    url = f"{base}/{shown['id']}"
    assert (await served.http.delete(url, headers=bearer(stream))).status_code == 204
    assert (await served.http.get(base, headers=bearer(stream))).json() == []
    assert (await director.hear("publication", state="ended"))["id"] == shown["id"]
    assert (await served.until_state(stream["id"], "playing"))["id"] == stream["id"]
    await viewer.say("ping", id=1)
    while (heard := json.loads(await viewer.socket.recv()))["type"] != "pong":
        assert heard["type"] != "publication", "where it goes is the director's business"


async def test_prometheus_reads_the_figures(serve: Serve) -> None:
    served = await serve()
    talk = await served.talk()
    await talk.greet()
    await talk.start("red")
    await talk.hear("prompt_applied", prompt_id="p1")
    await talk.say("shown", prompt_id="p1", latency_ms=612.5, jitter_buffer_ms=12.5)
    await talk.say("shown", prompt_id="p1", latency_ms=412.5)
    await talk.say("pause", **{"x": 1})
    await talk.refusal()
    answer: httpx.Response = await served.http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    samples = {
        (sample.name, next(iter(sample.labels.values()), "")): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
        if "le" not in sample.labels
    }
    assert samples["streamer_streams", ""] == 1
    assert samples["streamer_frames_total", ""] >= 1
    assert samples["streamer_errors_total", "message_invalid"] == 1
    for stage in ("wait", "text", "block", "decode", "queue", "encode", "jitter_buffer"):
        assert samples["streamer_prompt_seconds_count", stage] == 1, stage
    assert samples["streamer_prompt_seconds_sum", "total"] == pytest.approx(0.6125 + 0.4125)
    told = {part: samples["streamer_prompt_to_picture_seconds", part] for part in ("0.5", "0.95")}
    assert told == pytest.approx({"0.5": 0.5125, "0.95": 0.6025})
