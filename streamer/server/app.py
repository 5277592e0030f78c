"""The application: the page, the streams over HTTP, the WebSocket, health.

One engine, loaded in the background; the server answers from the first moment.
"""

from __future__ import annotations

import asyncio
import logging
import mimetypes
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Header, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException
from starlette.responses import Response

from streamer import __version__
from streamer.config import Config, web_dir
from streamer.engine.handle import Engine
from streamer.errors import BusyError, MediaTypeError, StreamerError
from streamer.pictures import reader_of
from streamer.server.access import Guard, bearer, require_token
from streamer.server.docs_page import render_docs
from streamer.server.gate import Gate
from streamer.server.house import House
from streamer.server.loading import EngineFactory
from streamer.server.protocol import (
    PromptAccepted,
    PromptField,
    Seed,
    StreamInfo,
    TransitionField,
)
from streamer.server.streams import Held
from streamer.server.tickets import StreamMade, WaitingPlace, made
from streamer.server.vocabulary import vocabulary_routes

log = logging.getLogger(__name__)

RETRY_AFTER_S = 5
"""When to ask again after `busy`."""

Authorization = Annotated[str | None, Header(description="Bearer and the stream's token")]


FILE_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            kind: {"schema": {"type": "string", "format": "binary"}}
            for kind in ("image/*", "video/*")
        },
    }
}
"""The schema of a body that is a file."""


class Problem(BaseModel):
    """Why a request was not done.  code is stable, message is for people."""

    code: str
    message: str


class Body(BaseModel):
    """Base of request bodies: unknown fields are errors."""

    model_config = ConfigDict(extra="forbid", strict=True)


class NewStream(Body):
    """What a new stream begins with.

    wait: while all places are taken, wait in line for one instead of being refused.
    """

    prompt: str
    seed: Seed | None = None
    transition: TransitionField | None = None
    wait: bool = False


class NewPrompt(Body):
    """A prompt that steers a stream; transition null: the model's default."""

    prompt: str
    transition: TransitionField | None = None


class Health(BaseModel):
    """The server is alive."""

    status: str
    version: str
    model: str
    streams: int
    viewers: int


class Readiness(BaseModel):
    """Whether the model is loaded.  status: loading, ready or failed; progress 0..1."""

    status: str
    progress: float
    stage: str


def _ignore_progress(progress: float, stage: str) -> None:
    """The page is told; nobody else wants to know."""


def _ignore_failure(error: StreamerError) -> None:
    """The page is told, and `/readyz` says so."""


