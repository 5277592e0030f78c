// What the viewer is shown after each run of events.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";

import { backoffMs } from "../../web/connection.js";
import { PromptHistory } from "../../web/history.js";
import { rtpReached } from "../../web/measure.js";
import { isDirector, isPictureDue, maySuggest, phaseOf } from "../../web/phase.js";
import { frameAt } from "../../web/ribbon.js";
import { initialState, reduce } from "../../web/state.js";
import {
  factsWords,
  publicationWords,
  sentence,
  timeLeftWords,
  watchingWords,
  wordsFor,
} from "../../web/words.js";

const { server } = JSON.parse(
  await readFile(new URL("../data/protocol.json", import.meta.url), "utf8"),
);

const received = (type, fields = {}, nowMs = 0) => ({
  type: "received",
  message: { ...server[type], ...fields },
  nowMs,
});
const status = (state, detail = "") => received("status", { state, detail });
const error = (code, about, message = "no") => received("error", { code, about, message });
const prompted = (id, nowMs = 0, text = "a hill") => ({
  type: "prompted",
  prompt: { id, text, transition: null },
  nowMs,
});
const painted = (rtpTimestamp, nowMs = 0) => ({ type: "painted", rtpTimestamp, pts: null, nowMs });
const paintedAt = (pts, nowMs) => ({ type: "painted", rtpTimestamp: null, pts, nowMs });
const after = (...events) => events.reduce(reduce, initialState());

const WELCOME = received("welcome");
const PLAYING = [WELCOME, received("stream"), painted(0)];

test("the page goes from connecting over loading to ready", () => {
  assert.equal(phaseOf(initialState()), "connecting");
  const loading = after(received("welcome", { loading: 0.2 }), received("loading"));
  assert.equal(phaseOf(loading), "loading");
  assert.equal(loading.loading, 0.5);
  assert.equal(loading.stage, "reading weights");
  assert.equal(phaseOf(reduce(loading, received("loading", { progress: 1 }))), "ready");
});

test("a first prompt shows its text, then the time to the first picture", () => {
  const starting = after(WELCOME, prompted("p1", 1000));
  assert.equal(phaseOf(starting), "starting");
  assert.equal(wordsFor(starting, 0).title, "a hill");
  const prompt = { id: "p1", text: "a hill", transition: null };
  const attached = reduce(starting, received("stream", { prompt, state: "starting" }));
  assert.equal(phaseOf(attached), "starting");
  assert.equal(attached.wanted, null);
  const playing = [status("playing"), painted(null, 1840)].reduce(reduce, attached);
  assert.equal(phaseOf(playing), "playing");
  assert.deepEqual(playing.measured, { promptId: "p1", latencyMs: 840, stages: null });
  assert.equal(playing.notice?.text, "first picture after 0.84 s");
});

test("a prompt sent while the model loads waits in the loading phase", () => {
  const state = after(
    received("welcome", { loading: 0.3 }),
    prompted("p1"),
    received("stream", { state: "starting" }),
  );
  assert.equal(phaseOf(state), "loading");
});

test("a new seed is shown to who watches, and told once to who chose it", () => {
  const applied = received("seed_applied", { seed: 12 });
  const watching = after(WELCOME, received("stream", { token: null, seed: 7 }), painted(0), applied);
  assert.equal(watching.stream?.seed, 12);
  assert.equal(watching.notice?.text, "new seed 12");
  const chosen = after(...PLAYING, { type: "reseeded", seed: 12 });
  assert.equal(chosen.stream?.seed, 12);
  assert.equal(reduce(chosen, applied), chosen);
  const lost = after(...PLAYING, { type: "reseeded", seed: 12 }, received("stream", { seed: 12 }));
  assert.equal(lost.stream?.seed, 12);
  assert.equal(after(applied).stream, null);
});

test("a prompt change is announced, then measured at the frame that carries it", () => {
  let state = after(...PLAYING, prompted("p2", 1000));
  state = reduce(state, received("prompt_accepted"));
  assert.deepEqual(state.notice, { tone: "progress", text: "applies in 0.6 s" });
  state = reduce(state, received("prompt_applied", { rtp_timestamp: 9000 }, 1500));
  assert.equal(reduce(state, painted(8999, 1600)), state, "an earlier frame changes nothing");
  state = reduce(state, painted(9000, 1740));
  const stages = server.prompt_applied.stages_ms;
  assert.deepEqual(state.measured, { promptId: "p2", latencyMs: 740, stages });
  assert.deepEqual(state.notice, { tone: "done", text: "changed in 0.74 s" });
  assert.equal(state.caption, server.prompt_applied.text);
  assert.equal(reduce(state, painted(18000, 1900)).measured, state.measured, "measured once");
});

