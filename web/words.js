/**
 * What the page says in each phase: one place for its sentences, pure functions of the state.
 */

import { isDirector, maySuggest, phaseOf } from "./phase.js";

/**
 * @typedef {import("./state.js").State} State
 *
 * @typedef {object} Words
 * @property {string} title       large; empty when the picture speaks for itself
 * @property {string} sentence    beneath the title
 * @property {string} code        stable code of a failure, else empty
 * @property {string} badge       the state in a few words, over the picture
 * @property {string} hint        beside the badge: why it is so
 * @property {"reconnect"|"retry"|"leave"|"unqueue"|"reload"|"inset"|null} action   the way out, as a button
 * @property {string} actionLabel
 */

const INVITATION = "Say what you want to see.";

/** @type {Record<string, string>} */
const WAYS_OUT = {
  weights_invalid: "Check the weights file on the server, then start the server again.",
  config_invalid: "Correct the configuration, then start the server again.",
  worker_start_failed: "The server's log has the reason; start the server again when it is mended.",
  out_of_memory: "Close other streams, or choose a smaller model, and start a new stream.",
  codec_unsupported: "Try another browser: this one takes neither VP8 nor H.264.",
  video_unreachable: "A firewall or a proxy between this browser and the server may block it.",
  video_unsupported: "Use a current Chrome, Edge, Firefox or Safari.",
  download_failed: "Check the server's network, or fetch the weights by hand; its log has the address.",
  refused: "Open the page under the address that the server printed.",
  message_invalid: "Page and server are of different versions.",
};

/** Failures after which a new stream on the same server has a chance. */
const STREAM_FAILURES = new Set([
  "engine_failed",
  "worker_died",
  "out_of_memory",
  "output_unwritable",
  "video_unreachable",
]);

/**
 * What is given up so that pictures come in time.
 *
 * @type {Record<import("./protocol.js").Statistics["measure"], string>}
 */
const MEASURES = {
  none: "",
  lead: "less video waits",
  decoder: "with the small decoder",
  steps: "with fewer steps",
  rate: "slower than real time",
};

/** Measures that can be seen in the picture. */
const SEEN_IN_PICTURE = new Set(["decoder", "steps"]);

/**
 * @param {State} state
 * @param {number} nowMs
 * @param {boolean} isOut   the picture is in a window of its own
 * @returns {Words}
 */
export function wordsFor(state, nowMs, isOut = false) {
  const said = wordsOf(state, nowMs);
  if (!isOut || said.title !== "") return said;
  return {
    ...said,
    title: "The picture is in a window of its own.",
    action: "inset",
    actionLabel: "Bring it back",
  };
}

/**
 * @param {State} state
 * @param {number} nowMs
 * @returns {Words}
 */
function wordsOf(state, nowMs) {
  const detail = state.stream?.detail ?? "";
  switch (phaseOf(state)) {
    case "connecting":
      return words(INVITATION, "Connecting to the server.", "connecting");
    case "loading":
      return state.caption === ""
        ? words(INVITATION, "The model is being loaded. You can type already.", "loading")
        : words(state.caption, "The model is being loaded; the picture follows.", "loading");
    case "ready":
      return words(
        INVITATION,
        "It plays for as long as you watch. Say something else, and it changes while it plays.",
        "ready",
      );
    case "queued":
      return {
        ...words(placeWords(state), "It begins by itself as soon as a place is free.", "in line"),
        action: "unqueue",
        actionLabel: "Leave the line",
      };
    case "starting":
      return words(state.caption, "Warming up: the first picture is being made.", "warming up");
    case "playing": {
      const measure = state.statistics?.measure ?? "none";
      const hint = SEEN_IN_PICTURE.has(measure) ? MEASURES[measure] : "";
      return { ...words("", "", isDirector(state) ? "playing" : "watching"), hint };
    }
    case "slow": {
      const rate = state.statistics?.playback_rate ?? 1;
      const hint = state.statistics?.measure_reason ?? "";
      return { ...words("", "", `${rate.toFixed(1)}x real time`), hint };
    }
    case "paused":
      return words("", "", "paused");
    case "restoring":
      return words("One moment, the picture comes back.", sentence(detail), "restoring");
    case "parked":
      return words("The stream waits.", "It goes on in a moment.", "waiting");
    case "busy":
      return {
        ...words("All places are taken.", sentence(state.failure?.message ?? ""), "busy"),
        action: "retry",
        actionLabel: "Try again",
      };
    case "lost":
      return {
        ...words("The connection was lost.", retryWords(state, nowMs), "reconnecting"),
        action: "reconnect",
        actionLabel: "Try now",
      };
    case "ended":
      return {
        ...words("The stream has ended.", sentence(detail), "ended"),
        action: "leave",
        actionLabel: "Start a new one",
      };
    case "failed":
      return failureWords(state);
  }
}

