/**
 * What the page says in each phase: one place for its sentences, pure functions of the state.
 */

import { phaseOf } from "./state.js";

/**
 * @typedef {import("./state.js").State} State
 *
 * @typedef {object} Words
 * @property {string} title       large; empty when the picture speaks for itself
 * @property {string} sentence    beneath the title
 * @property {string} code        stable code of a failure, else empty
 * @property {string} badge       the state in a few words, over the picture
 * @property {"reconnect"|"retry"|"leave"|"reload"|null} action   the way out, as a button
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
  video_unreachable: "A firewall may block UDP between this browser and the server.",
  webrtc_missing: "Use a current Chrome, Edge, Firefox or Safari.",
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
 * @param {State} state
 * @param {number} nowMs
 * @returns {Words}
 */
export function wordsFor(state, nowMs) {
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
    case "starting":
      return words(state.caption, "Making the first picture.", "making the first picture");
    case "playing":
      return words("", "", state.stream?.token === null ? "watching" : "playing");
    case "slow": {
      const rate = state.statistics?.playback_rate ?? 1;
      return words("", "", `${rate.toFixed(1)}x real time`);
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
        code: "busy",
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
  return { title, sentence, code: "", badge, action: null, actionLabel: "" };
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
    action: isOfStream ? "leave" : "reload",
    actionLabel: isOfStream ? "Start a new stream" : "Reload the page",
  };
}

/**
 * A server's text as a sentence: capital first letter, full stop.
 *
 * @param {string} text
 */
export function sentence(text) {
  const trimmed = text.trim();
  if (trimmed === "") return "";
  const ended = /[.!?]$/.test(trimmed) ? trimmed : `${trimmed}.`;
  return ended[0].toUpperCase() + ended.slice(1);
}

/**
 * The line of statistics, part by part.
 *
 * @param {State} state
 * @param {{fpsShown: number, roundTripMs: number|null}} here   what this page measured itself
 * @returns {string[]}
 */
export function statisticsWords(state, here) {
  const there = state.statistics;
  if (there === null) return [];
  return [
    `${here.fpsShown.toFixed(1)} fps shown`,
    `${there.fps_generated.toFixed(there.fps_generated < 100 ? 1 : 0)} fps generated`,
    `${there.queued_s.toFixed(2)} s queued`,
    here.roundTripMs === null ? "" : `${Math.round(here.roundTripMs)} ms round trip`,
    `${there.dropped} dropped`,
    `${Math.round(there.bitrate_kbps)} kbit/s`,
  ].filter(Boolean);
}