test("without RTP times the first frame after the event counts", () => {
  for (const [told, seen] of [
    [null, 5],
    [9000, null],
  ]) {
    const state = after(
      ...PLAYING,
      prompted("p2", 0),
      received("prompt_applied", { rtp_timestamp: told }, 500),
      painted(seen, 600),
    );
    assert.equal(state.measured?.latencyMs, 600);
  }
});

test("RTP times wrap around", () => {
  assert.ok(rtpReached(5, 4294967290));
  assert.ok(!rtpReached(4294967290, 5));
  assert.ok(rtpReached(7, 7));
});

test("a frame that is never recognised ends the waiting without a number", () => {
  const state = after(
    ...PLAYING,
    prompted("p2", 0),
    received("prompt_applied", { rtp_timestamp: 2 ** 30 }, 500),
    painted(0, 5600),
  );
  assert.equal(state.notice?.text, "changed");
  assert.equal(state.pending, null);
  assert.equal(state.measured, null);
});

test("a renewed video counts from another RTP time", () => {
  const state = after(
    ...PLAYING,
    prompted("p2", 0),
    received("prompt_applied", { rtp_timestamp: 2 ** 30 }, 100),
    { type: "video_renewed" },
    painted(3, 200),
  );
  assert.equal(state.measured?.latencyMs, 200);
});

test("of two prompts only the newest is measured", () => {
  const older = { prompt_id: "p1", text: "older", rtp_timestamp: 10 };
  const state = after(
    ...PLAYING,
    prompted("p1", 0),
    prompted("p2", 100),
    received("prompt_accepted", { prompt_id: "p1", applies_in_s: 9 }),
    received("prompt_applied", older, 200),
    painted(10, 300),
  );
  assert.equal(state.caption, "older");
  assert.equal(state.measured, null);
  assert.equal(state.pending?.id, "p2");
  assert.equal(state.notice?.text, "sending");
});

test("a viewer sees the captions change but steers nothing", () => {
  const state = after(
    WELCOME,
    received("stream", { token: null }),
    received("prompt_applied", { rtp_timestamp: null }),
    painted(1),
  );
  assert.ok(!isDirector(state));
  assert.equal(state.caption, server.prompt_applied.text);
  assert.equal(state.measured, null);
  assert.equal(wordsFor(state, 0).badge, "watching");
});

for (const state of ["paused", "restoring", "parked", "ended"]) {
  test(`a stream that is ${state} is shown as that`, () => {
    assert.equal(phaseOf(after(...PLAYING, status(state))), state);
  });
}

test("restoring is shown also while a new worker loads its model", () => {
  const state = after(...PLAYING, status("restoring"), received("loading", { progress: 0.1 }));
  assert.equal(phaseOf(state), "restoring");
});

test("an end takes back what was on its way", () => {
  const state = after(...PLAYING, prompted("p2"), status("ended", "the director stopped it"));
  assert.equal(state.pending, null);
  assert.equal(state.notice, null);
  assert.equal(wordsFor(state, 0).sentence, "The director stopped it.");
  assert.equal(wordsFor(state, 0).action, "leave");
});

test("slower than real time is shown as a rate, with a margin against flicker", () => {
  const at = (rate) => received("statistics", { playback_rate: rate });
  const slow = after(...PLAYING, at(0.8));
  assert.equal(phaseOf(slow), "slow");
  assert.equal(wordsFor(slow, 0).badge, "0.8x real time");
  assert.equal(phaseOf(reduce(slow, at(0.96))), "slow");
  assert.equal(phaseOf(reduce(slow, at(0.99))), "playing");
  assert.equal(phaseOf(after(...PLAYING, at(0.96))), "playing");
});

test("a broken connection keeps the picture and comes back to the same stream", () => {
  const lost = after(...PLAYING, { type: "lost", retryMs: 4200 });
  assert.equal(phaseOf(lost), "lost");
  assert.ok(lost.hasPicture);
  assert.equal(wordsFor(lost, 1000).sentence, "Reconnecting in 3 s.");
  const retrying = reduce(lost, { type: "retrying" });
  assert.equal(wordsFor(retrying, 4200).sentence, "Reconnecting now.");
  const back = [WELCOME, received("stream")].reduce(reduce, retrying);
  assert.equal(phaseOf(back), "playing");
});

test("a prompt under way when the connection broke is not measured afterwards", () => {
  const state = after(
    ...PLAYING,
    prompted("p2"),
    { type: "lost", retryMs: 1 },
    WELCOME,
    received("stream"),
  );
  assert.equal(state.pending, null);
  assert.equal(state.notice, null);
});

