"""The HTTP side: streams, health, the page, and errors that are all alike."""

from __future__ import annotations

import io
import json
from typing import Any

import av
import numpy as np
import pytest

from streamer.errors import WeightsError
from streamer.stream import Ended, Prompt, Script
from tests.fakes import FakeEngine

Serve = Any


def bearer(stream: dict[str, Any]) -> dict[str, str]:
    return {"Authorization": f"Bearer {stream['token']}"}


async def test_a_stream_is_made_looked_at_steered_and_ended(serve: Serve) -> None:
    served = await serve()
    made = await served.http.post("/api/streams", json={"prompt": "a red balloon", "seed": 7})
    assert made.status_code == 201
    stream = made.json()
    assert stream["url"] == f"{served.url}#{stream['id']}"
    path = f"/api/streams/{stream['id']}"
    seen = (await served.http.get(path)).json()
    assert seen["token"] is None
    assert (seen["seed"], seen["prompt"]["text"]) == (7, "a red balloon")

    change = {"prompt": "snow", "transition": {"kind": "blend", "blocks": 4}}
    steered = await served.http.post(f"{path}/prompt", json=change, headers=bearer(stream))
    assert steered.status_code == 202
    assert steered.json()["applies_in_s"] >= 0
    assert (await served.http.get(path)).json()["prompt"]["text"] == "snow"

    assert (await served.http.delete(path, headers=bearer(stream))).status_code == 204
    gone = await served.http.get(path)
    assert (gone.status_code, gone.json()["code"]) == (404, "stream_unknown")
    assert (await served.health())["streams"] == 0
    assert served.engine.num_open == 0


async def test_the_script_can_be_taken_away_for_replay(serve: Serve) -> None:
    served = await serve()
    stream = (await served.http.post("/api/streams", json={"prompt": "snow", "seed": 7})).json()
    answer = await served.http.get(f"/api/streams/{stream['id']}/script")
    assert stream["id"] in answer.headers["content-disposition"]
    assert Script.read(io.StringIO(answer.text)).spec.seed == 7
    await served.until_state(stream["id"], "playing")
    await served.http.delete(f"/api/streams/{stream['id']}", headers=bearer(stream))
    afterwards = await served.http.get(f"/api/streams/{stream['id']}/script")
    events = Script.read(io.StringIO(afterwards.text)).events
    assert [type(event) for _, event in events] == [Prompt, Ended]


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer guess"}])
async def test_only_the_director_steers_and_ends(serve: Serve, headers: dict[str, str]) -> None:
    served = await serve()
    stream = (await served.http.post("/api/streams", json={"prompt": "snow"})).json()
    path = f"/api/streams/{stream['id']}"
    for answer in (
        await served.http.post(f"{path}/prompt", json={"prompt": "rain"}, headers=headers),
        await served.http.delete(path, headers=headers),
    ):
        assert (answer.status_code, answer.json()["code"]) == (403, "not_director")
    assert (await served.http.get(path)).json()["prompt"]["text"] == "snow"


@pytest.mark.parametrize(
    ("content", "code", "status", "named"),
    [
        ("{", "message_invalid", 400, "body"),
        ("[]", "message_invalid", 400, "body"),
        ("{}", "message_invalid", 400, "prompt"),
        ('{"prompt": 7}', "message_invalid", 400, "prompt"),
        ('{"prompt": "x", "sed": 7}', "message_invalid", 400, "sed"),
        ('{"prompt": "x", "seed": -1}', "message_invalid", 400, "seed"),
        ('{"prompt": "x", "transition": {"kind": "melt"}}', "message_invalid", 400, "kind"),
        ('{"prompt": " "}', "prompt_invalid", 400, "empty"),
        (json.dumps({"prompt": "x" * 2001}), "prompt_invalid", 400, "2001"),
        (json.dumps({"prompt": "x" * 70_000}), "too_large", 413, "65536"),
    ],
)
async def test_bad_bodies_are_problems_that_name_the_fault(
    serve: Serve, content: str, code: str, status: int, named: str
) -> None:
    served = await serve()
    answer = await served.http.post(
        "/api/streams", content=content, headers={"Content-Type": "application/json"}
    )
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (status, code)
    assert named in problem["message"]
    assert (await served.health())["streams"] == 0


