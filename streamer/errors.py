"""Every error this project raises on purpose, drawn as a tree.

    StreamerError
    |- ConfigError            config_invalid        a configuration that cannot work
    |- WeightsError           weights_invalid       a missing or damaged weights file
    |- OutputError            output_unwritable     a place that cannot be written
    |- DownloadError          download_failed       the hub did not give a file
    |- AddressInUseError      address_in_use        the port belongs to somebody else
    |- RequestError                                 something a client sent
    |  |- MessageError        message_invalid       not a message of the protocol
    |  |- PromptError         prompt_invalid        empty or over-long
    |  |- OfferError          offer_invalid         an SDP that cannot be answered
    |  |- CodecError          codec_unsupported     no codec in common
    |  |- StreamUnknownError  stream_unknown        no stream of that id
    |  |- StreamStateError    stream_state          not possible in the stream's present state
    |  |- NotDirectorError    not_director          only the director may steer
    |  |- MediaTypeError      media_type            a body of another kind than wanted
    |  |- ConditionError      condition             If-Match is missing or names another session
    |  |- PictureError        picture_invalid       a picture or clip that cannot be begun with
    |  |- PublishError        publish_refused       an address that nothing can be published to
    |  `- BusyError           busy                  a limit is reached; try again later
    `- EngineError                                  the making of video failed
       |- WorkerDiedError     worker_died           the process is gone; restore brings it back
       |  `- WorkerLostError  worker_died           it went with somebody else's request
       |- WorkerStartError    worker_start_failed   the process cannot start
       `- OutOfMemoryError    out_of_memory         ends one stream, not the worker

`code` is stable: clients may branch on it.  The text is for people: it names the value, the
expectation and the way out.
"""

from __future__ import annotations


class StreamerError(Exception):
    """Base of all errors raised on purpose."""

    code = "internal"
    http_status = 500

    def __reduce__(self) -> tuple[type[StreamerError], tuple[str]]:
        return type(self), (str(self),)


class ConfigError(StreamerError):
    """A configuration that cannot work."""

    code = "config_invalid"


class WeightsError(StreamerError):
    """A weights file that is missing, damaged or made for something else."""

    code = "weights_invalid"


class OutputError(StreamerError):
    """A place that cannot be written to."""

    code = "output_unwritable"


class DownloadError(StreamerError):
    """A file that could not be fetched, with the reason."""

    code = "download_failed"


class AddressInUseError(StreamerError):
    """The wanted host and port cannot be bound."""

    code = "address_in_use"


class RequestError(StreamerError):
    """Something a client sent cannot be done; nothing was changed."""

    code = "request_invalid"
    http_status = 400


class MessageError(RequestError):
    """Text that is not a message of the protocol."""

    code = "message_invalid"


class PromptError(RequestError):
    """A prompt that is empty or too long."""

    code = "prompt_invalid"


class OfferError(RequestError):
    """A session description that cannot be answered."""

    code = "offer_invalid"


class CodecError(RequestError):
    """The viewer and the server share no video codec."""

    code = "codec_unsupported"
    http_status = 406


class StreamUnknownError(RequestError):
    """There is no stream of that id."""

    code = "stream_unknown"
    http_status = 404


class StreamStateError(RequestError):
    """The request does not fit the present state of the stream."""

    code = "stream_state"
    http_status = 409


class NotDirectorError(RequestError):
    """Only the director of a stream may steer it."""

    code = "not_director"
    http_status = 403


class MediaTypeError(RequestError):
    """A body of another kind than the route takes."""

    code = "media_type"
    http_status = 415


class ConditionError(RequestError):
    """`If-Match` is missing, or names another state of the session."""

    code = "condition"
    http_status = 412


class PictureError(RequestError):
    """A picture or clip that cannot be read, or that this model cannot begin with."""

    code = "picture_invalid"


class PublishError(RequestError):
    """An address that no stream can be published to."""

    code = "publish_refused"


class BusyError(RequestError):
    """A limit of this server is reached."""

    code = "busy"
    http_status = 503


class EngineError(StreamerError):
    """The making of video failed."""

    code = "engine_failed"


class WorkerDiedError(EngineError):
    """The worker process is gone; what it held can be restored."""

    code = "worker_died"


class WorkerLostError(WorkerDiedError):
    """The worker process went while it served another request than this one."""


class WorkerStartError(EngineError):
    """The worker process could not start, with its own reason in the text."""

    code = "worker_start_failed"


class OutOfMemoryError(EngineError):
    """One stream needed more memory than there is."""

    code = "out_of_memory"
