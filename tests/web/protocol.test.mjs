// Every example that the Python tests read is read and written here as well.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";

import * as protocol from "../../web/protocol.js";

const examples = JSON.parse(
  await readFile(new URL("../data/protocol.json", import.meta.url), "utf8"),
);

/** The page's own builder for each message, fed with the example's values. */
const BUILDERS = {
  hello: (m) => protocol.hello(m.stream, m.token, m.name),
  start: (m) => protocol.start(m.prompt, m.seed, m.wait),
  offer: (m) => protocol.offer(m.sdp),
  set_prompt: (m) => protocol.setPrompt(m.prompt),
  set_seed: (m) => protocol.setSeed(m.seed),
  pause: () => protocol.pause(),
  resume: () => protocol.resume(),
  stop: () => protocol.stop(),
  ping: (m) => protocol.ping(m.id),
  shown: (m) => protocol.shown(m.prompt_id, m.latency_ms, m.jitter_buffer_ms),
  hand_over: (m) => protocol.handOver(m.to),
  open_suggestions: (m) => protocol.openSuggestions(m.is_open),
  suggest: (m) => protocol.suggest(m.prompt),
  pick: (m) => protocol.pick(m.suggestion_id),
  dismiss: (m) => protocol.dismiss(m.suggestion_id),
};

test("the page can build every message that a client may send", () => {
  assert.deepEqual(Object.keys(BUILDERS).sort(), Object.keys(examples.client).sort());
});

for (const [type, example] of Object.entries(examples.client)) {
  test(`the page writes ${type} as the server expects it`, () => {
    assert.deepEqual(JSON.parse(JSON.stringify(BUILDERS[type](example))), example);
  });
}

for (const [type, example] of Object.entries(examples.server)) {
  test(`the page reads ${type}`, () => {
    assert.deepEqual(protocol.decodeServer(JSON.stringify(example)), example);
  });

  for (const field of Object.keys(example)) {
    test(`${type} without ${field} is refused`, () => {
      const { [field]: _, ...rest } = example;
      assert.throws(() => protocol.decodeServer(JSON.stringify(rest)), protocol.ProtocolError);
    });

    test(`${type} with ${field} of the wrong type is refused`, () => {
      const wrong = JSON.stringify({ ...example, [field]: { not: "this" } });
      assert.throws(() => protocol.decodeServer(wrong), protocol.ProtocolError);
    });
  }
}

test("a field that a newer server adds is no fault", () => {
  const newer = { ...examples.server.pong, since: "tomorrow" };
  assert.equal(protocol.decodeServer(JSON.stringify(newer)).type, "pong");
});

test("null stands where the protocol allows it", () => {
  const { stream, prompt_applied: applied, error, welcome } = examples.server;
  for (const message of [
    { ...welcome, opening: null },
    { ...stream, token: null },
    { ...applied, rtp_timestamp: null },
    { ...error, about: null },
  ]) {
    assert.deepEqual(protocol.decodeServer(JSON.stringify(message)), message);
  }
});

for (const text of ["", "{", "[]", "null", "7", '{"type": "toString"}', '{"type": "hello"}']) {
  test(`${JSON.stringify(text)} is not a message of the server`, () => {
    assert.throws(() => protocol.decodeServer(text), protocol.ProtocolError);
  });
}

test("a fault names message and field", () => {
  assert.throws(() => protocol.decodeServer('{"type": "pong", "id": "3"}'), /pong\.id.*"3"/);
});