test("a stream that the server no longer knows leads back to the first screen", () => {
  const state = after(...PLAYING, { type: "lost", retryMs: 1 }, WELCOME, error("stream_unknown", "hello"));
  assert.equal(phaseOf(state), "ready");
  assert.equal(state.stream, null);
  assert.ok(!state.hasPicture);
  assert.equal(state.notice?.tone, "problem");
});

test("a busy server keeps the prompt for another try", () => {
  const busy = after(WELCOME, prompted("p1"), error("busy", "start", "two streams are playing"));
  assert.equal(phaseOf(busy), "busy");
  assert.equal(wordsFor(busy, 0).sentence, "Two streams are playing.");
  assert.equal(wordsFor(busy, 0).action, "retry");
  assert.equal(busy.wanted?.id, "p1");
  assert.equal(phaseOf(reduce(busy, { type: "retried" })), "starting");
});

test("a refused first prompt leads back to ready, with the reason", () => {
  const state = after(WELCOME, prompted("p1"), error("prompt_invalid", "start", "too long"));
  assert.equal(phaseOf(state), "ready");
  assert.deepEqual(state.notice, { tone: "problem", text: "too long" });
});

test("a refused change leaves the stream as it was", () => {
  const state = after(...PLAYING, prompted("p2"), error("prompt_invalid", "set_prompt", "too long"));
  assert.equal(phaseOf(state), "playing");
  assert.equal(state.pending, null);
  assert.equal(state.notice?.text, "too long");
});

for (const code of ["weights_invalid", "worker_start_failed", "out_of_memory", "engine_failed"]) {
  test(`${code} is shown with its code and a way out`, () => {
    const state = after(...PLAYING, error(code, null, "the reason"), status("ended", "the reason"));
    assert.equal(phaseOf(state), "failed");
    const words = wordsFor(state, 0);
    assert.equal(words.code, code);
    assert.match(words.sentence, /^The reason\./);
    assert.ok(words.action === "leave" || words.action === "reload");
  });
}

test("a failure is over when the server welcomes again", () => {
  const failed = after(WELCOME, { type: "failed", code: "video_unreachable", message: "none" });
  assert.equal(phaseOf(failed), "failed");
  assert.equal(phaseOf(reduce(failed, WELCOME)), "ready");
});

test("leaving a stream leads to the first screen", () => {
  const state = after(...PLAYING, status("ended"), { type: "left" });
  assert.equal(phaseOf(state), "ready");
  assert.equal(state.caption, "");
});

test("states are values: no event changes the one before", () => {
  const freeze = (value) => {
    if (value && typeof value === "object") Object.values(Object.freeze(value)).forEach(freeze);
    return value;
  };
  const events = [...PLAYING, prompted("p2"), ...Object.keys(server).map((type) => received(type))];
  let state = freeze(initialState());
  for (const event of events) state = freeze(reduce(state, event));
  assert.ok(state.hasPicture);
});

test("every phase has its words", () => {
  const base = after(...PLAYING);
  for (const state of [initialState(), base, after(...PLAYING, status("parked"))]) {
    assert.notEqual(wordsFor(state, 0).badge, "");
  }
  assert.equal(sentence("the end"), "The end.");
  assert.equal(sentence("The end?"), "The end?");
  assert.equal(sentence("  "), "");
});

test("the facts say what is shown and how it comes", () => {
  const state = after(...PLAYING, received("answer"), received("statistics"));
  const facts = factsWords(state, "webrtc");
  assert.deepEqual(facts.slice(0, 3), ["256x160 at 16 fps", "H264 over WebRTC", "seed 7"]);
  assert.ok(factsWords(state, "websocket").includes("H.264 over WebSocket"));
  const measure = { measure: "rate", measure_reason: "blocks take 1.4 times their length" };
  const slow = reduce(state, received("statistics", measure));
  const said = "slower than real time: blocks take 1.4 times their length";
  assert.ok(factsWords(slow, "webrtc").includes(said));
  assert.deepEqual(factsWords(initialState(), "webrtc"), []);
});

test("over WebSocket the first frame of a prompt is known by its media time", () => {
  const { pts } = server.prompt_applied;
  let state = after(...PLAYING, prompted("p2", 0), received("prompt_applied", {}, 100));
  assert.equal(reduce(state, paintedAt(pts - 5625, 300)), state, "the frame before it");
  state = reduce(state, paintedAt(pts - 1, 400));
  assert.equal(state.measured?.latencyMs, 400, "a browser may round a media time");
});

