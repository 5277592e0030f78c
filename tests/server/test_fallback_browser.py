"""The video over WebSocket in a real browser: it plays, on the stream's clock."""

from __future__ import annotations

import asyncio
import os
import shutil
from typing import Any

import pytest
from playwright.async_api import async_playwright

Serve = Any

PLAY = """async ({ path }) => {
  const { StreamedVideo, canPlayFallback, ptsOf } = await import("/fallback.js");
  if (!canPlayFallback()) return { error: "cannot play" };
  const video = document.createElement("video");
  video.muted = true;
  document.body.append(video);
  const url = new URL(path, location.href);
  url.protocol = url.protocol.replace("http", "ws");
  return await new Promise((resolve) => {
    const stamps = [];
    const link = new StreamedVideo(video, url.href, {
      onOpen() {},
      onEnded: (error) => resolve({ error, stamps }),
    });
    const painted = (_now, frame) => {
      stamps.push(ptsOf(frame.mediaTime, link.clock));
      if (stamps.length < 24) return video.requestVideoFrameCallback(painted);
      const shown = { stamps, width: video.videoWidth, height: video.videoHeight };
      link.close();
      resolve(shown);
    };
    video.requestVideoFrameCallback(painted);
    setTimeout(() => resolve({ error: "too late", stamps }), 15000);
  });
}"""


@pytest.mark.browser
async def test_chromium_plays_the_stream_over_a_websocket(serve: Serve) -> None:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        if os.environ.get("CI"):
            pytest.fail("chromium is missing; CI must have it")
        pytest.skip("chromium is missing")
    served = await serve()
    stream = (await served.http.post("/api/streams", json={"prompt": "snow"})).json()
    flags = ["--no-sandbox", "--disable-gpu", "--autoplay-policy=no-user-gesture-required"]
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=flags)
        page = await browser.new_page()
        await page.goto(served.url)
        seen = await asyncio.wait_for(
            page.evaluate(PLAY, {"path": f"/ws/video/{stream['id']}"}), 40
        )
        await browser.close()
    assert seen.get("error") is None, seen
    assert (seen["width"], seen["height"]) == (64, 64)
    assert seen["stamps"] == sorted(set(seen["stamps"]))
    await served.until(viewers=0)
