"""The messages between page and server, both directions, as types.

One JSON object a message over one WebSocket; `type` names the kind.  The first message of a
client is `hello` with its protocol version.  `tests/data/protocol.json` holds one example of each
and is read by the Python and the JavaScript tests; `docs/protocol.md` explains them.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from streamer.errors import MessageError
from streamer.stream import PROMPT_LIMIT, Prompt, Transition, TransitionKind

PROTOCOL_VERSION = 1

Id = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[\w.:-]+$")]
Seed = Annotated[int, Field(ge=0, lt=2**53)]
Token = Annotated[str, Field(max_length=128)]
Name = Annotated[str, Field(max_length=40)]


class Message(BaseModel):
    """Base of all messages: unknown fields are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class TransitionField(Message):
    """How to go to the new prompt; blocks matters to `blend` alone."""

    kind: Literal["cut", "swap", "recache", "blend", "scene"]
    blocks: Annotated[int, Field(ge=1, le=64)] = 1


class PromptField(Message):
    """A prompt; id is chosen by the client and comes back in every event about it."""

    id: Id
    text: str
    transition: TransitionField | None = None

    def prompt(self) -> Prompt:
        """The same as a value of the stream contract.  Raises PromptError."""
        transition = None
        if self.transition is not None:
            kind = TransitionKind(self.transition.kind)
            transition = Transition(kind, self.transition.blocks)
        return Prompt(self.id, self.text, transition)


# ---- client to server ---------------------------------------------------------------------------


class Hello(Message):
    """First message.  stream, token: go on with that stream (with its token: as its director).

    name: what the others in the audience are shown.
    """

    type: Literal["hello"] = "hello"
    version: int
    stream: Id | None = None
    token: Token | None = None
    name: Name | None = None


class Start(Message):
    """Make a new stream; the sender becomes its director.

    wait: while all places are taken, wait in line (see `queued`) instead of being refused.
    """

    type: Literal["start"] = "start"
    prompt: PromptField
    seed: Seed | None = None
    wait: bool = False


class Offer(Message):
    """WebRTC offer to receive the stream's video (non-trickle; candidates are not needed)."""

    type: Literal["offer"] = "offer"
    sdp: Annotated[str, Field(max_length=60_000)]


class SetPrompt(Message):
    """Change the prompt; the newest wins."""

    type: Literal["set_prompt"] = "set_prompt"
    prompt: PromptField


class SetSeed(Message):
    """Begin the picture anew with other noise."""

    type: Literal["set_seed"] = "set_seed"
    seed: Seed


class Pause(Message):
    """Stop making blocks; the last picture stays."""

    type: Literal["pause"] = "pause"


class Resume(Message):
    """Go on after a pause."""

    type: Literal["resume"] = "resume"


class Stop(Message):
    """End the stream for everybody (director) or leave it (viewer)."""

    type: Literal["stop"] = "stop"


class Ping(Message):
    """Round-trip measurement and sign of life."""

    type: Literal["ping"] = "ping"
    id: Annotated[int, Field(ge=0)]


class Shown(Message):
    """The page painted the first frame of a prompt.  latency_ms: from Enter to that picture.

    jitter_buffer_ms: how long the browser held pictures back lately, as its statistics tell.
    """

    type: Literal["shown"] = "shown"
    prompt_id: Id
    latency_ms: Annotated[float, Field(ge=0)]
    jitter_buffer_ms: Annotated[float, Field(ge=0)] | None = None


class HandOver(Message):
    """The director makes another viewer the director.  to: an id of the `audience`."""

    type: Literal["hand_over"] = "hand_over"
    to: Id


class OpenSuggestions(Message):
    """The director lets viewers suggest prompts, or no longer; closing drops those that wait."""

    type: Literal["open_suggestions"] = "open_suggestions"
    is_open: bool


class Suggest(Message):
    """A viewer proposes a prompt."""

    type: Literal["suggest"] = "suggest"
    prompt: PromptField


class Pick(Message):
    """The director plays a suggestion: it becomes the prompt."""

    type: Literal["pick"] = "pick"
    suggestion_id: Id


