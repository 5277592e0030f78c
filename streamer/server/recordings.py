"""Recordings, clips and pictures of the streams of one server, and their files.

File names are made here; nothing a client sends becomes a path.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Header
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import FileResponse, Response

from streamer.config import Config
from streamer.delivery.recorder import Recorder, State, save_last
from streamer.delivery.screenshot import png
from streamer.errors import OutputError, StreamStateError, StreamUnknownError
from streamer.live import LiveStream
from streamer.server.access import bearer, require_token
from streamer.server.protocol import Message, PromptApplied, RecordingField
from streamer.server.streams import Held, Streams

KEPT = 256
"""So many recordings are remembered; the files of older ones stay on the disk."""

_TYPES = {
    ".mp4": "video/mp4",
    ".webm": "video/webm",
    ".vtt": "text/vtt; charset=utf-8",
    ".jsonl": "application/jsonl",
}


class Clip(BaseModel):
    """How much of the past to save."""

    model_config = ConfigDict(extra="forbid", strict=True)

    seconds: Annotated[float, Field(gt=0, le=600)] = 30.0


@dataclass
class Recording:
    """One recording or clip, and where it lies."""

    id: str
    stream_id: str
    path: Path
    recorder: Recorder | None = None
    seconds: float = 0.0

    @property
    def state(self) -> State:
        """Whether it grows, is whole, or failed."""
        return self.recorder.state if self.recorder is not None else "finished"

    def field(self) -> RecordingField:
        """What clients are told."""
        recorder = self.recorder
        seconds = recorder.seconds if recorder is not None else self.seconds
        if self.state == "failed" and not self.path.is_file():
            seconds = 0.0  # what was counted never reached the disk
        return RecordingField(
            id=self.id,
            state=self.state,
            detail=recorder.detail if recorder is not None else "",
            seconds=round(seconds, 2),
            url=f"/api/streams/{self.stream_id}/recordings/{self.path.name}",
        )


class _Witness:
    """Tells a recorder which prompts are shown, and keeps the stream going for it."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def tell(self, message: Message) -> None:
        if isinstance(message, PromptApplied):
            self._recorder.note_prompt(message.pts, message.text)

    def rtp_timestamp(self, pts: int) -> int | None:
        return None