/** @param {string} title @param {string} sentence @param {string} badge @returns {Words} */
function words(title, sentence, badge) {
  return { title, sentence, code: "", badge, hint: "", action: null, actionLabel: "" };
}

/** @param {State} state */
function placeWords(state) {
  const position = state.place?.position ?? 1;
  if (position === 1) return "All places are taken; you are next.";
  return `All places are taken; ${position - 1} ${position === 2 ? "is" : "are"} before you.`;
}

/**
 * How long the model is still being loaded; empty while that cannot be said.
 *
 * @param {State} state
 * @param {number} nowMs
 */
export function timeLeftWords(state, nowMs) {
  if (state.loadingEndMs === null || state.loading >= 1) return "";
  const leftS = Math.ceil((state.loadingEndMs - nowMs) / 1000);
  if (leftS < 2) return "a moment left";
  return leftS < 90 ? `about ${leftS} s left` : `about ${Math.round(leftS / 60)} min left`;
}

/**
 * What a viewer may do here, in place of the prompt line; empty for who directs or suggests.
 *
 * @param {State} state
 */
export function watchingWords(state) {
  if (isDirector(state) || maySuggest(state)) return "";
  return "You are watching. The director of this stream steers it, and takes no suggestions now.";
}

/** @param {State} state @param {number} nowMs */
function retryWords(state, nowMs) {
  if (state.retryMs === null || state.retryMs - nowMs < 1000) return "Reconnecting now.";
  return `Reconnecting in ${Math.round((state.retryMs - nowMs) / 1000)} s.`;
}

/** @param {State} state @returns {Words} */
function failureWords(state) {
  const code = state.failure?.code ?? "internal";
  const way = WAYS_OUT[code] ?? "";
  const isOfStream = STREAM_FAILURES.has(code);
  return {
    title: "This did not work.",
    sentence: [sentence(state.failure?.message ?? ""), way].filter(Boolean).join(" "),
    code,
    badge: "failed",
    hint: "",
    action: isOfStream ? "leave" : "reload",
    actionLabel: isOfStream ? "Start a new stream" : "Reload the page",
  };
}

/**
 * A server's text as a sentence: capital first letter, full stop.  The name of a file or a setting
 * stays as it is written.
 *
 * @param {string} text
 */
export function sentence(text) {
  const trimmed = text.trim();
  if (trimmed === "") return "";
  const ended = /[.!?]$/.test(trimmed) ? trimmed : `${trimmed}.`;
  const isName = /^\S*[a-z0-9][._/:][a-z0-9]/i.test(ended);
  return isName ? ended : ended[0].toUpperCase() + ended.slice(1);
}

/** @param {string} url */
export function hostOf(url) {
  return URL.canParse(url) ? new URL(url).host : url;
}

/**
 * How publishing to a place goes.
 *
 * @param {import("./protocol.js").Publication} publication
 */
export function publicationWords({ url, state, detail }) {
  const place = hostOf(url);
  switch (state) {
    case "connecting":
      return `connecting to ${place}`;
    case "publishing":
      return `published to ${place}`;
    case "waiting":
      return `trying ${place} again: ${detail}`;
    case "refused":
      return `refused by ${place}: ${detail}`;
    case "ended":
      return `no longer published to ${place}`;
  }
}

/**
 * What the statistics say besides the plots.
 *
 * @param {State} state
 * @param {import("./player.js").Route} route
 * @returns {string[]}
 */
export function factsWords(state, route) {
  const there = state.statistics;
  if (there === null || state.stream === null) return [];
  const { width, height, fps, seed } = state.stream;
  const codec = route === "websocket" ? "H.264 over WebSocket" : `${state.codec ?? "video"} over WebRTC`;
  const measure =
    there.measure === "none" ? "" : `${MEASURES[there.measure]}: ${there.measure_reason}`;
  return [
    `${width}x${height} at ${fps} fps`,
    codec,
    `seed ${seed}`,
    `block ${there.block}`,
    `${there.dropped} dropped`,
    `${there.key_frames} key ${there.key_frames === 1 ? "frame" : "frames"}`,
    measure,
  ].filter(Boolean);
}
