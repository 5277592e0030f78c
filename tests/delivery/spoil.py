"""A bad way to a viewer, laid in the transport: the kernel may have no means of its own."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from streamer.delivery.webrtc import Viewer


def spoil(viewer: Viewer, loss: float, delay_s: float, seed: int = 7) -> list[int]:
    """Lose and delay what is sent to one viewer; returns a list that grows by 1 a loss.

    Everything is: media, repair, reports, and the answers by which the far end measures its round
    trip.  Order is kept, as on a single long line.
    """
    (sender,) = viewer._connection.getSenders()
    ice = sender.transport.transport._connection
    rng, lost = random.Random(seed), []
    loop = asyncio.get_running_loop()

    def spoilt(transport: Any) -> None:
        send = transport.sendto

        def later(*given: Any) -> None:
            if not transport.is_closing():
                send(*given)

        def sendto(*given: Any) -> None:
            if rng.random() < loss:
                lost.append(1)
            else:
                loop.call_later(delay_s, later, *given)

        transport.sendto = sendto

    for protocol in ice._protocols:
        spoilt(protocol.transport)
    return lost
