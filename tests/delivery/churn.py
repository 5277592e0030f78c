"""Viewers who join and leave at random, and what they leave behind.

As a test it is short; by hand it runs as long as wanted:

    python -m tests.delivery.churn --minutes 10 --viewers 200
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import random
import threading
import time
from dataclasses import asdict, dataclass, replace

import psutil
from aiortc import RTCConfiguration, RTCPeerConnection, RTCRtpSender, RTCSessionDescription

from streamer.delivery.fanout import Broadcast, PacketTrack
from streamer.delivery.subscription import Subscription
from streamer.delivery.webrtc import Viewer, allow_loopback
from tests.delivery.packets import HEIGHT, WIDTH, frame

MEGABYTES_ALLOWED = 12.0
"""What the allocator may keep for itself between two looks."""

_OF_A_VIEWER = (RTCPeerConnection, RTCRtpSender, Viewer, PacketTrack, Subscription)


@dataclass(frozen=True)
class Footprint:
    """What this process holds.  peers: objects that belong to one viewer, of either end."""

    tasks: int
    threads: int
    sockets: int
    files: int
    viewers: int
    peers: int
    megabytes: float

    @classmethod
    def now(cls, broadcast: Broadcast) -> Footprint:
        gc.collect()
        process = psutil.Process()
        return cls(
            tasks=len(asyncio.all_tasks()),
            threads=sum(t.name.startswith(("encode-", "decoder")) for t in threading.enumerate()),
            sockets=len(process.net_connections(kind="inet")),
            files=process.num_fds(),
            viewers=broadcast.num_viewers,
            peers=sum(issubclass(type(each), _OF_A_VIEWER) for each in gc.get_objects()),
            megabytes=round(process.memory_info().rss / 2**20, 1),
        )

    def more_than(self, before: Footprint) -> list[str]:
        """The names of what there is more of; memory counts above MEGABYTES_ALLOWED."""
        now, then = asdict(self), asdict(before)
        then["megabytes"] += MEGABYTES_ALLOWED
        return [name for name, held in now.items() if held > then[name]]


async def visit(broadcast: Broadcast, rng: random.Random, stay_s: float) -> bool:
    """One viewer: joins, stays, leaves politely or not.  Returns whether a frame arrived."""
    connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    connection.addTransceiver("video", direction="recvonly")
    arrived = asyncio.Event()

    async def take(packet: object, arrival_time_ms: int) -> None:
        arrived.set()

    receiver = connection.getReceivers()[0]
    receiver._handle_rtp_packet = take  # no decoding
    await connection.setLocalDescription(await connection.createOffer())
    viewer = await Viewer.accept(
        connection.localDescription.sdp, broadcast, [], on_closed=lambda viewer: None
    )
    try:
        answer = RTCSessionDescription(viewer.answer_sdp, "answer")
        await connection.setRemoteDescription(answer)
        if rng.random() < 0.1:
            return True  # it leaves before anything stands
        await asyncio.wait_for(arrived.wait(), 20)
        await asyncio.sleep(rng.random() * stay_s)
        return True
    except TimeoutError:
        return False
    finally:
        if rng.random() < 0.5:
            await connection.close()
            await viewer.close()
        else:
            await viewer.close()
            await connection.close()


async def churn(
    num_viewers: int,
    *,
    at_once: int,
    stay_s: float,
    minutes: float = 0.0,
    num_before: int = 0,
    seed: int = 7,
) -> tuple[Footprint, Footprint, int]:
    """So many visits, and more until the minutes are over.

    Returns what was held before (after `num_before` visits, when everything is loaded and the
    allocator has what it needs) and afterwards, and how many viewers saw nothing.
    """
    allow_loopback()
    rng = random.Random(seed)
    broadcast = Broadcast(WIDTH, HEIGHT, 16, 400)
    showing = asyncio.create_task(_show(broadcast))
    places = asyncio.Semaphore(at_once)

    async def one() -> bool:
        async with places:
            return await visit(broadcast, rng, stay_s)

    await asyncio.gather(*(one() for _ in range(max(at_once, num_before))))
    before = await _settled(broadcast)
    end = time.monotonic() + minutes * 60
    blind = 0
    while True:
        seen = await asyncio.gather(*(one() for _ in range(num_viewers)))
        blind += seen.count(False)
        if time.monotonic() >= end:
            break
        print(f"{max(0, end - time.monotonic()):5.0f} s left", Footprint.now(broadcast), flush=True)
    after = await _settled(broadcast)
    if showing.done():
        showing.result()  # it shows until it is cancelled: this raises why it did not
    showing.cancel()
    await asyncio.gather(showing, return_exceptions=True)
    await broadcast.close()
    return before, after, blind


async def _show(broadcast: Broadcast) -> None:
    number = 0
    while True:
        await broadcast.push(frame(number))
        number += 1
        await asyncio.sleep(1 / 16)


async def _settled(broadcast: Broadcast) -> Footprint:
    """The footprint once nobody is there any more and closing has ended."""
    footprint = Footprint.now(broadcast)
    for _ in range(50):
        await asyncio.sleep(0.1)
        earlier, footprint = footprint, Footprint.now(broadcast)
        is_still = replace(earlier, megabytes=footprint.megabytes) == footprint
        if is_still and footprint.viewers == footprint.threads == footprint.peers == 0:
            break
    return footprint


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--viewers", type=int, default=200)
    parser.add_argument("--at-once", type=int, default=20)
    given = parser.parse_args()
    print("process", os.getpid())
    before, after, blind = asyncio.run(
        churn(
            given.viewers,
            at_once=given.at_once,
            stay_s=5.0,
            minutes=given.minutes,
            num_before=given.viewers,
        )
    )
    print("before", before, "after", after, "saw nothing", blind, sep="\n")
    found = after.more_than(before)
    print("left behind:", ", ".join(found) or "nothing")
    raise SystemExit(blind > 0 or bool(found))


if __name__ == "__main__":
    main()