class Recordings:
    """Owner: the application.  Lives on the event loop."""

    def __init__(self, config: Config, streams: Streams) -> None:
        self._streams = streams
        self._folder = Path(config.server.recording_dir).expanduser()
        self._kept: dict[str, Recording] = {}

    async def start(self, stream: LiveStream) -> Recording:
        """Record from the next key frame on.

        Raises StreamStateError when it is recorded already, OutputError without a folder, BusyError
        when it is parked and there is no place for it.
        """
        if self._running(stream.id) is not None:
            raise StreamStateError("this stream is being recorded already; stop that first")
        self._streams.require_place_of(stream)
        path = await self._path(stream.id)
        recorder = Recorder(
            path,
            stream.broadcast,
            tags=lambda: tags_of(stream),
            script=stream.script,
            cues=_prompts(stream),
            on_changed=lambda: self._changed(recording, stream, witness),
        )
        recording = Recording(path.stem, stream.id, path, recorder)
        witness = _Witness(recorder)
        stream.attach(witness)
        stream.watch(witness, is_viewer=False)
        recorder.begin()
        self._keep(recording)
        stream.tell_all(recording.field())
        return recording

    async def stop(self, stream_id: str) -> Recording:
        """Finish what is being recorded.  Raises StreamStateError when nothing is."""
        recording = self._running(stream_id)
        if recording is None or recording.recorder is None:
            raise StreamStateError("this stream is not being recorded")
        await recording.recorder.stop()
        return recording

    async def save_last(self, stream: LiveStream, seconds: float) -> Recording:
        """Save what was sent in the last seconds."""
        path, length_s = await save_last(
            await self._path(stream.id),
            stream.broadcast,
            seconds,
            prompts=_prompts(stream),
            tags=tags_of(stream),
            script=stream.script(),
        )
        recording = Recording(path.stem, stream.id, path, seconds=length_s)
        self._keep(recording)
        stream.tell_all(recording.field())
        return recording

    def of(self, stream_id: str) -> list[Recording]:
        """The recordings of a stream, oldest first; also after its end."""
        return [each for each in self._kept.values() if each.stream_id == stream_id]

    def file(self, stream_id: str, name: str) -> Path:
        """The file of that name, if it belongs to a recording of the stream."""
        for recording in self.of(stream_id):
            for path in (recording.path, *map(recording.path.with_suffix, (".vtt", ".jsonl"))):
                if path.name == name and path.is_file():
                    return path
        raise StreamUnknownError(f"there is no recording file {name!r} of this stream")

    async def close(self) -> None:
        """Finish all that is being recorded."""
        running = [each.recorder for each in self._kept.values() if each.recorder is not None]
        await asyncio.gather(*(recorder.stop() for recorder in running))

    def routes(self) -> APIRouter:
        """The routes below `/api/streams/{stream_id}`."""
        router = APIRouter(prefix="/api/streams/{stream_id}", tags=["recordings"])
        recordings = "/recordings"
        router.add_api_route(recordings, self._start, methods=["POST"], status_code=201)
        router.add_api_route(recordings, self._list, methods=["GET"])
        router.add_api_route(f"{recordings}/stop", self._stop, methods=["POST"])
        router.add_api_route("/clips", self._clip, methods=["POST"], status_code=201)
        router.add_api_route(f"{recordings}/{{name}}", self._file, methods=["GET"])
        router.add_api_route("/screenshot.png", self._screenshot, methods=["GET"])
        return router

    async def _start(
        self, stream_id: str, authorization: Annotated[str | None, Header()] = None
    ) -> RecordingField:
        """Record the stream until it is stopped or ends (director only)."""
        return (await self.start(self._directed(stream_id, authorization).stream)).field()

    async def _stop(
        self, stream_id: str, authorization: Annotated[str | None, Header()] = None
    ) -> RecordingField:
        """Finish the recording (director only)."""
        self._directed(stream_id, authorization)
        return (await self.stop(stream_id)).field()

    async def _clip(
        self, stream_id: str, body: Clip, authorization: Annotated[str | None, Header()] = None
    ) -> RecordingField:
        """Save the last seconds (director only); up to ten more, since it begins at a key frame."""
        held = self._directed(stream_id, authorization)
        held.rate.take("clips")
        return (await self.save_last(held.stream, body.seconds)).field()

    async def _list(self, stream_id: str) -> list[RecordingField]:
        """What was recorded of the stream, oldest first."""
        if not self.of(stream_id):
            self._streams.find(stream_id)
        return [recording.field() for recording in self.of(stream_id)]

    async def _file(self, stream_id: str, name: str) -> FileResponse:
        """A recording's film, captions (`.vtt`) or script (`.jsonl`)."""
        path = self.file(stream_id, name)
        return FileResponse(path, media_type=_TYPES[path.suffix], filename=path.name)

    async def _screenshot(self, stream_id: str) -> Response:
        """The picture that plays now, as PNG; its text chunk `streamer` says how it was made."""
        stream = self._streams.find(stream_id).stream
        frame = stream.broadcast.last_frame
        if frame is None:
            raise StreamStateError("there is no picture yet; try again when the stream plays")
        recipe: dict[str, object] = {
            "model": stream.spec.model,
            "seed": stream.changes.seed_shown,
            "prompt": stream.changes.shown[-1].prompt.text if stream.changes.shown else "",
            "frame": frame.number,
            "block": frame.block,
            "script": stream.script(),
        }
        content = await asyncio.to_thread(png, frame.pixels.copy(), recipe)
        name = f"{stream_id}-{frame.number}.png"
        headers = {"Content-Disposition": f'inline; filename="{name}"'}
        return Response(content, media_type="image/png", headers=headers)

    def _directed(self, stream_id: str, authorization: str | None) -> Held:
        held = self._streams.find(stream_id)
        require_token(bearer(authorization), held.token)
        return held

    def _running(self, stream_id: str) -> Recording | None:
        for recording in self.of(stream_id):
            if recording.state == "recording":
                return recording
        return None

    def _changed(self, recording: Recording, stream: LiveStream, witness: _Witness) -> None:
        stream.tell_all(recording.field())
        stream.detach(witness)

    def _keep(self, recording: Recording) -> None:
        self._kept[recording.id] = recording
        for old in [each for each in self._kept.values() if each.state != "recording"]:
            if len(self._kept) <= KEPT:
                break
            del self._kept[old.id]

    async def _path(self, stream_id: str) -> Path:
        try:
            await asyncio.to_thread(self._folder.mkdir, parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"{self._folder}: recordings cannot be kept there: {error.strerror}; "
                "see server.recording_dir"
            ) from error
        return self._folder / f"{stream_id}-{secrets.token_hex(4)}.mp4"


def tags_of(stream: LiveStream) -> dict[str, str]:
    """The metadata of a recording: enough to make the same film again."""
    shown = stream.changes.shown[0].prompt.text if stream.changes.shown else ""
    return {
        "title": shown,
        "comment": stream.script(),
        "streamer.model": stream.spec.model,
        "streamer.seed": str(stream.spec.seed),
    }


def _prompts(stream: LiveStream) -> list[tuple[int, str]]:
    return [(each.pts, each.prompt.text) for each in stream.changes.shown]
