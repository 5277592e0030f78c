"""Video over WebSocket, for networks that let no UDP through: fragmented MP4 for MediaSource.

The packets are those of everybody else.  First one JSON text with the media type, then binary: the
initial segment, then a fragment a frame.  A client that does not keep up loses frames up to a key
frame, and the connection when that happens again and again.
"""

from __future__ import annotations

import asyncio
import json
import logging

from starlette.websockets import WebSocket, WebSocketDisconnect

from streamer.delivery.fragments import fragment, initial_segment, mime_type
from streamer.delivery.subscription import Subscription, SubscriptionClosedError
from streamer.errors import StreamerError
from streamer.live import LiveStream
from streamer.pacing import CLOCK_RATE
from streamer.server.protocol import Message
from streamer.server.streams import Held, Streams

log = logging.getLogger(__name__)

LAG_S = 2.0
"""How much video may wait for one client."""

CLOSE_ENDED = 1000
CLOSE_TRY_LATER = 1013


class VideoSocket:
    """One client's video.  Owner: the WebSocket route."""

    def __init__(self, socket: WebSocket, streams: Streams) -> None:
        self._socket = socket
        self._streams = streams

    def tell(self, message: Message) -> None:
        """This client has its control connection elsewhere."""

    def rtp_timestamp(self, pts: int) -> int | None:
        """It has no RTP; its media time is the pts itself."""
        return None

    async def run(self, stream_id: str) -> None:
        """Send until either side ends."""
        await self._socket.accept()
        try:
            held = self._streams.find(stream_id)
            self._streams.admit_viewer(held.stream)
            held.stream.watch(self)
        except StreamerError as error:
            problem = {"type": "error", "code": error.code, "message": str(error)}
            await self._socket.send_text(json.dumps(problem))
            await self._socket.close(CLOSE_TRY_LATER, error.code)
            return
        subscription = Subscription(held.stream.broadcast, "H264", lag_limit_s=LAG_S)
        held.announce()
        log.info("video over websocket stream=%s", stream_id)
        try:
            await self._serve(held.stream, subscription)
        finally:
            subscription.close()
            held.stream.unwatch(self)
            self._announce(held)

    async def _serve(self, stream: LiveStream, subscription: Subscription) -> None:
        """Send, and listen for the end, which a sender alone would not notice."""
        sending = asyncio.ensure_future(self._send(stream, subscription))
        leaving = asyncio.ensure_future(self._until_left())
        done, _ = await asyncio.wait((sending, leaving), return_when=asyncio.FIRST_COMPLETED)
        for task in (sending, leaving):
            task.cancel()
        await asyncio.gather(sending, leaving, return_exceptions=True)
        for task in done:
            task.result()

    async def _send(self, stream: LiveStream, subscription: Subscription) -> None:
        duration = CLOCK_RATE // stream.spec.fps
        number, parameters = 0, b""
        subscription.join()
        try:
            while True:
                packet = await subscription.next()
                if packet.is_keyframe:
                    # Another rendition has other parameters, and needs another initial segment.
                    segment = initial_segment(packet)
                    if segment != parameters:
                        parameters = segment
                        about = {"type": "video", "mime": mime_type(packet), "clock": CLOCK_RATE}
                        await self._socket.send_text(json.dumps(about))
                        await self._socket.send_bytes(segment)
                number += 1
                await self._socket.send_bytes(fragment(packet, number, duration))
        except SubscriptionClosedError:
            code = CLOSE_ENDED if stream.state == "ended" else CLOSE_TRY_LATER
            await self._socket.close(code, "the stream ended" if code == 1000 else "too slow")
        except (WebSocketDisconnect, RuntimeError):
            # Starlette raises RuntimeError for a socket that is closed already.
            return

    async def _until_left(self) -> None:
        while (await self._socket.receive())["type"] != "websocket.disconnect":
            pass  # nothing is expected of the client

    @staticmethod
    def _announce(held: Held) -> None:
        if held.stream.state != "ended":
            held.announce()
