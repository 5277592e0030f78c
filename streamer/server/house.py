"""What all routes of one server share: the engine, the streams, and everybody connected."""

from __future__ import annotations

from collections.abc import Callable

from starlette.websockets import WebSocket

from streamer.config import Config
from streamer.errors import StreamerError
from streamer.metrics import Metrics
from streamer.server.loading import EngineFactory, LoadingEngine
from streamer.server.protocol import Error, Loading, Message
from streamer.server.publishing import Publishing
from streamer.server.recordings import Recordings
from streamer.server.session import Session
from streamer.server.streams import Streams
from streamer.server.tickets import Tickets
from streamer.server.video_socket import VideoSocket
from streamer.server.whep import WhepDoor


class House:
    """What all routes share: the engine, the streams, and everybody connected.

    Owner: the application, for as long as it runs.
    """

    def __init__(
        self,
        config: Config,
        engine_factory: EngineFactory,
        on_progress: Callable[[float, str], None],
        on_failed: Callable[[StreamerError], None],
    ) -> None:
        self.config = config
        self._on_progress, self._on_failed = on_progress, on_failed
        self.engine = LoadingEngine(
            config, engine_factory, on_progress=self._progressed, on_failed=self._failed
        )
        self.metrics = Metrics()
        self.streams = Streams(
            config,
            self.engine,
            metrics=self.metrics,
            on_started=lambda held: self.publishing.started(held),
        )
        self.publishing = Publishing(config, self.streams)
        self.recordings = Recordings(config, self.streams)
        self.whep = WhepDoor(config, self.streams)
        self.tickets = Tickets(self.streams)
        self._sessions: set[Session] = set()
        self._measure()

    async def converse(self, socket: WebSocket) -> None:
        """Serve one WebSocket until it closes."""
        session = Session(socket, self.config, self.engine, self.streams)
        self._sessions.add(session)
        try:
            await session.run()
        finally:
            self._sessions.discard(session)

    async def show_video(self, socket: WebSocket, stream_id: str) -> None:
        """Send a stream's video over a WebSocket until either side ends."""
        await VideoSocket(socket, self.streams).run(stream_id)

    async def close(self) -> None:
        """End all streams, with what hangs on them, then the engine."""
        await self.publishing.close()
        await self.recordings.close()
        await self.whep.close()
        await self.streams.close()
        await self.engine.close()

    def _measure(self) -> None:
        streams, gauge = self.streams, self.metrics.gauge
        gauge("streams", "Streams, parked ones included", lambda: len(streams))
        gauge("viewers", "Who watches any stream", lambda: streams.num_viewers)
        gauge(
            "queued_seconds",
            "Video made and not yet shown; the longest of all streams",
            lambda: max((each.playout.queued_s for each in streams), default=0.0),
        )
        gauge(
            "playback_ratio",
            "Frames played over the stream's own rate; the slowest of all that play",
            lambda: min(
                (each.playout.playback_rate for each in streams if each.state == "playing"),
                default=1.0,
            ),
        )
        gauge(
            "played_fps",
            "Frames a second of all streams that play",
            lambda: sum(each.playout.rate for each in streams if each.state == "playing"),
        )
        gauge(
            "dropped_frames",
            "Frames lost to slow viewers and full queues, of the streams there are",
            lambda: sum(each.playout.dropped + each.broadcast.dropped for each in streams),
        )
        gauge(
            "encoders",
            "Encoders at work",
            lambda: sum(len(each.broadcast.renditions) for each in streams),
        )
        gauge(
            "key_frames",
            "Key frames made, of the streams there are",
            lambda: sum(each.broadcast.num_keyframes for each in streams),
        )
        gauge("publications", "Streams published", lambda: self.publishing.num_publishing)

    def _progressed(self, progress: float, stage: str) -> None:
        self._on_progress(progress, stage)
        self._tell_all(Loading(progress=progress, stage=stage))

    def _failed(self, error: StreamerError) -> None:
        self._on_failed(error)
        self._tell_all(Error(code=error.code, message=str(error)))

    def _tell_all(self, message: Message) -> None:
        for session in tuple(self._sessions):
            session.tell_greeted(message)
