"""Against programs that nobody here wrote.  Each runs where it is installed, and always in CI."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aioice.ice
import pytest
from aiortc import RTCConfiguration, RTCIceServer, RTCPeerConnection, RTCSessionDescription

from streamer.delivery.webrtc import allow_loopback

Serve = Any
PLAYER = Path(__file__).with_name("gstreamer_player.py")
SYSTEM_PYTHON = "/usr/bin/python3"
SDP = {"Content-Type": "application/sdp"}


def needs(is_here: bool, what: str) -> None:
    """Skip where a program is missing; CI installs it, so there that is a failure."""
    if not is_here:
        if os.environ.get("CI"):
            pytest.fail(f"{what} is not installed; .ci/run should have")
        pytest.skip(f"{what} is not installed")


def has_gstreamer() -> bool:
    code = (
        "import gi; gi.require_version('Gst', '1.0'); gi.require_version('GstWebRTC', '1.0');"
        "from gi.repository import Gst; Gst.init(None);"
        "raise SystemExit(not all(map(Gst.ElementFactory.find,"
        " ('webrtcbin', 'nicesink', 'avdec_h264', 'vp8dec', 'rtph264depay'))))"
    )
    try:
        return subprocess.run([SYSTEM_PYTHON, "-c", code], capture_output=True).returncode == 0
    except OSError:
        return False


async def started(served: Any) -> dict[str, Any]:
    made = await served.http.post("/api/streams", json={"prompt": "snow"})
    return made.json()  # type: ignore[no-any-return]


@pytest.mark.parametrize("codec", ["H264", "VP8"])
async def test_gstreamer_plays_a_stream_through_whep(serve: Serve, codec: str) -> None:
    needs(has_gstreamer(), "GStreamer with webrtcbin")
    if not aioice.ice.get_host_addresses(True, False):
        pytest.skip("libnice does not use 127.0.0.1, and this machine has no other address")
    served = await serve()
    stream = await started(served)
    url = f"{served.url}whep/{stream['id']}"
    player = await asyncio.create_subprocess_exec(
        SYSTEM_PYTHON, str(PLAYER), url, codec, "12", stdout=subprocess.PIPE
    )
    output, _ = await asyncio.wait_for(player.communicate(), 60)
    told = json.loads(output.decode().splitlines()[-1])
    assert told == {"frames": told["frames"], "size": [64, 64], "error": None}
    assert told["frames"] >= 12
    await served.until(viewers=0)


@pytest.fixture
async def turn(tmp_path: Path) -> AsyncIterator[str]:
    """A coturn on this machine; its address as `--ice-server` takes it."""
    needs(shutil.which("turnserver") is not None, "coturn")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    server = await asyncio.create_subprocess_exec(
        *("turnserver", "-n", "--listening-ip", "127.0.0.1", "--listening-port", str(port)),
        *("--relay-ip", "127.0.0.1", "--allow-loopback-peers", "--no-tls", "--no-dtls"),
        *("--cli-password", "unused", "--no-cli", "--lt-cred-mech", "--realm", "test"),
        *("--user", "ada:s3cret", "--log-file", str(tmp_path / "turn.log"), "--simple-log"),
        *("--pidfile", str(tmp_path / "turn.pid"), "--userdb", str(tmp_path / "turn.db")),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(10):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    await asyncio.sleep(0.05)
                else:
                    writer.close()
                    break
        yield f"turn:ada:s3cret@127.0.0.1:{port}?transport=udp"
    finally:
        server.terminate()
        await server.wait()


async def test_a_viewer_behind_a_relay_is_reached_through_coturn(serve: Serve, turn: str) -> None:
    """The viewer gathers relayed candidates alone, so nothing can go past the relay."""
    allow_loopback()
    served = await serve(ice_servers=[turn])
    talk = await served.talk()
    (told,) = (await talk.greet())["ice_servers"]
    relay = RTCIceServer(told["urls"], told["username"], told["credential"])
    connection = RTCPeerConnection(RTCConfiguration(iceServers=[relay]))
    connection.addTransceiver("video", direction="recvonly")
    try:
        await connection.setLocalDescription(await connection.createOffer())
        lines = connection.localDescription.sdp.splitlines()
        candidates = [line for line in lines if line.startswith("a=candidate")]
        assert any("typ relay" in line for line in candidates)
        stream = await started(served)
        offer = [line for line in lines if line not in candidates or "typ relay" in line]
        answer = await served.http.post(
            f"/whep/{stream['id']}", content="\r\n".join(offer) + "\r\n", headers=SDP
        )
        assert answer.status_code == 201
        assert "typ relay" in answer.text
        only_relay = [
            line
            for line in answer.text.splitlines()
            if not line.startswith("a=candidate") or "typ relay" in line
        ]
        sdp = "\r\n".join(only_relay) + "\r\n"
        await connection.setRemoteDescription(RTCSessionDescription(sdp, "answer"))
        frame = await asyncio.wait_for(connection.getReceivers()[0].track.recv(), 20)
        assert (frame.width, frame.height) == (64, 64)
    finally:
        await connection.close()
