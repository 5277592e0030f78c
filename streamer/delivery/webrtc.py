"""One viewer over WebRTC: an offer answered, a connection kept, everything freed at its end.

aiortc does the protocol.  The few places where its insides are touched, because it has no public
way, are the functions at the end of this module; each does nothing where aiortc has changed.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Callable, Coroutine, Sequence

import aioice.ice
from aiortc import (
    RTCConfiguration,
    RTCPeerConnection,
    RTCRtpSender,
    RTCRtpTransceiver,
    RTCSessionDescription,
)
from aiortc.rtcrtpparameters import RTCRtpCodecCapability
from aiortc.rtp import (
    RTCP_PSFB_APP,
    AnyRtcpPacket,
    RtcpPsfbPacket,
    RtcpRrPacket,
    RtcpSrPacket,
    unpack_remb_fci,
)
from aiortc.sdp import candidate_from_sdp

from streamer.delivery.encoder import CODECS, Codec
from streamer.delivery.fanout import Broadcast, PacketTrack
from streamer.delivery.ice import IceServer
from streamer.delivery.subscription import Subscription
from streamer.errors import CodecError, OfferError

log = logging.getLogger(__name__)

CONNECT_LIMIT_S = 15.0
"""A viewer that has not connected after so long is given up."""

_CLOSE_LIMIT_S = 5.0
_CONSENT_INTERVAL_S = 1.5
_CONSENT_FAILURES = 4  # so a vanished viewer is noticed after some 8 s, not 34
_OFFER_LIMIT = 60_000
_CANDIDATE_LIMIT = 64


class Viewer:
    """A peer connection that sends the stream to one viewer.

    Owner: LiveStream, on the event loop.  Made by `accept`.  It closes itself when the connection
    fails, never stands or is lost, and calls `on_closed` exactly once, whoever closed it.
    """

    def __init__(
        self,
        connection: RTCPeerConnection,
        broadcast: Broadcast,
        on_closed: Callable[[Viewer], None],
    ) -> None:
        self.answer_sdp = ""
        self._connection = connection
        self._track = PacketTrack(broadcast, on_dropped=self._drop)
        self._on_closed = on_closed
        self._rtp_origin: int | None = None
        self._closing: asyncio.Task[None] | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._num_candidates = 0

    @classmethod
    async def accept(
        cls,
        offer_sdp: str,
        broadcast: Broadcast,
        ice_servers: Sequence[IceServer],
        *,
        on_closed: Callable[[Viewer], None],
        codecs: Sequence[Codec] = CODECS,
        connect_limit_s: float = CONNECT_LIMIT_S,
    ) -> Viewer:
        """Answer an offer to receive one video, without trickle.

        ice_servers: used as given; none means none.  codecs: in order of preference.
        Raises OfferError when the offer cannot be answered, CodecError when it offers none of
        `codecs`; then nothing is left behind and `on_closed` is not called.
        """
        offer_sdp = prepare_offer(offer_sdp)
        allow_loopback(always=False)
        _shorten_consent()
        servers = [server.for_aiortc() for server in ice_servers]
        connection = RTCPeerConnection(RTCConfiguration(iceServers=servers))
        viewer = cls(connection, broadcast, on_closed)
        try:
            await viewer._negotiate(offer_sdp, codecs)
        except BaseException:
            viewer._track.stop()
            await connection.close()
            raise
        viewer._watch(connect_limit_s)
        log.info("viewer accepted codec=%s", viewer.codec)
        return viewer

    @property
    def codec(self) -> Codec:
        """The codec this viewer is sent."""
        return self._track.codec

    @property
    def is_connected(self) -> bool:
        """Whether the connection stands."""
        return str(self._connection.connectionState) == "connected"

    def rtp_timestamp(self, pts: int) -> int | None:
        """What a frame with that pts carries to this viewer; None before the first packet."""
        return None if self._rtp_origin is None else (self._rtp_origin + pts) % 2**32

    @property
    def round_trip_s(self) -> float | None:
        """Round trip as the viewer's reports tell it; None before the first."""
        return round_trip_s(self._connection)

    async def add_candidates(self, fragment: str) -> int:
        """Take further addresses of the viewer; returns how many were of use.

        fragment: `application/trickle-ice-sdpfrag` (RFC 8840).  Host names are passed over, since
        each would cost a look-up.  Raises OfferError when it belongs to other ICE credentials: a
        restart, which is not offered, or a fragment of somebody else's session.
        """
        lines = fragment.splitlines()
        ours = set(self._connection.remoteDescription.sdp.splitlines())
        if any(
            line.startswith(("a=ice-ufrag:", "a=ice-pwd:")) and line not in ours for line in lines
        ):
            raise OfferError(
                "the fragment's ICE credentials are not those of the offer; a restart of ICE is "
                "not possible here: DELETE this session and POST a new offer"
            )
        found = [line for line in lines if line.startswith("a=candidate:") and _has_address(line)]
        self._num_candidates += len(found)
        if self._num_candidates > _CANDIDATE_LIMIT:
            raise OfferError(f"more than {_CANDIDATE_LIMIT} candidates were sent")
        for line in found:
            try:
                candidate = candidate_from_sdp(line.removeprefix("a=candidate:"))
                candidate.sdpMLineIndex = 0
                await self._connection.addIceCandidate(candidate)
            except (ValueError, AssertionError, IndexError) as error:
                raise OfferError(f"a candidate cannot be read: {_describe(error)}") from error
        return len(found)

    async def close(self) -> None:
        """End the connection and free all it held.  Idempotent."""
        await asyncio.shield(self._begin_close())

    async def _negotiate(self, offer_sdp: str, codecs: Sequence[Codec]) -> None:
        # The transceiver and its preference come before the remote description: set later, aiortc
        # ignores the preference silently and sends one codec under the other's payload type.
        transceiver = self._connection.addTransceiver(self._track, direction="sendonly")
        transceiver.setCodecPreferences(codec_preferences(codecs))
        description = RTCSessionDescription(offer_sdp, "offer")
        try:
            await self._connection.setRemoteDescription(description)
        except Exception as error:  # its parser raises nearly everything on hostile input
            if _is_codec_mismatch(error):
                raise CodecError(
                    f"the offer has none of the codecs this server sends: {', '.join(codecs)}"
                ) from error
            raise OfferError(f"the offer cannot be read: {_describe(error)}") from error
        self._track.codec = _negotiated(transceiver, codecs)
        try:
            await self._connection.setLocalDescription(await self._connection.createAnswer())
            self.answer_sdp = str(self._connection.localDescription.sdp)
        except Exception as error:
            raise OfferError(f"the offer cannot be answered: {_describe(error)}") from error
        route_feedback(transceiver.sender, self._track.subscription)
        _on_first_packet(transceiver.sender, self._note_first_packet)

    def _watch(self, connect_limit_s: float) -> None:
        loop = asyncio.get_running_loop()
        self._deadline = loop.call_later(connect_limit_s, self._give_up)
        self._connection.on("connectionstatechange", self._on_state)
        self._on_state()

    def _on_state(self) -> None:
        state = self._connection.connectionState
        if state == "connected" and self._deadline is not None:
            self._deadline.cancel()
        elif state in ("failed", "closed"):
            self._begin_close()

    def _drop(self) -> None:
        log.info("viewer dropped reason=too slow")
        self._begin_close()

    def _give_up(self) -> None:
        log.info("viewer never connected state=%s", self._connection.connectionState)
        self._begin_close()

    def _note_first_packet(self, timestamp: int) -> None:
        if self._track.sent_pts is not None:
            self._rtp_origin = (timestamp - self._track.sent_pts) % 2**32

    def _begin_close(self) -> asyncio.Task[None]:
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._close())
        return self._closing

    async def _close(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._track.stop()  # aiortc does not when its sender never started
        closing = asyncio.ensure_future(self._connection.close())
        try:
            # Not cancelled when it is slow: what it had not come to would stay open for good.
            await asyncio.wait((closing,), timeout=_CLOSE_LIMIT_S)
            if closing.done():
                closing.result()
            else:
                log.warning("connection still closing after_s=%.0f", _CLOSE_LIMIT_S)
                _still_closing.add(closing)
                closing.add_done_callback(_closed_late)
        finally:
            self._on_closed(self)


_still_closing: set[asyncio.Future[None]] = set()
"""Connections that nobody waits for any more; the event loop alone would forget them."""


def _closed_late(closing: asyncio.Future[None]) -> None:
    _still_closing.discard(closing)
    if not closing.cancelled() and (error := closing.exception()) is not None:
        log.error("connection not closed reason=%r", error)


def prepare_offer(offer_sdp: str) -> str:
    """The offer as aiortc should see it.

    Candidates with host names (`.local`) are left out: each would cost a look-up, and the viewer's
    own checks tell its address.  So is the end of candidates, which would end the waiting for those
    checks.  The viewer is made to open DTLS (`active`): it then does so after it has our answer,
    and keys of any kind work.
    Raises OfferError when it is too long or does not have exactly one section, of video.
    """
    if len(offer_sdp) > _OFFER_LIMIT:
        raise OfferError(f"the offer has {len(offer_sdp)} characters; at most {_OFFER_LIMIT}")
    lines = offer_sdp.splitlines()
    sections = [line.split(" ", 1)[0] for line in lines if line.startswith("m=")]
    if sections != ["m=video"]:
        named = ", ".join(section[2:14] for section in sections[:4]) or "none"
        raise OfferError(
            f"the offer's media sections are: {named}; offer exactly one, to receive video"
        )
    kept = [line for line in lines if not line.startswith("a=end-of-candidates")]
    kept = [line for line in kept if not line.startswith("a=candidate:") or _has_address(line)]
    if sum(line.startswith("a=candidate:") for line in kept) > _CANDIDATE_LIMIT:
        raise OfferError(f"the offer has more than {_CANDIDATE_LIMIT} candidates")
    kept = ["a=setup:active" if line == "a=setup:actpass" else line for line in kept]
    return "\r\n".join(kept) + "\r\n"


def allow_loopback(always: bool = True) -> None:
    """Let peer connections of this process use 127.0.0.1, which aioice leaves out.

    always: also when the machine has other addresses; otherwise only when it has none.
    """
    given = getattr(aioice.ice, "get_host_addresses", None)
    if given is None:
        return
    if not isinstance(given, _HostAddresses):
        given = aioice.ice.get_host_addresses = _HostAddresses(given)
    given.is_always = given.is_always or always


class _HostAddresses:
    """Stands in for aioice's function of the same purpose; remembers the one it replaced."""

    def __init__(self, given: Callable[[bool, bool], list[str]]) -> None:
        self.given = given
        self.is_always = False

    def __call__(self, use_ipv4: bool, use_ipv6: bool) -> list[str]:
        addresses = self.given(use_ipv4, use_ipv6)
        if use_ipv4 and (self.is_always or not addresses):
            addresses = ["127.0.0.1", *addresses]
        return addresses


def _has_address(candidate: str) -> bool:
    fields = candidate.split(" ")
    try:
        ipaddress.ip_address(fields[4])
    except (IndexError, ValueError):
        return False
    return True


def codec_preferences(codecs: Sequence[Codec]) -> list[RTCRtpCodecCapability]:
    """What to hand to `setCodecPreferences` to send these codecs, in this order."""
    known = RTCRtpSender.getCapabilities("video").codecs
    wanted = [f"VIDEO/{codec}" for codec in codecs] + ["VIDEO/RTX"]
    return [entry for name in wanted for entry in known if entry.mimeType.upper() == name]


def _is_codec_mismatch(error: Exception) -> bool:
    return type(error).__name__ == "OperationError"


def _negotiated(transceiver: RTCRtpTransceiver, codecs: Sequence[Codec]) -> Codec:
    """The codec aiortc will label the packets with.  Raises CodecError when there is none."""
    first = next((entry.name.upper() for entry in transceiver._codecs), None)
    for codec in codecs:
        if first == codec:
            return codec
    raise CodecError(f"the offer has none of the codecs this server sends: {', '.join(codecs)}")


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error)[:200]}"


