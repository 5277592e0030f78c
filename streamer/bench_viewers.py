"""The far end of `streamer bench delivery`: viewers that receive and decode nothing.

A process of its own, so that what viewers cost is not counted as the server's.  It speaks JSON
lines: reads `{"answers": ...}` and `{"stop": true}`, writes offers, readiness and what arrived.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

from aiortc import RTCConfiguration, RTCPeerConnection, RTCRtpReceiver, RTCSessionDescription
from aiortc.rtp import RtpPacket

from streamer.delivery.webrtc import allow_loopback


class CountingViewer:
    """One peer connection.  frames: RTP timestamp and time of arrival of each whole frame."""

    def __init__(self, codec: str) -> None:
        self.frames: list[tuple[int, float]] = []
        self.num_packets = 0
        self.num_bytes = 0
        self._sequence: int | None = None
        self._is_whole = True
        self.num_lost_packets = 0
        self.connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        transceiver = self.connection.addTransceiver("video", direction="recvonly")
        wanted = [f"VIDEO/{codec}", "VIDEO/RTX"]
        known = RTCRtpReceiver.getCapabilities("video")
        assert known is not None
        transceiver.setCodecPreferences([c for c in known.codecs if c.mimeType.upper() in wanted])
        # In place of aiortc's own, which would decode the video.
        transceiver.receiver._handle_rtp_packet = self._take  # type: ignore[method-assign]

    async def offer(self) -> str:
        """An offer with all addresses in it."""
        await self.connection.setLocalDescription(await self.connection.createOffer())
        return str(self.connection.localDescription.sdp)

    async def take_answer(self, sdp: str) -> None:
        """Connect."""
        await self.connection.setRemoteDescription(RTCSessionDescription(sdp, "answer"))

    async def _take(self, packet: RtpPacket, arrival_time_ms: int) -> None:
        if self._sequence is not None:
            missing = (packet.sequence_number - self._sequence - 1) % 65536
            if missing:
                self.num_lost_packets += missing
                self._is_whole = False
        self._sequence = packet.sequence_number
        self.num_packets += 1
        self.num_bytes += len(packet.payload)
        if packet.marker:
            if self._is_whole:
                self.frames.append((packet.timestamp, time.monotonic()))
            self._is_whole = True


def _say(**message: object) -> None:
    print(json.dumps(message), flush=True)


async def _hear() -> dict[str, Any]:
    line = await asyncio.to_thread(sys.stdin.readline)
    if not line:
        return {"stop": True}
    heard: dict[str, Any] = json.loads(line)
    return heard


async def _serve(count: int, codec: str) -> None:
    allow_loopback(always=False)
    viewers = [CountingViewer(codec) for _ in range(count)]
    try:
        _say(offers=[await viewer.offer() for viewer in viewers])
        answers = (await _hear()).get("answers", [])
        for viewer, answer in zip(viewers, answers, strict=True):
            await viewer.take_answer(answer)
        await _hear()
        _say(
            viewers=[
                {"frames": v.frames, "bytes": v.num_bytes, "lost_packets": v.num_lost_packets}
                for v in viewers
            ]
        )
    finally:
        await asyncio.gather(*(viewer.connection.close() for viewer in viewers))


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), sys.argv[2]))
