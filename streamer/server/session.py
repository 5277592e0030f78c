"""The conversation with one client over its WebSocket, from `hello` to the freeing of its video."""

from __future__ import annotations

import asyncio
import json
import logging

from starlette.websockets import WebSocket, WebSocketDisconnect

from streamer import __version__
from streamer.config import Config
from streamer.delivery.ice import IceServer
from streamer.delivery.webrtc import Viewer
from streamer.errors import (
    MessageError,
    NotDirectorError,
    OfferError,
    StreamerError,
    StreamStateError,
)
from streamer.live import LiveStream
from streamer.pictures import can_begin_with_pictures
from streamer.server.audience import Member
from streamer.server.channel import CLOSE_GONE, Channel
from streamer.server.loading import LoadingEngine
from streamer.server.protocol import (
    PROTOCOL_VERSION,
    Answer,
    ClientMessage,
    Direction,
    Dismiss,
    Error,
    HandOver,
    Hello,
    IceServerField,
    Loading,
    Message,
    Offer,
    OpeningField,
    OpenSuggestions,
    Pause,
    Pick,
    Ping,
    Pong,
    PromptField,
    Queued,
    Resume,
    SetPrompt,
    SetSeed,
    Shown,
    Start,
    Status,
    Stop,
    Suggest,
    Welcome,
    decode_client,
)
from streamer.server.streams import Held, Streams
from streamer.stream import TransitionKind

log = logging.getLogger(__name__)

HELLO_S = 5.0
"""A client must say hello within so many seconds."""

ANSWER_S = 10.0
"""How long answering an offer may take."""

CLOSE_PROTOCOL = 1002
CLOSE_INTERNAL = 1011