test("a line for a place says how many are before, and ends with the stream", () => {
  const queued = after(WELCOME, prompted("p1"), received("queued", { position: 3, length: 4 }));
  assert.equal(phaseOf(queued), "queued");
  assert.equal(wordsFor(queued, 0).title, "All places are taken; 2 are before you.");
  assert.equal(wordsFor(queued, 0).action, "unqueue");
  const next = reduce(queued, received("queued", { position: 1, length: 4 }));
  assert.equal(wordsFor(next, 0).title, "All places are taken; you are next.");
  assert.equal(phaseOf(reduce(next, received("stream", { state: "starting" }))), "starting");
  assert.equal(phaseOf(reduce(queued, { type: "left" })), "ready");
  assert.equal(phaseOf(reduce(queued, error("busy", "start"))), "busy");
});

test("the time left to load is guessed from how far it came", () => {
  const at = (progress, nowMs) => received("loading", { progress }, nowMs);
  const loading = after(received("welcome", { loading: 0.1 }), at(0.1, 1000), at(0.3, 5000));
  assert.equal(timeLeftWords(loading, 5000), "about 14 s left");
  assert.equal(timeLeftWords(loading, 18_500), "a moment left");
  assert.equal(timeLeftWords(reduce(loading, at(1, 6000)), 6000), "");
  const early = after(received("welcome", { loading: 0 }), at(0, 0), at(0.5, 200));
  assert.equal(timeLeftWords(early, 200), "", "a fifth of a second tells nothing");
  const slow = after(received("welcome", { loading: 0 }), at(0, 0), at(0.1, 60_000));
  assert.equal(timeLeftWords(slow, 60_000), "about 9 min left");
});

test("a viewer may suggest while the director takes suggestions", () => {
  const watching = after(WELCOME, received("stream", { token: null }));
  assert.ok(!maySuggest(watching));
  assert.match(watchingWords(watching), /takes no suggestions/);
  const asked = reduce(watching, received("audience", { suggestions_open: true }));
  assert.ok(maySuggest(asked));
  assert.equal(watchingWords(asked), "");
  const waiting = reduce(asked, received("suggestions"));
  assert.deepEqual(waiting.suggestions, server.suggestions.suggestions);
  const closed = reduce(waiting, received("audience", { suggestions_open: false }));
  assert.deepEqual(closed.suggestions, []);
});

test("the direction comes and goes", () => {
  const watching = after(WELCOME, received("stream", { token: null }));
  const directing = reduce(watching, received("direction"));
  assert.ok(isDirector(directing));
  assert.equal(directing.notice?.text, "you direct now");
  assert.ok(!isDirector(reduce(directing, received("direction", { token: null }))));
});

test("a recording is one entry, however often it is told", () => {
  const state = after(
    ...PLAYING,
    received("recording", { state: "recording", seconds: 1 }),
    received("recording", { id: "r-2" }),
    received("recording", { seconds: 12.5 }),
  );
  assert.deepEqual(
    state.recordings.map(({ id, state: is, seconds }) => [id, is, seconds]),
    [
      ["r-1", "finished", 12.5],
      ["r-2", "finished", 12.5],
    ],
  );
  const other = reduce(state, received("stream", { id: "s-other" }));
  assert.deepEqual(other.recordings, [], "they belong to one stream");
});

test("the time of the stream stands still while it is paused", () => {
  const state = after(
    ...PLAYING,
    received("prompt_applied", { frame: 32 }, 1000),
    received("status", { state: "paused" }, 2000),
  );
  assert.equal(frameAt(state.ribbon, 9000), frameAt(state.ribbon, 2000));
  const playing = reduce(state, received("status", { state: "playing" }, 10_000));
  assert.equal(frameAt(playing.ribbon, 11_000) - frameAt(state.ribbon, 2000), 16);
});

test("slower than real time says why, where the server knows", () => {
  const measure = { playback_rate: 0.7, measure: "rate", measure_reason: "blocks take too long" };
  const slow = after(...PLAYING, received("statistics", measure));
  assert.equal(wordsFor(slow, 0).hint, "blocks take too long");
});

test("what is given up of the picture is said beside it", () => {
  const hints = ["none", "lead", "decoder", "steps", "rate"].map((measure) => {
    const told = received("statistics", { measure, measure_reason: "a block takes 130%" });
    return wordsFor(after(...PLAYING, told), 0).hint;
  });
  assert.deepEqual(hints, ["", "", "with the small decoder", "with fewer steps", ""]);
});

