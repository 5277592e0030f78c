// How long pictures are held back on a way that loses packets.

import assert from "node:assert/strict";
import { test } from "node:test";

import { looked, noPatience } from "../../web/patience.js";

/** Looks with so many missing packets each. */
const after = (missing, { roundTripMs = 100, from = noPatience() } = {}) =>
  missing.reduce((patience, count) => looked(patience, count, roundTripMs, 60), from);
const calm = (count) => Array(count).fill(0);

test("nobody waits where nothing is lost, or once only", () => {
  assert.equal(after(calm(50)).targetMs, 0);
  assert.equal(after([0, 3, ...calm(20), 2, 0]).targetMs, 0);
});

test("who loses packets again and again waits for a round trip and two pictures", () => {
  assert.equal(after([1, 0, 2]).targetMs, 220);
  assert.equal(after([1, 0, 2], { roundTripMs: 2 }).targetMs, 122);
});

test("it is bounded, and grows at once but does not shrink a bit", () => {
  assert.equal(after([1, 1], { roundTripMs: 900 }).targetMs, 600);
  const waiting = after([1, 1]);
  assert.equal(after([1], { roundTripMs: 150, from: waiting }).targetMs, 270);
  assert.equal(after([1], { roundTripMs: 20, from: waiting }).targetMs, 220);
});

test("it ends when nothing was lost for half a minute", () => {
  const waiting = after([1, 1]);
  assert.equal(after(calm(29), { from: waiting }).targetMs, 220);
  assert.equal(after(calm(30), { from: waiting }).targetMs, 0);
});

test("without a round trip nothing changes but the end", () => {
  assert.equal(after([1, 1, 1], { roundTripMs: null }).targetMs, 0);
  const waiting = after([1, 1]);
  assert.equal(after([1], { roundTripMs: null, from: waiting }).targetMs, 220);
  assert.equal(after(calm(30), { roundTripMs: null, from: waiting }).targetMs, 0);
});
