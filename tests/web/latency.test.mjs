// The times from a prompt to its first picture, as the statistics tell them.

import assert from "node:assert/strict";
import { test } from "node:test";

import { spreadWords, stagesOf, stagesWords, withWay } from "../../web/latency.js";

const STAGES = { wait: 60, text: 0.2, block: 210, decode: 45, queue: 120, encode: 3 };
const waysOf = (...times) => times.map((latencyMs) => ({ latencyMs, stages: null }));

test("median and p95 are told of all that were measured", () => {
  assert.equal(spreadWords([]), "");
  assert.match(spreadWords(waysOf(840)), /^of 1 prompt: median 0.84 s, p95 0.84 s$/);
  assert.match(spreadWords(waysOf(500, 700)), /median 0.60 s/);
  const many = waysOf(...Array.from({ length: 100 }, (_, index) => 10 * (100 - index)));
  assert.match(spreadWords(many), /^of 100 prompts: median 0.51 s, p95 0.95 s$/);
});

test("only the newest are kept", () => {
  let ways = [];
  for (let index = 0; index < 300; index += 1) ways = withWay(ways, waysOf(index)[0]);
  assert.equal(ways.length, 256);
  assert.equal(ways.at(-1).latencyMs, 299);
});

test("stages come in order, short ones are left out, the rest is the way to the screen", () => {
  const stages = stagesOf({ latencyMs: 500, stages: STAGES });
  assert.deepEqual(stages.map(({ name }) => name), [
    "wait", "block", "decode", "queue", "encode", "screen",
  ]);
  assert.equal(Math.round(stages.at(-1).ms), 62);
  assert.match(stagesWords(stages), /^wait 60 · block 210 .* screen 62 ms$/);
});

test("a way whose stages are not known, or do not fit, has no wrong ones", () => {
  assert.deepEqual(stagesOf({ latencyMs: 500, stages: null }), []);
  assert.equal(stagesWords([]), "");
  const early = stagesOf({ latencyMs: 100, stages: STAGES });
  assert.ok(early.every(({ ms }) => ms > 0));
});
