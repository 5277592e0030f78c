// The statistics: what is kept of them, and the lines they make.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";

import { KEPT, appended, linePath, scaleTop, strokesPath } from "../../web/plots.js";
import { noStatistics, plotsOf, withMeasured } from "../../web/statistics.js";

const { server } = JSON.parse(
  await readFile(new URL("../data/protocol.json", import.meta.url), "utf8"),
);

test("the newest values are kept, and what is no number is missing", () => {
  const many = Array.from({ length: KEPT + 5 }, (_, i) => i).reduce(appended, []);
  assert.equal(many.length, KEPT);
  assert.equal(many.at(-1), KEPT + 4);
  assert.deepEqual(appended([1], Number.NaN), [1, null]);
});

test("a scale ends at a round number at or above every value", () => {
  assert.equal(scaleTop([[3, 7]], 1), 10);
  assert.equal(scaleTop([[0.3], [1.2, null]], 1), 2);
  assert.equal(scaleTop([[420]], 100), 500);
  assert.equal(scaleTop([[]], 16), 20);
  assert.equal(scaleTop([[0.1 + 0.2]], 0.1), 0.5);
  assert.equal(scaleTop([[100]], 1), 100);
});

test("a line runs to the right edge, highest values highest", () => {
  assert.equal(linePath([0, 5, 10], 10, 29, 20), "M27 20L28 10L29 0");
  assert.equal(linePath([99], 10, 29, 20), "M29 0", "more than the scale stays inside");
  assert.equal(linePath([], 10, 29, 20), "");
});

test("a missing value breaks the line", () => {
  assert.equal(linePath([1, null, 1], 1, 29, 20), "M27 0M29 0");
});

test("a full line is as wide as the plot", () => {
  const path = linePath(Array(KEPT).fill(1), 1, 100, 10);
  assert.ok(path.startsWith("M0 0L"));
  assert.ok(path.endsWith("L100 0"));
});

test("single measurements are strokes from the ground up", () => {
  assert.equal(strokesPath([null, 5, null], 10, 29, 20), "M28 20V10");
});

test("each quantity has its plot, with its newest value and its unit", () => {
  let kept = withMeasured(noStatistics(), server.statistics, {
    fpsShown: 15.5, roundTripMs: 2.6, latencyMs: 840,
  });
  kept = withMeasured(kept, server.statistics, { fpsShown: 16, roundTripMs: null, latencyMs: null });
  const plots = plotsOf(kept, 16);
  assert.deepEqual(
    plots.map(({ name, value }) => [name, value]),
    [
      ["fps shown / generated", "16.0 / 32"],
      ["queue", "0.62 s"],
      ["time of a block", "380 ms"],
      ["round trip", "– ms"],
      ["bitrate", "640 kbit/s"],
      ["prompt to picture", "0.84 s"],
    ],
  );
  assert.deepEqual(plots[0].lines.map(({ series }) => series), [[31.5, 31.5], [15.5, 16]]);
});

test("how much faster than needed it could be does not flatten what is shown", () => {
  const fast = { ...server.statistics, fps_generated: 2000 };
  const kept = withMeasured(noStatistics(), fast, { fpsShown: 16, roundTripMs: 1, latencyMs: null });
  const [plot] = plotsOf(kept, 16);
  assert.equal(scaleTop(plot.lines.map(({ series }) => series), plot.atLeast), 100);
  assert.match(plot.value, /2000/);
});