def _shorten_consent() -> None:
    """Notice a vanished viewer sooner (RFC 7675 consent checks of aioice, process-wide)."""
    for name, value in (
        ("CONSENT_INTERVAL", _CONSENT_INTERVAL_S),
        ("CONSENT_FAILURES", _CONSENT_FAILURES),
    ):
        if hasattr(aioice.ice, name):
            setattr(aioice.ice, name, value)


def route_feedback(sender: RTCRtpSender, subscription: Subscription) -> None:
    """Let a subscription hear what the far end reports.

    PLI and FIR, which aiortc honours for unencoded frames only, ask for a key frame; receiver
    reports and REMB, which it hands to an encoder of its own, tell what the way carries.
    """
    if not hasattr(sender, "_send_keyframe") or not hasattr(sender, "_handle_rtcp_packet"):
        log.warning("reports of viewers cannot be heard with this version of aiortc")
        return
    sender._send_keyframe = subscription.request_keyframe  # type: ignore[method-assign]
    handle = sender._handle_rtcp_packet

    async def handle_and_note(packet: AnyRtcpPacket) -> None:
        await handle(packet)
        if isinstance(packet, RtcpRrPacket | RtcpSrPacket):
            for report in packet.reports:
                if report.ssrc == sender._ssrc:
                    subscription.note_loss(report.fraction_lost / 256)
        elif isinstance(packet, RtcpPsfbPacket) and packet.fmt == RTCP_PSFB_APP:
            try:
                bitrate, ssrcs = unpack_remb_fci(packet.fci)
            except ValueError:
                return  # some other application's message
            if sender._ssrc in ssrcs:
                subscription.note_remb(bitrate / 1000)

    sender._handle_rtcp_packet = handle_and_note  # type: ignore[method-assign]