test("the waiting time between attempts doubles, is spread, and ends at ten seconds", () => {
  assert.equal(backoffMs(0, 0.5), 250);
  assert.equal(backoffMs(3, 0.5), 2000);
  assert.equal(backoffMs(40, 1), 10_000);
  assert.ok(backoffMs(2, 0) < backoffMs(2, 1));
});

test("up and down walk through the prompts and keep what was being typed", () => {
  const line = new PromptHistory(["one"]);
  line.add("two");
  line.add("two");
  assert.deepEqual(line.sent, ["one", "two"]);
  assert.equal(line.older("draft"), "two");
  assert.equal(line.older("two"), "one");
  assert.equal(line.older("one"), "one");
  assert.equal(line.newer("one"), "two");
  assert.equal(line.newer("two"), "draft");
  assert.equal(line.newer("draft"), "draft");
});

test("a missing picture means something only while the stream plays", () => {
  assert.equal(isPictureDue(after(WELCOME)), false);
  assert.equal(isPictureDue(after(WELCOME, received("stream", { state: "starting" }))), false);
  assert.equal(isPictureDue(after(...PLAYING, status("restoring"))), false);
  assert.equal(isPictureDue(after(...PLAYING, status("playing"))), true);
});

test("an address that names no stream is the first screen", async () => {
  Object.assign(globalThis, {
    location: { hash: "#%" },
    sessionStorage: { getItem: () => null },
  });
  const { rememberedStream } = await import("../../web/identity.js");
  assert.deepEqual(rememberedStream(), { stream: null, token: null });
  Object.assign(globalThis, { location: { hash: "#s-1" } });
  Object.assign(globalThis, { localStorage: { getItem: () => null } });
  assert.deepEqual(rememberedStream(), { stream: "s-1", token: null });
});

test("a link that carries the token directs, and is made of it", async () => {
  const { rememberedStream, shareLink } = await import("../../web/identity.js");
  Object.assign(globalThis, { location: new URL("http://here:1/room/?video=webrtc#s-1/t-0_k") });
  assert.deepEqual(rememberedStream(), { stream: "s-1", token: "t-0_k" });
  assert.equal(shareLink("s-1", "t-0_k", false), "http://here:1/room/#s-1/t-0_k");
  assert.equal(shareLink("s-1", null, true), "http://here:1/room/?clean=1#s-1");
});

test("who comes to a stream that plays sees its prompts move on at once", () => {
  const state = after(
    WELCOME,
    received("stream", { state: "playing", fps: 10 }, 1000),
    received("history", { frame: 30 }, 1000),
  );
  assert.equal(frameAt(state.ribbon, 2000), 40);
  const paused = after(
    WELCOME,
    received("stream", { state: "paused", fps: 10 }, 1000),
    received("history", { frame: 30 }, 1000),
  );
  assert.equal(frameAt(paused.ribbon, 2000), 30);
});

test("the name of a file at the beginning of a sentence stays as it is", () => {
  assert.equal(sentence("weights.pt is damaged"), "weights.pt is damaged.");
  assert.equal(sentence("stream.widht: unknown key"), "stream.widht: unknown key.");
  assert.equal(sentence("the GPU is full. stop others"), "The GPU is full. stop others.");
});

test("a publication is one entry, and says how it goes and where", () => {
  const state = after(
    ...PLAYING,
    received("publication", { state: "connecting" }),
    received("publication", { id: "w-2", state: "publishing", url: "https://b.example/whip" }),
    received("publication", { state: "waiting", detail: "no answer" }),
  );
  assert.deepEqual(state.publications.map(publicationWords), [
    "trying sfu.example again: no answer",
    "published to b.example",
  ]);
  const ended = received("publication", { state: "refused", url: "odd", detail: "403" });
  assert.equal(publicationWords(after(...PLAYING, ended).publications[0]), "refused by odd: 403");
  const other = reduce(state, received("stream", { id: "s-other" }));
  assert.deepEqual(other.publications, [], "they belong to one stream");
});

test("a publication that was ended is no entry any more", () => {
  const refused = received("publication", { id: "w-2", state: "refused", detail: "403" });
  const state = after(...PLAYING, received("publication"), refused);
  const left = reduce(state, received("publication", { id: "w-2", state: "ended", detail: "" }));
  assert.deepEqual(left.publications.map(({ id }) => id), ["w-1"]);
  const unknown = received("publication", { id: "w-3", state: "ended" });
  assert.deepEqual(reduce(left, unknown).publications, left.publications);
  const listed = [server.publication, { ...server.publication, id: "w-4", state: "ended" }];
  const learnt = reduce(left, { type: "published", publications: listed });
  assert.deepEqual(learnt.publications.map(({ id }) => id), ["w-1"]);
});