class Dismiss(Message):
    """The director drops a suggestion."""

    type: Literal["dismiss"] = "dismiss"
    suggestion_id: Id


ClientMessage = Annotated[
    Hello
    | Start
    | Offer
    | SetPrompt
    | SetSeed
    | Pause
    | Resume
    | Stop
    | Ping
    | Shown
    | HandOver
    | OpenSuggestions
    | Suggest
    | Pick
    | Dismiss,
    Field(discriminator="type"),
]


# ---- server to client ---------------------------------------------------------------------------


class IceServerField(Message):
    """A STUN or TURN server, as `RTCPeerConnection` takes it."""

    urls: str
    username: str | None = None
    credential: str | None = None


class OpeningField(Message):
    """What a stream may begin with: a picture or clip of so many bytes, cut to this size."""

    bytes: int
    width: int
    height: int


class Welcome(Message):
    """Answer to hello: what this server is and how far its model is loaded (0..1).

    opening: null where the model cannot begin with a picture.
    """

    type: Literal["welcome"] = "welcome"
    version: int
    server: str
    model: str
    title: str
    examples: list[str]
    transitions: list[str]
    prompt_limit: int = PROMPT_LIMIT
    loading: float
    ice_servers: list[IceServerField]
    opening: OpeningField | None = None


class Loading(Message):
    """Progress of loading the model.  progress 0..1; stage: what is being done."""

    type: Literal["loading"] = "loading"
    progress: float
    stage: str


class Queued(Message):
    """All places are taken; the stream begins by itself.  position: in the line, from 1."""

    type: Literal["queued"] = "queued"
    position: int
    length: int


class StreamInfo(Message):
    """The stream this client is attached to; token is sent to the director only.

    prompt, seed: the newest ones, which may still be on their way to the screen.
    """

    type: Literal["stream"] = "stream"
    id: Id
    token: str | None
    model: str
    seed: int
    width: int
    height: int
    fps: int
    prompt: PromptField
    state: str


class Answer(Message):
    """WebRTC answer."""

    type: Literal["answer"] = "answer"
    sdp: str
    codec: str


class PromptAccepted(Message):
    """The prompt will take effect at `block`, in about `applies_in_s` seconds."""

    type: Literal["prompt_accepted"] = "prompt_accepted"
    prompt_id: Id
    block: int
    applies_in_s: float


class StagesField(Message):
    """Where the time from a prompt to its first encoded picture went, in milliseconds.

    wait: until a block was begun with it.  block: what the making of that block took besides the
    text and the decoding.  queue: from there until the picture was due.
    """

    wait: float
    text: float
    block: float
    decode: float
    queue: float
    encode: float


class PromptApplied(Message):
    """The first frame of the prompt was handed to the encoder.

    rtp_timestamp: what that frame carries to this viewer (90 kHz, modulo 2^32), so that the page
    knows it when it is painted; null for a client without WebRTC.  pts: its time on the stream's
    clock in 1/90000 s, which is the media time of the video over WebSocket.
    """

    type: Literal["prompt_applied"] = "prompt_applied"
    prompt_id: Id
    text: str
    block: int
    frame: int
    rtp_timestamp: int | None
    pts: int
    stages_ms: StagesField


class SeedApplied(Message):
    """The first frame of a new seed was handed to the encoder; the picture begins anew."""

    type: Literal["seed_applied"] = "seed_applied"
    seed: int
    block: int
    frame: int


class Status(Message):
    """State of the stream, with a sentence for people where there is something to say."""

    type: Literal["status"] = "status"
    state: Literal["starting", "playing", "paused", "restoring", "parked", "ended"]
    detail: str = ""


class RenditionField(Message):
    """One encoding of the stream: what it is and how many it serves (recordings too)."""

    codec: str
    tier: Literal["full", "small"]
    width: int
    height: int
    kbps: float
    viewers: int


