// What of the fallback needs no browser.

import assert from "node:assert/strict";
import { test } from "node:test";

import { canPlayFallback, catchUp, ptsOf } from "../../web/fallback.js";

test("without MediaSource there is no fallback, and no failure", () => {
  assert.equal(canPlayFallback(), false);
});

test("a media time is a time of the stream's clock, to the tick", () => {
  for (const pts of [0, 3750, 810_000, 90_000 * 86_400 + 1]) {
    assert.equal(ptsOf(pts / 90_000, 90_000), pts);
  }
});

test("playback that is close to the newest frame is left alone", () => {
  assert.equal(catchUp(9.5, 0, 10), null);
});

test("playback before the first frame, or far behind, jumps close to the newest one", () => {
  assert.ok(Math.abs(catchUp(0, 7, 10) - 9.65) < 1e-9);
  assert.ok(Math.abs(catchUp(5, 0, 10) - 9.65) < 1e-9);
  assert.equal(catchUp(0, 9.9, 10), 9.9);
});
