"""The whole way with nothing imagined: process, worker, WebSocket, WebRTC, and signals."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiortc import RTCPeerConnection, RTCSessionDescription
from numpy.typing import NDArray
from websockets.asyncio.client import connect

from streamer.config import load_config
from streamer.delivery.webrtc import allow_loopback
from streamer.engine.handle import Engine
from streamer.errors import AddressInUseError, ConfigError
from streamer.server.run import bind, run_server
from tests.calm import is_calm

Serve = Any
ROOT = Path(__file__).parents[2]


class Peer:
    """A viewer that decodes what it is sent."""

    def __init__(self) -> None:
        self.connection = RTCPeerConnection()
        self.connection.addTransceiver("video", direction="recvonly")
        self._track: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.connection.on("track", self._track.set_result)

    async def watch(self, talk: Any) -> None:
        await self.connection.setLocalDescription(await self.connection.createOffer())
        await talk.say("offer", sdp=self.connection.localDescription.sdp)
        answer = await talk.hear("answer")
        await self.connection.setRemoteDescription(RTCSessionDescription(answer["sdp"], "answer"))

    async def picture(self) -> NDArray[np.uint8]:
        """The next picture, uint8 [H, W, 3]."""
        track = await self._track
        frame = await asyncio.wait_for(track.recv(), 20)
        return frame.to_ndarray(format="rgb24")  # type: ignore[no-any-return]


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    allow_loopback()
    viewer = Peer()
    yield viewer
    await viewer.connection.close()


async def until_colour(peer: Peer, channel: int) -> None:
    """Watch until the mean of one channel is well above the two others."""
    for _ in range(16 * 15):
        mean = (await peer.picture()).reshape(-1, 3).mean(axis=0)
        if mean[channel] > np.delete(mean, channel).max() + 30:
            return
    pytest.fail(f"channel {channel} never led; last mean {mean}")


async def test_a_viewer_sees_the_prompt_its_change_and_the_return_after_a_killed_worker(
    serve: Serve, peer: Peer
) -> None:
    engines: list[Engine] = []

    def factory(config: Any, *, on_progress: Any) -> Engine:
        engines.append(Engine(config, on_progress=on_progress))
        return engines[-1]

    served = await serve(factory, load_config("pattern"))
    talk = await served.talk()
    await talk.greet()
    stream = await talk.start("red", seed=7)
    await peer.watch(talk)
    await until_colour(peer, 0)
    await talk.say("set_prompt", prompt={"id": "p2", "text": "blue"})
    assert (await talk.hear("prompt_accepted"))["applies_in_s"] < 3
    assert (await talk.hear("prompt_applied", prompt_id="p2"))["rtp_timestamp"] is not None
    await until_colour(peer, 2)

    (engine,) = engines
    assert engine.worker_pid is not None
    os.kill(engine.worker_pid, signal.SIGKILL)
    killed_s = time.monotonic()
    await talk.hear("status", state="restoring")
    await talk.hear("status", state="playing")
    await until_colour(peer, 2)
    assert time.monotonic() - killed_s < 5 or not is_calm()
    await talk.say("set_prompt", prompt={"id": "p3", "text": "red"})
    await until_colour(peer, 0)
    script = (await served.http.get(f"/api/streams/{stream['id']}/script")).text
    assert [line for line in ('"red"', '"blue"', "restored") if line not in script] == []

    await talk.socket.close()
    await served.until(viewers=0)


async def test_the_event_loop_is_free_while_blocks_are_made(serve: Serve, peer: Peer) -> None:
    served = await serve(Engine, load_config("pattern"))
    talk = await served.talk()
    await talk.greet()
    await talk.start("red")
    await peer.watch(talk)
    await until_colour(peer, 0)
    round_trips = []
    for number in range(40):
        before = time.monotonic()
        await talk.say("ping", id=number)
        await talk.hear("pong", id=number)
        round_trips.append(time.monotonic() - before)
        await peer.picture()
    assert np.median(round_trips) < 0.05 or not is_calm()


CODE = """
from streamer.config import load_config
from streamer.server.run import run_server
config = load_config("pattern")
config = config.model_copy(update={"server": config.server.model_copy(update={"port": 0})})
show = lambda *values: print(*values, flush=True)
run_server(config, on_bound=show, on_progress=lambda progress, stage: show(progress, stage))
print("ended in order", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_ctrl_c_ends_the_server_in_time_with_streams_and_sockets_open(
    number: signal.Signals,
) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CODE, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    url = (await asyncio.wait_for(process.stdout.readline(), 90)).decode().strip()
    async with connect(url.replace("http", "ws") + "ws", proxy=None) as websocket:
        await websocket.send('{"type": "hello", "version": 1}')
        await websocket.send('{"type": "start", "prompt": {"id": "p1", "text": "red"}}')
        async for text in websocket:
            if '"prompt_applied"' in str(text):
                break
        process.send_signal(number)
        asked_s = time.monotonic()
        output, errors = await asyncio.wait_for(process.communicate(), 60)
    assert time.monotonic() - asked_s < 3 or not is_calm()
    assert errors.decode() == ""
    assert process.returncode in (0, -number)
    if number == signal.SIGINT:
        assert "ended in order" in output.decode()


def test_a_port_in_use_is_an_error_that_names_the_way_out() -> None:
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(AddressInUseError, match=rf"{port} .* --port 0"):
            bind("127.0.0.1", port)


def test_a_host_that_is_not_this_machines_is_a_config_error() -> None:
    for host in ("192.0.2.1", "no such host"):
        with pytest.raises(ConfigError, match=r"server\.host"):
            bind(host, 0)


def test_a_model_that_cannot_be_loaded_ends_the_server_with_its_reason() -> None:
    from streamer.errors import WeightsError
    from tests.fakes import FakeEngine, pattern_config

    engine = FakeEngine()
    engine.start_error = WeightsError("storybook.safetensors: missing")
    bound: list[str] = []
    with pytest.raises(WeightsError, match="missing"):
        run_server(
            pattern_config(port=0),
            on_bound=bound.append,
            on_progress=lambda progress, stage: None,
            engine_factory=engine,
        )
    assert engine.is_closed
    with socket.create_server(("127.0.0.1", int(bound[0].rsplit(":", 1)[1].strip("/")))):
        pass