async def test_a_body_of_another_kind_is_told_which_one_is_wanted(serve: Serve) -> None:
    served = await serve()
    answer = await served.http.post("/api/streams", content="x", headers={"Content-Type": "text/x"})
    assert (answer.status_code, answer.json()["code"]) == (415, "media_type")
    assert answer.json()["message"] == "the body is 'text/x'; send application/json"
    broken = await served.http.post(
        "/api/streams", content='{"prompt":', headers={"Content-Type": "application/json"}
    )
    assert broken.status_code == 400
    assert broken.json()["message"] == "the body is not JSON: Expecting value at character 10"


@pytest.mark.parametrize(
    ("content", "kind", "status", "said"),
    [
        (b"x", None, 415, "the body is of no stated type; send application/json"),
        (b"", None, 400, "body: Field required"),
        (b"[]", "Application/JSON", 400, "body: Input should be"),
    ],
)
async def test_a_body_without_a_type_or_with_it_in_capitals_is_judged_for_what_it_is(
    serve: Serve, content: bytes, kind: str | None, status: int, said: str
) -> None:
    served = await serve()
    headers = {} if kind is None else {"Content-Type": kind}
    answer = await served.http.post("/api/streams", content=content, headers=headers)
    assert answer.status_code == status
    assert answer.json()["message"].startswith(said)
    described = (await served.http.get("/openapi.json")).json()
    assert str(status) in described["paths"]["/api/streams"]["post"]["responses"]


async def test_a_body_without_a_stated_length_is_bounded_too(serve: Serve) -> None:
    async def chunks() -> Any:
        for _ in range(40):
            yield b" " * 2000

    answer = await (await serve()).http.post(
        "/api/streams", content=chunks(), headers={"Content-Type": "application/json"}
    )
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/api/streams/s-none", 404, "stream_unknown"),
        ("GET", "/api/streams/s-none/script", 404, "stream_unknown"),
        ("DELETE", "/api/streams/s-none", 404, "stream_unknown"),
        ("GET", "/api/nothing", 404, "not_found"),
        ("GET", "/../streamer/errors.py", 404, "not_found"),
        ("GET", "/%2e%2e/pyproject.toml", 404, "not_found"),
        ("PUT", "/healthz", 405, "method_not_allowed"),
    ],
)
async def test_what_is_not_there_is_a_problem_too(
    serve: Serve, method: str, path: str, status: int, code: str
) -> None:
    answer = await (await serve()).http.request(method, path)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.json()["message"]


