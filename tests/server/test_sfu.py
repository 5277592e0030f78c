"""Published to Janus, an SFU that nobody here wrote, and watched behind it by Chromium."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aioice.ice
import pytest
from playwright.async_api import Page, async_playwright

from tests.server.janus import has_janus, running_janus
from tests.server.test_foreign import needs, started

Serve = Any
WITHIN_S = 30.0

WATCH = """async (sdp) => {
  window.peer = new RTCPeerConnection();
  peer.ontrack = ({ track }) => {
    const video = document.createElement("video");
    video.muted = true;
    video.srcObject = new MediaStream([track]);
    document.body.append(video);
    void video.play();
  };
  await peer.setRemoteDescription({ type: "offer", sdp });
  await peer.setLocalDescription();
  while (peer.iceGatheringState !== "complete") {
    await new Promise((resolve) => peer.addEventListener("icegatheringstatechange", resolve));
  }
  return peer.localDescription.sdp;
}"""
SEEN = """async () => {
  const stats = [...(await peer.getStats()).values()];
  const video = stats.find((each) => each.type === "inbound-rtp");
  return {
    frames: video?.framesDecoded ?? 0,
    size: [video?.frameWidth, video?.frameHeight],
    codec: stats.find((each) => each.id === video?.codecId)?.mimeType,
  };
}"""
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--autoplay-policy=no-user-gesture-required",
    "--disable-features=WebRtcHideLocalIpsWithMdns",
]


@pytest.fixture(autouse=True)
def _all_is_here() -> None:
    needs(has_janus(), "Janus")
    if not aioice.ice.get_host_addresses(True, False):
        pytest.skip("Janus does not use 127.0.0.1, and this machine has no other address")


async def until(look: Callable[[], Awaitable[Any]], is_enough: Callable[[Any], bool]) -> Any:
    """What `look` finds, once it is enough."""
    found = None
    try:
        async with asyncio.timeout(WITHIN_S):
            while not is_enough(found := await look()):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    except TimeoutError:
        pytest.fail(f"not within {WITHIN_S:g} s, found last: {found}")
    return found


async def publication(served: Any, stream: dict[str, Any]) -> dict[str, Any]:
    """How it is with the one place a stream is published to."""
    (told,) = (
        await served.http.get(
            f"/api/streams/{stream['id']}/publications",
            headers={"Authorization": f"Bearer {stream['token']}"},
        )
    ).json()
    return told  # type: ignore[no-any-return]


async def until_publishing(served: Any, stream: dict[str, Any]) -> None:
    await until(lambda: publication(served, stream), lambda told: told["state"] == "publishing")


@pytest.mark.browser
@pytest.mark.parametrize("codec", ["H264", "VP8"])
async def test_a_browser_watches_behind_janus_what_is_published_to_it(
    serve: Serve, tmp_path: Path, codec: str
) -> None:
    chromium = shutil.which("chromium") or shutil.which("google-chrome") or ""
    needs(bool(chromium), "Chromium")
    async with running_janus(tmp_path, codec) as (janus, whip), async_playwright() as playwright:
        served = await serve(publish=[whip])
        stream = await started(served)
        await until_publishing(served, stream)
        (handle,) = janus.publishers
        # The first key frame is long gone when the viewer comes: Janus must ask for one and get it.
        came = await until(
            lambda: janus.video_in(handle), lambda video: video["stats"]["in"]["packets"] > 24
        )
        assert came["codecs"]["codec"] == codec.lower()

        browser = await playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        page: Page = await browser.new_page()
        await page.goto(served.url)
        watching, offer = await janus.subscribe(janus.publishers[handle])
        await janus.start(watching, await page.evaluate(WATCH, offer))
        seen = await until(lambda: page.evaluate(SEEN), lambda seen: seen["frames"] >= 24)
        await browser.close()
        assert seen["size"] == [64, 64]
        assert seen["codec"] == f"video/{codec}"

        assert await janus.participants() == [janus.publishers[handle]]
        await served.http.delete(
            f"/api/streams/{stream['id']}", headers={"Authorization": f"Bearer {stream['token']}"}
        )
        await until(janus.participants, lambda numbers: numbers == [])


async def test_who_is_thrown_out_by_janus_publishes_again(serve: Serve, tmp_path: Path) -> None:
    async with running_janus(tmp_path, "H264") as (janus, whip):
        served = await serve(publish=[whip])
        stream = await started(served)
        await until_publishing(served, stream)
        (first,) = janus.publishers
        await janus.kick(janus.publishers[first])
        told = await until(
            lambda: publication(served, stream), lambda told: told["state"] == "waiting"
        )
        assert told["detail"] == "the connection was closed"
        assert told["retry_in_s"] is not None
        await until_publishing(served, stream)
        again = list(janus.publishers)[-1]
        assert again != first
        await until(
            lambda: janus.video_in(again), lambda video: video["stats"]["in"]["packets"] > 24
        )