class Session:
    """One client: its WebSocket, the stream it is attached to, and its video.

    Owner: the WebSocket route; lives as long as the connection; whatever ends it frees all.
    """

    def __init__(
        self, socket: WebSocket, config: Config, engine: LoadingEngine, streams: Streams
    ) -> None:
        self._channel = Channel(socket, self._sent)
        self._config = config
        self._engine = engine
        self._streams = streams
        self._ice_servers = [IceServer.parse(text) for text in config.server.ice_servers]
        self._has_greeted = False
        self._held: Held | None = None
        self._member: Member | None = None
        self._name: str | None = None
        self._waiting: Start | None = None
        self._viewer: Viewer | None = None

    # ---- what a stream asks of its client -------------------------------------------------------

    def tell(self, message: Message) -> None:
        """Send a message soon.  A client that does not keep up is closed."""
        self._channel.tell(message)

    def tell_greeted(self, message: Message) -> None:
        """The same, unless the client has not said hello yet: `welcome` comes first."""
        if self._has_greeted:
            self.tell(message)

    def rtp_timestamp(self, pts: int) -> int | None:
        """What a frame with that pts carries to this client; None without video."""
        return self._viewer.rtp_timestamp(pts) if self._viewer is not None else None

    # ---- what the line for a stream asks of who waits -------------------------------------------

    @property
    def is_there(self) -> bool:
        """A connection that ends leaves the line by itself."""
        return True

    def enter(self) -> None:
        """There is a place: begin the stream that was asked for."""
        wanted, self._waiting = self._waiting, None
        if wanted is None:
            return
        try:
            self._go_with(self._streams.enter(wanted.prompt.prompt(), wanted.seed))
        except StreamerError as error:
            self._tell_error(error, "start")

    def advance(self, position: int, length: int) -> None:
        """Tell the client its place in the line."""
        self.tell(Queued(position=position, length=length))

    # ---- the connection -------------------------------------------------------------------------

    async def run(self) -> None:
        """Converse until either side closes; then free everything."""
        await self._channel.open()
        try:
            await self._converse()
        except WebSocketDisconnect:
            self._channel.stop()
        except Exception:
            log.exception("a conversation failed")
            self.tell(Error(code="internal", message="the server failed; reload the page"))
            self._channel.close(CLOSE_INTERNAL, "internal error")
        finally:
            self._channel.stop()
            await self._free()
            await self._channel.finish()

    async def _converse(self) -> None:
        deadline_s = asyncio.get_running_loop().time() + HELLO_S
        while not self._channel.is_closing:
            patience_s = self._config.server.viewer_silence_s
            if not self._has_greeted:
                patience_s = deadline_s - asyncio.get_running_loop().time()
            try:
                text = await self._channel.hear(patience_s)
            except MessageError as error:
                self._tell_error(error, None)
                continue
            if text is not None:
                await self._handle(text)
            elif not self._channel.is_closing and self._has_greeted:
                self._channel.close(CLOSE_GONE, f"silent for {patience_s:g} s")
            elif not self._channel.is_closing:
                self._channel.close(CLOSE_PROTOCOL, f"no hello within {HELLO_S:g} s")

    async def _sent(self, message: Message) -> None:
        """Who was told that the stream has ended is sent no more video."""
        if isinstance(message, Status) and message.state == "ended":
            await self._close_viewer()

    async def _free(self) -> None:
        held, self._held = self._held, None
        self._leave_line()
        await self._close_viewer()
        if held is not None:
            held.stream.detach(self)
            self._leave_audience(held)

    def _leave_audience(self, held: Held) -> None:
        member, self._member = self._member, None
        if member is not None:
            held.audience.leave(member)

    async def _close_viewer(self) -> None:
        viewer, self._viewer = self._viewer, None
        if viewer is not None:
            await viewer.close()

    # ---- messages -------------------------------------------------------------------------------

    async def _handle(self, text: str) -> None:
        """Act on one message; a fault in it becomes an `error` event and changes nothing."""
        about = _claimed_type(text)
        try:
            message = decode_client(text)
            if not self._has_greeted and not isinstance(message, Hello):
                raise StreamStateError(f"say hello before {message.type}")
            await self._act(message)
        except StreamerError as error:
            self._tell_error(error, about)

    async def _act(self, message: ClientMessage) -> None:
        match message:
            case Hello():
                self._greet(message)
            case Start():
                self._start(message)
            case Offer():
                await self._watch(message.sdp)
            case SetPrompt():
                self._set_prompt(self._steered(), message.prompt)
            case SetSeed():
                held = self._steered()
                held.rate.take("changes")
                held.stream.set_seed(message.seed)
            case Pause():
                self._steered().stream.pause()
            case Resume():
                self._steered().stream.resume()
            case Stop():
                await self._stop()
            case Ping():
                self.tell(Pong(id=message.id))
            case Shown():
                self._note_shown(message)
            case HandOver() | OpenSuggestions() | Suggest() | Pick() | Dismiss():
                self._direct(message)

    def _direct(self, message: HandOver | OpenSuggestions | Suggest | Pick | Dismiss) -> None:
        """What concerns the audience."""
        held = self._attached()
        member, audience = self._required_member(), held.audience
        match message:
            case HandOver():
                before = [each for each in audience.members.values() if each.is_director]
                heir = audience.hand_over(member, message.to)
                for each in before:
                    each.listener.tell(Direction(token=None))
                heir.listener.tell(Direction(token=audience.token))
                log.info("direction handed over stream=%s to=%s", held.stream.id, heir.id)
                return
            case OpenSuggestions():
                audience.open_suggestions(member, message.is_open)
            case Suggest():
                audience.suggest(member, message.prompt)
            case Pick():
                self._set_prompt(held, audience.pick(member, message.suggestion_id))
            case Dismiss():
                audience.dismiss(member, message.suggestion_id)
        held.announce_suggestions()

    def _set_prompt(self, held: Held, field: PromptField) -> None:
        prompt = field.prompt()
        held.rate.take("changes")
        self.tell(held.stream.set_prompt(prompt))

    def _note_shown(self, shown: Shown) -> None:
        log.info("prompt shown prompt=%s latency_ms=%.0f", shown.prompt_id, shown.latency_ms)
        metrics = self._streams.metrics
        metrics.note_painted(shown.latency_ms / 1000)
        if shown.jitter_buffer_ms is not None:
            metrics.note_stage("jitter_buffer", shown.jitter_buffer_ms / 1000)
        round_trip_s = self._viewer.round_trip_s if self._viewer is not None else None
        if round_trip_s is not None:
            metrics.note_stage("network", round_trip_s / 2)

    def _greet(self, hello: Hello) -> None:
        if self._has_greeted:
            raise StreamStateError("hello was said already")
        if hello.version != PROTOCOL_VERSION:
            self._tell_error(
                MessageError(
                    f"this server speaks protocol version {PROTOCOL_VERSION}, not {hello.version}; "
                    "reload the page"
                ),
                "hello",
            )
            self._channel.close(CLOSE_PROTOCOL, "protocol version")
            return
        self._has_greeted = True
        self.tell(self._welcome())
        self._engine.require_sound()
        if not self._engine.is_ready:
            self.tell(Loading(progress=self._engine.progress, stage=self._engine.stage))
        self._name = hello.name
        if hello.stream is not None:
            self._attach(self._streams.find(hello.stream), hello.token)

    def _welcome(self) -> Welcome:
        config = self._config
        return Welcome(
            version=PROTOCOL_VERSION,
            server=__version__,
            model=config.name,
            title=config.title or config.name,
            examples=list(config.examples),
            transitions=[kind.value for kind in TransitionKind],
            loading=1.0 if self._engine.is_ready else min(self._engine.progress, 0.99),
            ice_servers=[
                IceServerField(urls=s.url, username=s.username, credential=s.credential)
                for s in self._ice_servers
            ],
            opening=_opening_of(config),
        )

    def _start(self, message: Start) -> None:
        if (stream := self._live_stream) is not None:
            raise StreamStateError(
                f"this connection has the stream {stream.id} already; change its prompt, "
                "or stop it first"
            )
        if self._waiting is not None:
            raise StreamStateError("this connection waits for a stream already")
        prompt = message.prompt.prompt()
        self._engine.require_sound()
        if not message.wait:
            self._go_with(self._streams.start(prompt, message.seed))
            return
        self._waiting = message
        try:
            self._streams.wait(self)
        except StreamerError:
            self._waiting = None
            raise

    def _go_with(self, held: Held) -> None:
        """Direct a stream of one's own."""
        self._attach(held, held.token)

    def _leave_line(self) -> None:
        self._waiting = None
        self._streams.line.leave(self)

    def _attach(self, held: Held, token: str | None) -> None:
        """Go with a stream; with its token as its director."""
        member = held.audience.join(self, self._name, token)
        try:
            held.stream.attach(self)
        except StreamStateError:
            held.audience.leave(member)
            raise
        if self._held is not None:
            self._leave_audience(self._held)
        self._held, self._member = held, member
        self.tell(held.stream.info(token))
        self.tell(held.stream.history())
        if held.audience.are_suggestions_open:
            self.tell(held.audience.suggestions())

    async def _watch(self, sdp: str) -> None:
        """Answer an offer; an earlier video of this client is replaced once that has worked."""
        stream = self._attached().stream
        if self._viewer is None:
            self._streams.admit_viewer(stream)
        stream.watch(self)
        try:
            accepted = await self._answered(sdp, stream)
        except BaseException:
            if self._viewer is None:
                stream.unwatch(self)
            raise
        replaced, self._viewer = self._viewer, accepted
        try:
            stream.watch(self)
        except StreamStateError:
            await self._close_viewer()
            raise
        else:
            self.tell(Answer(sdp=accepted.answer_sdp, codec=accepted.codec))
            self._attached().announce()
        finally:
            if replaced is not None:
                await replaced.close()

    async def _answered(self, sdp: str, stream: LiveStream) -> Viewer:
        try:
            async with asyncio.timeout(ANSWER_S):
                return await Viewer.accept(
                    sdp,
                    stream.broadcast,
                    self._ice_servers,
                    on_closed=lambda viewer: self._video_ended(viewer, stream),
                )
        except TimeoutError as error:
            raise OfferError(f"the offer could not be answered within {ANSWER_S:g} s") from error

    def _video_ended(self, viewer: Viewer, stream: LiveStream) -> None:
        if viewer is self._viewer:
            self._viewer = None
            stream.unwatch(self)
            if self._held is not None:
                self._held.announce()

    async def _stop(self) -> None:
        if self._waiting is not None:
            self._leave_line()
            return
        held = self._attached()
        if self._required_member().is_director:
            await held.stream.end("the director stopped it")
        else:
            held.stream.detach(self)
        self._leave_audience(held)
        self._held = None
        await self._close_viewer()

    def _attached(self) -> Held:
        if self._held is None:
            raise StreamStateError("this connection has no stream; start one, or name one in hello")
        return self._held

    def _required_member(self) -> Member:
        if self._member is None:
            raise StreamStateError("this connection has no stream; start one, or name one in hello")
        return self._member

    def _steered(self) -> Held:
        held = self._attached()
        if not self._required_member().is_director:
            raise NotDirectorError("only the director may steer this stream; you are watching it")
        return held

    @property
    def _live_stream(self) -> LiveStream | None:
        """The stream of this client, if it has not ended."""
        if self._held is None or self._held.stream.state == "ended":
            return None
        return self._held.stream

    def _tell_error(self, error: StreamerError, about: str | None) -> None:
        self._streams.metrics.note_error(error.code)
        self.tell(Error(code=error.code, message=str(error), about=about))


def _opening_of(config: Config) -> OpeningField | None:
    if not can_begin_with_pictures(config):
        return None
    section = config.stream
    return OpeningField(
        bytes=config.server.upload_bytes, width=section.width, height=section.height
    )


_TYPES = frozenset(
    message.model_fields["type"].default
    for message in (
        *(Hello, Start, Offer, SetPrompt, SetSeed),
        *(Pause, Resume, Stop, Ping, Shown),
        *(HandOver, OpenSuggestions, Suggest, Pick, Dismiss),
    )
)


def _claimed_type(text: str) -> str | None:
    """The type a message claims to have, for the error event about it."""
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError):
        return None
    kind = tree.get("type") if isinstance(tree, dict) else None
    return kind if isinstance(kind, str) and kind in _TYPES else None