async def test_a_place_is_given_up_by_a_stream_whose_page_is_gone(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = await serve(max_streams=1)
    first = (await served.http.post("/api/streams", json={"prompt": "one"})).json()
    refused = await served.http.post("/api/streams", json={"prompt": "two"})
    assert (refused.status_code, refused.json()["code"]) == (503, "busy")
    monkeypatch.setattr("streamer.server.streams.LEAVING_S", 0.0)
    second = await served.http.post("/api/streams", json={"prompt": "two"})
    assert second.status_code == 201
    seen = await served.until_state(first["id"], "parked")
    assert seen["prompt"]["text"] == "one"


async def test_requests_of_foreign_pages_and_rebound_names_are_refused(serve: Serve) -> None:
    served = await serve()
    for headers in ({"Origin": "http://evil.example"}, {"Host": "rebound.example"}):
        answer = await served.http.post("/api/streams", json={"prompt": "x"}, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (403, "refused")
    own = {"Origin": served.url.rstrip("/")}
    assert (await served.http.get("/healthz", headers=own)).status_code == 200


async def test_health_and_readiness(serve: Serve) -> None:
    served = await serve()
    assert (await served.health())["status"] == "ok"
    ready = await served.http.get("/readyz")
    assert (ready.status_code, ready.json()["status"]) == (200, "ready")


async def test_a_server_is_not_ready_while_a_lost_worker_cannot_be_replaced(serve: Serve) -> None:
    engine = FakeEngine()
    served = await serve(engine)
    engine.outage = WeightsError("model.safetensors: there is no such weights file")
    answer = await served.http.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["status"] == "failed"
    assert "no such weights file" in answer.json()["stage"]
    engine.outage = None
    assert (await served.http.get("/readyz")).status_code == 200


async def test_every_answer_carries_the_security_headers(serve: Serve) -> None:
    served = await serve()
    for path in ("/healthz", "/api/nothing", "/docs"):
        headers = (await served.http.get(path)).headers
        assert "default-src 'self'" in headers["content-security-policy"]
        assert headers["cache-control"] == "no-cache"
        assert headers["x-content-type-options"] == "nosniff"


async def test_the_documentation_needs_nothing_from_elsewhere(serve: Serve) -> None:
    served = await serve()
    page = (await served.http.get("/docs")).text
    assert "POST /api/streams/{stream_id}/prompt" in page
    assert "<script" not in page
    assert "http://" not in page
    assert "https://" not in page
    schema = (await served.http.get("/openapi.json")).json()
    assert {"/api/streams", "/healthz", "/readyz"} <= schema["paths"].keys()
    assert "Problem" in schema["components"]["schemas"]


async def test_modules_of_the_page_come_as_javascript(
    serve: Serve, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "index.html").write_text("<!doctype html><title>streamer</title>")
    (tmp_path / "main.js").write_text("export {};")
    monkeypatch.setattr("streamer.server.app.web_dir", lambda: tmp_path)
    served = await serve()
    assert "<title>streamer" in (await served.http.get("/")).text
    module = await served.http.get("/main.js")
    assert module.headers["content-type"].startswith("text/javascript")


async def test_the_end_of_the_server_ends_streams_and_engine(serve: Serve) -> None:
    from streamer.server.app import create_app
    from tests.fakes import pattern_config

    engine = FakeEngine(block_s=0.02)
    app = create_app(pattern_config(), engine)
    async with app.router.lifespan_context(app):
        assert not engine.is_closed
    assert engine.is_closed


def png(level: int) -> bytes:
    """A picture of one grey, as a PNG file."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="image2pipe") as container:
        stream = container.add_stream("png")
        stream.width = stream.height = 32
        stream.pix_fmt = "rgb24"
        frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), level, np.uint8), "rgb24")
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()


async def test_a_stream_goes_on_from_a_picture(serve: Serve) -> None:
    served = await serve()
    made = await served.http.post(
        "/api/streams/from-file",
        params={"prompt": "snow", "seed": 7},
        content=png(120),
        headers={"Content-Type": "image/png"},
    )
    assert made.status_code == 201
    assert made.json()["prompt"]["text"] == "snow"
    answer = await served.http.get(f"/api/streams/{made.json()['id']}/script")
    spec = Script.read(io.StringIO(answer.text)).spec
    assert spec.opening is not None
    assert (spec.seed, spec.opening.latents().tolist()) == (7, [[[[120.0]]]])


@pytest.mark.parametrize(
    ("kind", "query", "status", "code"),
    [
        ("image/png", {"prompt": "snow"}, 400, "picture_invalid"),
        ("video/mp4", {"prompt": "snow"}, 400, "picture_invalid"),
        ("text/plain", {"prompt": "snow"}, 415, "media_type"),
        ("image/png", {"prompt": " "}, 400, "prompt_invalid"),
        ("image/png", {}, 400, "message_invalid"),
    ],
)
async def test_a_file_that_cannot_be_begun_with_begins_nothing(
    serve: Serve, kind: str, query: dict[str, str], status: int, code: str
) -> None:
    served = await serve()
    answer = await served.http.post(
        "/api/streams/from-file",
        params=query,
        content=b"neither picture nor clip",
        headers={"Content-Type": kind},
    )
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert (await served.health())["streams"] == 0


async def test_a_stream_from_a_file_takes_the_place_of_its_directors_own(serve: Serve) -> None:
    served = await serve(max_streams=1)
    first = (await served.http.post("/api/streams", json={"prompt": "rain"})).json()
    await served.until_state(first["id"], "playing")

    async def begin(content: bytes, headers: dict[str, str], **query: str) -> Any:
        return await served.http.post(
            "/api/streams/from-file",
            params={"prompt": "snow", **query},
            content=content,
            headers={"Content-Type": "image/png", **headers},
        )

    own = {"instead_of": first["id"]}
    refusals = [
        await begin(png(120), {}),
        await begin(png(120), {}, **own),
        await begin(b"no picture", bearer(first), **own),
    ]
    codes = ["busy", "not_director", "picture_invalid"]
    assert [answer.json()["code"] for answer in refusals] == codes
    assert (await served.http.get(f"/api/streams/{first['id']}")).status_code == 200
    made = await begin(png(120), bearer(first), **own)
    assert made.status_code == 201
    assert (await served.http.get(f"/api/streams/{first['id']}")).status_code == 404
    await served.until_state(made.json()["id"], "playing")
    assert (await served.health())["streams"] == 1


async def test_only_a_file_may_be_large(serve: Serve) -> None:
    served = await serve(upload_bytes=200_000)
    codes = []
    for size in (100_000, 300_000):
        answer = await served.http.post(
            "/api/streams/from-file",
            params={"prompt": "snow"},
            content=b"x" * size,
            headers={"Content-Type": "image/png"},
        )
        codes.append(answer.json()["code"])
    assert codes == ["picture_invalid", "too_large"]
