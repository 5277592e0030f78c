"""How soon a viewer that joins has its key frame, and what a bad way costs whom.

    python -m tests.delivery.measure --joins 40 --seconds 60

Server and viewers are in this process, on the loop-back; pictures are decoded.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from itertools import pairwise

import aioice.ice

from streamer.delivery.webrtc import allow_loopback
from tests.delivery.spoil import spoil
from tests.delivery.test_webrtc import Client, Show, number_of, settles, watch

LOSS, DELAY_S = 0.05, 0.1


async def joins(show: Show, count: int) -> str:
    """Viewers who join one after the other, at random times.  From connected to decoded."""
    rng = random.Random(7)
    took: list[float] = []
    for _ in range(count):
        await asyncio.sleep(0.6 + rng.random())
        client, viewer, _ = await watch(show, ("H264",))
        await settles(lambda viewer=viewer: viewer.is_connected)
        began_s = time.monotonic()
        await client.frame()
        took.append(time.monotonic() - began_s)
        await viewer.close()
        await client.connection.close()
    took.sort()
    return (
        f"{count} joins: first picture {1000 * took[count // 2]:.0f} ms after the connection "
        f"stands in the median, {1000 * took[-1]:.0f} ms at most"
    )


async def bad_way(show: Show, seconds: float) -> str:
    """Two viewers, one of them through loss and delay."""
    far, viewer, _ = await watch(show, ("H264",))
    near, _, _ = await watch(show, ("H264",))
    await asyncio.gather(far.frame(), near.frame())
    keys, lost = show.broadcast.num_keyframes, spoil(viewer, LOSS, DELAY_S)
    end_s = time.monotonic() + seconds

    async def seen(client: Client) -> list[tuple[int, float]]:
        taken = []
        while time.monotonic() < end_s:
            taken.append((number_of(await client.frame()), time.monotonic()))
        return taken

    told = []
    for name, frames in zip(
        ("the spoilt one", "the other one"),
        await asyncio.gather(seen(far), seen(near)),
        strict=True,
    ):
        missing = sum((b - a) % 256 - 1 for (a, _), (b, _) in pairwise(frames))
        gap_s = max(b - a for (_, a), (_, b) in pairwise(frames))
        told.append(f"{name} saw {len(frames)}, missed {missing}, longest gap {gap_s:.2f} s")
    return (
        f"{LOSS:.0%} loss and {1000 * DELAY_S:.0f} ms for one of two viewers, {seconds:.0f} s, "
        f"{len(lost)} packets lost, {show.broadcast.num_keyframes - keys} key frames: "
        + "; ".join(told)
    )


async def measure(num_joins: int, seconds: float) -> None:
    aioice.ice.get_host_addresses = lambda use_ipv4, use_ipv6: []
    allow_loopback(always=False)
    show = Show()
    try:
        early, _, _ = await watch(show, ("H264",))
        drawing = asyncio.create_task(_draw(early))
        print(await joins(show, num_joins))
        drawing.cancel()
        print(await bad_way(show, seconds))
    finally:
        await show.close()
        for client in Client.made:
            await client.connection.close()


async def _draw(client: Client) -> None:
    while True:
        await client.frame()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--joins", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=60.0)
    asked = parser.parse_args()
    asyncio.run(measure(asked.joins, asked.seconds))


if __name__ == "__main__":
    main()