class Statistics(Message):
    """Once a second.  playback_rate: frames per second played over the stream's own rate.

    measure: what is given up to keep the picture smooth: `none`, `lead`, `decoder`, `steps` or
    `rate`, each with those before it; measure_reason says why.  dropped: frames.
    """

    type: Literal["statistics"] = "statistics"
    fps_generated: float
    fps_played: float
    playback_rate: float
    queued_s: float
    lead_s: float
    block_ms: float
    block: int
    viewers: int
    dropped: int
    bitrate_kbps: float
    key_frames: int
    renditions: list[RenditionField]
    measure: Literal["none", "lead", "decoder", "steps", "rate"]
    measure_reason: str


class PastPrompt(Message):
    """A prompt that was shown.  frame: the number of its first frame."""

    prompt_id: Id
    text: str
    block: int
    frame: int


class PromptHistory(Message):
    """What was shown so far, oldest first, for who comes late; the newest prompts only.

    frame: the number of the frame that left last; 0 before the first.
    """

    type: Literal["history"] = "history"
    prompts: list[PastPrompt]
    frame: int


class MemberField(Message):
    """One of the audience."""

    id: Id
    name: str
    is_director: bool


class AudienceField(Message):
    """Who watches together.  you: this client's own id.  members: the first of them.

    viewers: how many watch, players of other kinds included.
    """

    type: Literal["audience"] = "audience"
    you: Id
    viewers: int
    members: list[MemberField]
    suggestions_open: bool


class SuggestionField(Message):
    """A prompt that a viewer proposed."""

    id: Id
    text: str
    by: Id
    name: str


class Suggestions(Message):
    """All suggestions that wait, oldest first; sent when they change."""

    type: Literal["suggestions"] = "suggestions"
    suggestions: list[SuggestionField]


class Direction(Message):
    """This client directs from now on, with that token; null: no longer."""

    type: Literal["direction"] = "direction"
    token: str | None


class RecordingField(Message):
    """A recording of the stream.  url: where its file is; `.vtt` and `.jsonl` lie beside it."""

    type: Literal["recording"] = "recording"
    id: Id
    state: Literal["recording", "finished", "failed"]
    detail: str
    seconds: float
    url: str


class PublicationField(Message):
    """How publishing the stream to another server goes; told to the director.

    url: without what may be secret in it.  attempts: since it last worked.  retry_in_s: while it
    waits.
    """

    type: Literal["publication"] = "publication"
    id: Id
    url: str
    state: Literal["connecting", "publishing", "waiting", "refused", "ended"]
    detail: str
    attempts: int
    retry_in_s: float | None


class Pong(Message):
    """Answer to ping, with the same id."""

    type: Literal["pong"] = "pong"
    id: int


class Error(Message):
    """Something went wrong; nothing was changed.  about: type of the message it answers."""

    type: Literal["error"] = "error"
    code: str
    message: str
    about: str | None = None


ServerMessage = Annotated[
    Welcome
    | Loading
    | Queued
    | StreamInfo
    | Answer
    | PromptAccepted
    | PromptApplied
    | SeedApplied
    | Status
    | Statistics
    | PromptHistory
    | AudienceField
    | Suggestions
    | Direction
    | RecordingField
    | PublicationField
    | Pong
    | Error,
    Field(discriminator="type"),
]

_CLIENT: TypeAdapter[ClientMessage] = TypeAdapter(ClientMessage)
_SERVER: TypeAdapter[ServerMessage] = TypeAdapter(ServerMessage)


def decode_client(text: str) -> ClientMessage:
    """Read a message of a client.  Raises MessageError that says which field is wrong and why."""
    try:
        return _CLIENT.validate_json(text)
    except ValidationError as error:
        raise MessageError(_first_fault(error)) from error


def decode_server(text: str) -> ServerMessage:
    """Read a message of the server (tests and Python clients).  Raises MessageError."""
    try:
        return _SERVER.validate_json(text)
    except ValidationError as error:
        raise MessageError(_first_fault(error)) from error


def encode(message: Message) -> str:
    """One message as JSON text."""
    return message.model_dump_json()


def _first_fault(error: ValidationError) -> str:
    fault = error.errors()[0]
    where = ".".join(str(part) for part in fault["loc"]) or "message"
    return f"{where}: {fault['msg']}"
