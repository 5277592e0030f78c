"""A bad way to a viewer, laid in the transport: the kernel may have no means of its own."""

from __future__ import annotations

import asyncio
import random

from streamer.delivery.webrtc import Viewer


def spoil(viewer: Viewer, loss: float, delay_s: float, seed: int = 7) -> list[int]:
    """Lose and delay what is sent to one viewer, below DTLS; returns a list that grows by 1 a loss.

    Both packets of media and of repair are lost; order is kept, as on a single long line.
    """
    (sender,) = viewer._connection.getSenders()
    ice = sender.transport.transport._connection
    send, rng, lost = ice.sendto, random.Random(seed), []
    loop = asyncio.get_running_loop()

    async def later(data: bytes, component: int) -> None:
        await send(data, component)

    async def sendto(data: bytes, component: int) -> None:
        if rng.random() < loss:
            lost.append(1)
            return
        loop.call_later(delay_s, lambda: sending.append(loop.create_task(later(data, component))))

    sending: list[asyncio.Task[None]] = []
    ice.sendto = sendto
    return lost
