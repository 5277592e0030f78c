// Where the prompts of a stream are on the ribbon.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";

import {
  clockWords,
  emptyRibbon,
  frameAt,
  layout,
  withHistory,
  withPrompt,
  withRate,
  withStatistics,
} from "../../web/ribbon.js";

const { server } = JSON.parse(
  await readFile(new URL("../data/protocol.json", import.meta.url), "utf8"),
);

const FPS = 10;
const shown = (id, second) => ({ id, text: `prompt ${id}`, block: second, frame: second * FPS });
/** Prompts at these seconds; the last took effect at 0 ms, and 10 frames a second follow. */
const ribbonOf = (...seconds) =>
  withRate(
    seconds.reduce((r, second) => withPrompt(r, shown(`p${second}`, second), 0), emptyRibbon()),
    FPS,
    0,
  );
const near = (a, b) => assert.ok(Math.abs(a - b) < 1e-9, `${a} is not ${b}`);

test("pieces lie end to end, from each prompt's first frame to the next one's", () => {
  const { segments, now, nowS } = layout(ribbonOf(0, 6, 12), FPS, 3000);
  near(nowS, 15);
  assert.deepEqual(segments.map(({ startS }) => startS), [0, 6, 12]);
  near(segments[0].from, 0);
  near(segments[0].to, segments[1].from);
  near(segments[1].from, 6 / 30);
  near(segments[2].to, now);
  near(now, 15 / 30);
  assert.deepEqual(segments.map(({ isCurrent }) => isCurrent), [false, false, true]);
});

test("a longer stream is drawn smaller, so that all of it is seen", () => {
  const spans = [10, 40, 100, 200].map((second) => {
    const { segments, nowS, now } = layout(ribbonOf(0), FPS, second * 1000);
    assert.ok(!segments[0].isCutOff && segments[0].from === 0, "the beginning is seen");
    return Math.round(nowS / now);
  });
  assert.deepEqual(spans, [30, 60, 120, 300]);
});

test("beyond five minutes the ribbon moves on and leaves the oldest behind", () => {
  const { segments, now } = layout(ribbonOf(0, 50, 200), FPS, 400_000);
  near(now, 0.86);
  assert.deepEqual(segments.map(({ id }) => id), ["p200"]);
  assert.ok(segments[0].isCutOff);
  near(segments[0].from, 0);
});

test("a prompt on its way is right of now by the time it takes, but never outside", () => {
  const ribbon = ribbonOf(0);
  const soon = layout(ribbon, FPS, 9000, { text: "next", inS: 3 });
  near(soon.coming.from, 12 / 30);
  assert.equal(layout(ribbon, FPS, 9000, { text: "next", inS: 1e6 }).coming.from, 0.99);
  assert.equal(layout(ribbon, FPS, 9000).coming, null);
  const due = layout(ribbon, FPS, 9000, { text: "next", inS: 0 });
  assert.ok(due.coming.from > due.now, "it has not begun yet");
});

test("a frame rate that changes does not move the past", () => {
  const slowed = withRate(ribbonOf(0), 5, 4000);
  near(frameAt(slowed, 4000), 40);
  near(frameAt(slowed, 6000), 50);
  near(frameAt(withRate(slowed, 0, 6000), 60_000), 50);
});

test("who comes late has the past, and the present from the statistics", () => {
  const past = [
    { prompt_id: "a", text: "one", block: 0, frame: 0 },
    { prompt_id: "b", text: "two", block: 10, frame: 120 },
  ];
  const late = withHistory(emptyRibbon(), { prompts: past, frame: 130 }, 0);
  near(frameAt(late, 0), 130);
  assert.deepEqual(layout(late, FPS, 0).segments.map(({ id }) => id), ["a", "b"]);
  // 12 frames a block; block 29 is made, half a second of it all waits to be shown.
  const told = {
    ...server.statistics,
    fps_generated: 60, block_ms: 200, block: 29, queued_s: 0.5, fps_played: FPS,
  };
  const there = withStatistics(late, told, FPS, 1000);
  near(frameAt(there, 1000), 120 + 20 * 12 - 5);
  near(frameAt(there, 2000), 120 + 20 * 12 + 5);
  const settled = withStatistics(there, { ...told, block: 30 }, FPS, 2000);
  near(frameAt(settled, 2000), frameAt(there, 2000));
});

test("the first prompt is on the ribbon from its first frame on", () => {
  const begun = withPrompt(emptyRibbon(), shown("p0", 0), 0);
  assert.deepEqual(layout(begun, FPS, 0).segments.map(({ id, from }) => [id, from]), [["p0", 0]]);
});

test("a prompt that took effect at a block made again replaces what was there", () => {
  const again = withPrompt(ribbonOf(0, 6, 12), shown("new", 6), 0);
  assert.deepEqual(again.prompts.map(({ id }) => id), ["p0", "new"]);
});

test("times are those of a clock", () => {
  assert.deepEqual([0, 9.9, 61, 3599, 3600, 36_061].map(clockWords), [
    "0:00", "0:09", "1:01", "59:59", "1:00:00", "10:01:01",
  ]);
});