def round_trip_s(connection: RTCPeerConnection) -> float | None:
    """Round trip of a connection as its receiver reports tell it; None before the first."""
    for sender in connection.getSenders():
        seconds = getattr(sender, "_RTCRtpSender__rtt", None)
        if isinstance(seconds, float):
            return max(0.0, seconds)
    return None


def _on_first_packet(sender: RTCRtpSender, note: Callable[[int], None]) -> None:
    """Call `note` with the RTP timestamp of the first media packet of `sender`, before it leaves.

    aiortc adds a random origin to the timestamps and keeps it to itself.  The first packet cannot
    be a retransmission, so the packet last read from the track is the one it carries.
    """
    transport = sender.transport
    send: Callable[[bytes], Coroutine[object, object, None]] | None = getattr(
        transport, "_send_rtp", None
    )
    ssrc: int | None = getattr(sender, "_ssrc", None)
    if send is None or ssrc is None:
        log.warning("frame times of viewers are unknown with this version of aiortc")
        return
    ssrc_bytes = ssrc.to_bytes(4, "big")

    async def send_and_note(data: bytes) -> None:
        is_rtcp = len(data) < 12 or 192 <= data[1] <= 223
        if not is_rtcp and data[8:12] == ssrc_bytes:
            vars(transport).pop("_send_rtp", None)
            note(int.from_bytes(data[4:8], "big"))
        await send(data)

    transport._send_rtp = send_and_note  # type: ignore[method-assign]