def create_app(
    config: Config,
    engine_factory: EngineFactory = Engine,
    *,
    on_progress: Callable[[float, str], None] = _ignore_progress,
    on_failed: Callable[[StreamerError], None] = _ignore_failure,
) -> FastAPI:
    """The ASGI application of one server.

    on_progress, on_failed: told, on the event loop, how loading goes and why it failed.
    """
    house = House(config, engine_factory, on_progress, on_failed)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        house.engine.start()
        try:
            yield
        finally:
            await house.close()

    app = FastAPI(
        title="streamer",
        version=__version__,
        description="Type a prompt, watch an endless video, change it while it plays. "
        "Video and control go over the WebSocket at /ws; see docs/protocol.md.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.include_router(_health_routes(house))
    app.include_router(_stream_routes(house))
    app.include_router(house.tickets.routes())
    app.include_router(house.recordings.routes())
    app.include_router(house.publishing.routes())
    app.include_router(house.whep.routes())
    app.include_router(vocabulary_routes(config))
    app.add_api_websocket_route("/ws", house.converse)
    app.add_api_websocket_route("/ws/video/{stream_id}", house.show_video)

    @app.get("/docs", include_in_schema=False)
    def docs() -> HTMLResponse:
        return HTMLResponse(render_docs(app.openapi()))

    _answer_errors(app)
    mimetypes.add_type("text/javascript", ".js")
    app.mount("/", StaticFiles(directory=web_dir(), html=True), name="page")
    server = config.server
    guard = Guard(server.host, tuple(server.allowed_origins))
    app.add_middleware(
        Gate,
        guard=guard,
        body_limit=server.message_bytes,
        larger={"/api/streams/from-file": server.upload_bytes},
    )
    return app


def _health_routes(house: House) -> APIRouter:
    router = APIRouter(tags=["health"])

    @router.get("/healthz")
    async def healthz() -> Health:
        """The server is alive; it may still be loading."""
        return Health(
            status="ok",
            version=__version__,
            model=house.config.name,
            streams=len(house.streams),
            viewers=house.streams.num_viewers,
        )

    @router.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Figures for Prometheus."""
        return Response(house.metrics.exposition(), media_type=CONTENT_TYPE_LATEST)

    @router.get("/readyz", response_model=Readiness, responses={503: {"model": Readiness}})
    async def readyz() -> JSONResponse:
        """200 once the model is loaded; 503 before, when loading failed, and while a worker that
        is gone cannot be replaced."""
        engine = house.engine
        outage = engine.outage
        status = "failed" if outage else "ready" if engine.is_ready else "loading"
        stage = str(outage) if outage else engine.stage
        answer = Readiness(status=status, progress=engine.progress, stage=stage)
        return JSONResponse(answer.model_dump(), 200 if status == "ready" else 503)

    return router


def _stream_routes(house: House) -> APIRouter:
    problems: dict[int | str, dict[str, Any]] = {
        code: {"model": Problem} for code in (400, 403, 404, 409, 413, 415, 503)
    }
    in_line: dict[int | str, dict[str, Any]] = {202: {"model": WaitingPlace}}
    router = APIRouter(prefix="/api/streams", tags=["streams"], responses=problems)

    def steered(stream_id: str, authorization: str | None) -> Held:
        held = house.streams.find(stream_id)
        require_token(bearer(authorization), held.token)
        return held

    def begun(request: Request, held: Held) -> JSONResponse:
        return JSONResponse(made(held, request).model_dump(mode="json"), 201)

    @router.post("", status_code=201, response_model=StreamMade, responses=in_line)
    async def start(body: NewStream, request: Request) -> JSONResponse:
        """Begin a stream.  It is parked when nobody watches it for a while.

        503 when all places are taken or others wait for one; with `wait` 202 instead, and a place
        in the line that all wait in: ask for it again at the address in `Location`.
        """
        prompt = PromptField(id="p-1", text=body.prompt, transition=body.transition).prompt()
        house.engine.require_sound()
        if body.wait:
            return house.tickets.answer(house.tickets.take(prompt, body.seed), request, 201)
        return begun(request, house.streams.start(prompt, body.seed))

    @router.post(
        "/from-file",
        status_code=201,
        response_model=StreamMade,
        responses=in_line,
        openapi_extra=FILE_BODY,
    )
    async def start_from_file(
        request: Request,
        prompt: str,
        seed: Annotated[int | None, Query(ge=0, lt=2**53)] = None,
        instead_of: str | None = None,
        wait: bool = False,
        authorization: Authorization = None,
    ) -> JSONResponse:
        """Begin a stream that goes on from a picture, or from the end of a clip.

        The body is the file itself, its Content-Type image/... or video/...; prompt and seed are in
        the query.  instead_of: a stream of the sender's, with its token in the header: it ends once
        the file was read, and the new one takes its place.  wait: as with a prompt alone.
        """
        first = PromptField(id="p-1", text=prompt).prompt()
        read = reader_of(request.headers.get("content-type", ""))
        house.engine.require_sound()
        old = None if instead_of is None else steered(instead_of, authorization)
        if old is None and not wait:
            house.streams.require_turn()
        pictures = await asyncio.to_thread(read, house.config.stream, await request.body())
        opening = await house.engine.encode(pictures)
        if old is not None:
            return begun(request, await house.streams.replace(old, first, seed, opening))
        if wait:
            return house.tickets.answer(house.tickets.take(first, seed, opening), request, 201)
        return begun(request, house.streams.start(first, seed, opening))

    @router.get("/{stream_id}")
    async def look(stream_id: str) -> StreamInfo:
        """What plays now.  The token is never shown again."""
        return house.streams.find(stream_id).stream.info(None)

    @router.delete("/{stream_id}", status_code=204)
    async def end(stream_id: str, authorization: Authorization = None) -> None:
        """End a stream for everybody."""
        await steered(stream_id, authorization).stream.end("the director stopped it")

    @router.get("/{stream_id}/script", response_class=PlainTextResponse)
    async def script(stream_id: str) -> PlainTextResponse:
        """The script so far as JSON Lines, also for a while after the stream has ended.

        `streamer replay` renders it again.
        """
        text = house.streams.script(stream_id)
        disposition = f'attachment; filename="{stream_id}.jsonl"'
        return PlainTextResponse(
            text,
            media_type="application/jsonl",
            headers={"Content-Disposition": disposition},
        )

    @router.post("/{stream_id}/prompt", status_code=202)
    async def steer(
        stream_id: str, body: NewPrompt, authorization: Authorization = None
    ) -> PromptAccepted:
        """Change the prompt; the newest wins."""
        held = steered(stream_id, authorization)
        prompt_id = f"p-{secrets.token_hex(4)}"
        field = PromptField(id=prompt_id, text=body.prompt, transition=body.transition)
        prompt = field.prompt()
        held.rate.take("changes")
        return held.stream.set_prompt(prompt)

    return router


def _answer_errors(app: FastAPI) -> None:
    """Every error over HTTP is a Problem."""

    @app.exception_handler(StreamerError)
    async def refused(request: Request, error: StreamerError) -> JSONResponse:
        answer = _problem(error.http_status, error.code, str(error))
        if isinstance(error, BusyError):
            answer.headers["Retry-After"] = str(RETRY_AFTER_S)
        return answer

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        fault = error.errors()[0]
        found = request.headers.get("content-type", "")
        is_absent = fault["type"] == "missing" and not found
        if fault["loc"] == ("body",) and "json" not in found.lower() and not is_absent:
            said = repr(found) if found else "of no stated type"
            text = f"the body is {said}; send application/json"
            return _problem(MediaTypeError.http_status, MediaTypeError.code, text)
        if fault["type"] == "json_invalid":
            text = f"the body is not JSON: {fault['ctx']['error']} at character {fault['loc'][-1]}"
            return _problem(400, "message_invalid", text)
        where = ".".join(str(part) for part in fault["loc"])
        return _problem(400, "message_invalid", f"{where}: {fault['msg']}")

    @app.exception_handler(HTTPException)
    async def failed(request: Request, error: HTTPException) -> JSONResponse:
        codes = {404: "not_found", 405: "method_not_allowed", 413: "too_large"}
        code = codes.get(error.status_code, "request_invalid")
        text = f"there is nothing at {request.url.path}" if code == "not_found" else error.detail
        answer = _problem(error.status_code, code, text)
        answer.headers.update(error.headers or {})
        return answer

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> JSONResponse:
        return _problem(500, "internal", "the server failed on this request; see its log")


def _problem(status: int, code: str, message: str) -> JSONResponse:
    return JSONResponse(Problem(code=code, message=message).model_dump(), status)
