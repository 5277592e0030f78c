/**
 * What the page knows, and how each event changes it: pure functions, no clock, no document.
 *
 * `reduce(state, event)` returns the next state; `phaseOf(state)` (phase.js) names what the viewer
 * is shown.  Times are milliseconds of one monotonic clock, handed in with the events.
 */

import { accepted, painted, prompted } from "./measure.js";
import { emptyRibbon, withHistory, withPrompt, withRate, withStatistics } from "./ribbon.js";

/**
 * @typedef {import("./protocol.js").ServerMessage} ServerMessage
 * @typedef {import("./protocol.js").Prompt} Prompt
 *
 * @typedef {object} Stream
 * @property {string} id
 * @property {string|null} token      null for a viewer, who may only watch
 * @property {number} seed
 * @property {number} width           px
 * @property {number} height          px
 * @property {number} fps             the stream's own rate
 * @property {import("./protocol.js").StreamState} state
 * @property {string} detail
 *
 * @typedef {object} Pending          the newest prompt sent, until its first frame is painted
 * @property {string} id
 * @property {string} text
 * @property {number} sentMs
 * @property {number|null} dueMs      when its first frame is expected
 * @property {boolean} isFirst        it starts the stream
 *
 * @typedef {object} Applied          a prompt whose first frame is on its way to the screen
 * @property {string} id
 * @property {string} text
 * @property {number|null} rtpTimestamp   what that frame carries; null: any next frame
 * @property {number} pts             its media time over WebSocket, in 1/90000 s
 * @property {number} appliedMs
 * @property {import("./protocol.js").Stages} stages   where its time went until it was encoded
 *
 * @typedef {object} Painted          a frame on screen, with the time it carries
 * @property {number|null} rtpTimestamp   over WebRTC
 * @property {number|null} pts            over WebSocket, in 1/90000 s
 * @property {number} nowMs
 *
 * @typedef {{tone: "progress"|"done"|"problem", text: string}} Notice
 * @typedef {{promptId: string, latencyMs: number,
 *   stages: import("./protocol.js").Stages|null}} Measured
 * @typedef {{kind: "busy"|"failed", code: string, message: string, about: string|null}} Failure
 *
 * @typedef {object} State
 * @property {"connecting"|"open"|"lost"} connection
 * @property {number|null} retryMs    when the next attempt to connect is made
 * @property {import("./protocol.js").Welcome|null} server
 * @property {number} loading         0..1
 * @property {string} stage
 * @property {{progress: number, ms: number}|null} loadingSince  the first progress that was told
 * @property {number|null} loadingEndMs  when the model is expected to be loaded
 * @property {Prompt|null} wanted     the first prompt, until the server has made a stream of it
 * @property {{position: number, length: number}|null} place  in the line for a stream
 * @property {Stream|null} stream
 * @property {boolean} hasPicture     a frame of this stream was painted
 * @property {string} caption         text of the prompt on screen
 * @property {Pending|null} pending
 * @property {Applied|null} applied
 * @property {Measured|null} measured the last measured prompt-to-picture time
 * @property {Notice|null} notice
 * @property {Failure|null} failure
 * @property {import("./protocol.js").Statistics|null} statistics
 * @property {boolean} isSlow
 * @property {string|null} codec
 * @property {import("./ribbon.js").Ribbon} ribbon
 * @property {import("./protocol.js").Audience|null} audience
 * @property {import("./protocol.js").Suggestion[]} suggestions
 * @property {import("./protocol.js").Recording[]} recordings   oldest first
 * @property {import("./protocol.js").Publication[]} publications   told to the director
 *
 * @typedef {{type: "received", message: ServerMessage, nowMs: number}
 *   | {type: "lost", retryMs: number}
 *   | {type: "retrying"}
 *   | {type: "prompted", prompt: Prompt, nowMs: number}
 *   | ({type: "painted"} & Painted)
 *   | {type: "video_renewed"}
 *   | {type: "reseeded", seed: number}
 *   | {type: "recorded", recordings: import("./protocol.js").Recording[]}
 *   | {type: "published", publications: import("./protocol.js").Publication[]}
 *   | {type: "noticed", notice: Notice|null}
 *   | {type: "failed", code: string, message: string}
 *   | {type: "retried"}
 *   | {type: "left"}} Event
 */

/** Codes after which the stream, or the server, cannot go on. */
const FATAL = new Set([
  "engine_failed",
  "worker_died",
  "worker_start_failed",
  "weights_invalid",
  "config_invalid",
  "download_failed",
  "out_of_memory",
  "output_unwritable",
  "codec_unsupported",
  "internal",
]);

/** Below this playback rate the picture counts as slow ... */
const SLOW_BELOW = 0.95;
/** ... until it is above this one again. */
const NORMAL_ABOVE = 0.98;

/** The time left to load is guessed once so much was loaded ... */
const GUESS_FROM = 0.05;
/** ... in so many milliseconds. */
const GUESS_AFTER_MS = 1000;

/** What belongs to one stream and to no other. */
const OF_STREAM = {
  hasPicture: false,
  caption: "",
  pending: null,
  applied: null,
  statistics: null,
  isSlow: false,
  codec: null,
  audience: null,
  suggestions: [],
  recordings: [],
  publications: [],
};

/** @returns {State} */
export function initialState() {
  return {
    ...OF_STREAM,
    connection: "connecting",
    retryMs: null,
    server: null,
    loading: 0,
    stage: "",
    loadingSince: null,
    loadingEndMs: null,
    wanted: null,
    place: null,
    stream: null,
    measured: null,
    notice: null,
    failure: null,
    ribbon: emptyRibbon(),
  };
}

/**
 * @param {State} state
 * @param {Event} event
 * @returns {State}
 */
export function reduce(state, event) {
  switch (event.type) {
    case "received":
      return receive(state, event.message, event.nowMs);
    case "lost":
      return { ...state, connection: "lost", retryMs: event.retryMs, place: null };
    case "retrying":
      return { ...state, retryMs: null };
    case "prompted":
      return prompted(state, event.prompt, event.nowMs);
    case "painted":
      return painted(state, event);
    case "video_renewed":
      // Another connection counts from another RTP time.
      return state.applied === null
        ? state
        : { ...state, applied: { ...state.applied, rtpTimestamp: null } };
    case "reseeded":
      return state.stream === null
        ? state
        : { ...state, stream: { ...state.stream, seed: event.seed } };
    case "recorded":
      return { ...state, recordings: event.recordings };
    case "published":
      return { ...state, publications: event.publications.filter(isStanding) };
    case "noticed":
      return { ...state, notice: event.notice };
    case "failed":
      return failed(state, event.code, event.message, null);
    case "retried":
      return { ...state, failure: null, notice: null };
    case "left":
      return withoutStream({ ...state, failure: null, notice: null, wanted: null });
  }
}

/**
 * @param {State} state
 * @param {ServerMessage} message
 * @param {number} nowMs
 * @returns {State}
 */
function receive(state, message, nowMs) {
  switch (message.type) {
    case "welcome":
      return {
        ...state,
        connection: "open",
        retryMs: null,
        server: message,
        loading: message.loading,
        loadingSince: null,
        loadingEndMs: null,
        // A failure is told again after the welcome if it still holds.
        failure: null,
      };
    case "loading":
      return loaded(state, message, nowMs);
    case "queued":
      return { ...state, place: { position: message.position, length: message.length } };
    case "stream":
      return attached(state, message, nowMs);
    case "answer":
      return { ...state, codec: message.codec };
    case "prompt_accepted":
      return accepted(state, message, nowMs);
    case "prompt_applied":
      return applying(state, message, nowMs);
    case "seed_applied":
      return reseeded(state, message.seed);
    case "status":
      return told(state, message, nowMs);
    case "statistics":
      return {
        ...state,
        statistics: message,
        isSlow: message.playback_rate < (state.isSlow ? NORMAL_ABOVE : SLOW_BELOW),
        ribbon: withStatistics(state.ribbon, message, state.stream?.fps ?? 16, nowMs),
      };
    case "history":
      return { ...state, ribbon: withHistory(state.ribbon, message, nowMs) };
    case "audience":
      return {
        ...state,
        audience: message,
        suggestions: message.suggestions_open ? state.suggestions : [],
      };
    case "suggestions":
      return { ...state, suggestions: message.suggestions };
    case "direction":
      return directed(state, message.token);
    case "recording":
      return { ...state, recordings: withOne(state.recordings, message) };
    case "publication":
      return { ...state, publications: withOne(state.publications, message).filter(isStanding) };
    case "pong":
      return state;
    case "error":
      return refused(state, message);
  }
}

/**
 * @param {State} state
 * @param {import("./protocol.js").Loading} message
 * @param {number} nowMs
 * @returns {State}
 */
function loaded(state, { progress, stage }, nowMs) {
  const since = state.loadingSince ?? { progress, ms: nowMs };
  const [part, tookMs] = [progress - since.progress, nowMs - since.ms];
  const isKnown = part >= GUESS_FROM && tookMs >= GUESS_AFTER_MS;
  return {
    ...state,
    loading: progress,
    stage,
    loadingSince: since,
    loadingEndMs: isKnown ? nowMs + ((1 - progress) * tookMs) / part : null,
  };
}

/**
 * @param {State} state
 * @param {import("./protocol.js").PromptApplied} message
 * @param {number} nowMs
 * @returns {State}
 */
function applying(state, message, nowMs) {
  const { prompt_id: id, text, block, frame } = message;
  const { rtp_timestamp: rtpTimestamp, pts } = message;
  return {
    ...state,
    applied: { id, text, rtpTimestamp, pts, appliedMs: nowMs, stages: message.stages_ms },
    ribbon: withPrompt(state.ribbon, { id, text, block, frame }, nowMs),
  };
}

/**
 * @param {State} state
 * @param {import("./protocol.js").Status} message
 * @param {number} nowMs
 * @returns {State}
 */
function told(state, message, nowMs) {
  if (state.stream === null) return state;
  const stream = { ...state.stream, state: message.state, detail: message.detail };
  const rate = message.state === "playing" ? stream.fps : 0;
  const next = { ...state, stream, ribbon: withRate(state.ribbon, rate, nowMs) };
  if (message.state !== "ended") return next;
  // Nothing that was on its way arrives any more.
  return { ...next, wanted: null, pending: null, applied: null, notice: null };
}

/**
 * @param {State} state
 * @param {import("./protocol.js").StreamInfo} message
 * @param {number} nowMs
 * @returns {State}
 */
function attached(state, message, nowMs) {
  const { id, token, seed, width, height, fps } = message;
  const isSame = state.stream?.id === id;
  // A stream that plays already tells no more that it does.
  const rate = message.state === "playing" ? fps : 0;
  const pending = state.pending?.isFirst ? state.pending : null;
  return {
    ...state,
    ...(isSame ? {} : OF_STREAM),
    ribbon: withRate(isSame ? state.ribbon : emptyRibbon(), rate, nowMs),
    wanted: null,
    place: null,
    stream: { id, token, seed, width, height, fps, state: message.state, detail: "" },
    caption: message.prompt.text,
    // What was under way when the connection broke cannot be measured any more.
    pending,
    applied: null,
    notice: state.pending === pending ? state.notice : null,
  };
}

/**
 * The picture began anew.  The director knows already, and was told so.
 *
 * @param {State} state
 * @param {number} seed
 * @returns {State}
 */
function reseeded(state, seed) {
  if (state.stream === null || state.stream.seed === seed) return state;
  const stream = { ...state.stream, seed };
  return { ...state, stream, notice: { tone: "done", text: `new seed ${seed}` } };
}

/**
 * The direction of the stream came to this page, or went to another.
 *
 * @param {State} state
 * @param {string|null} token
 * @returns {State}
 */
function directed(state, token) {
  if (state.stream === null) return state;
  const text = token === null ? "somebody else directs now" : "you direct now";
  return {
    ...state,
    stream: { ...state.stream, token },
    pending: token === null ? null : state.pending,
    notice: { tone: "done", text },
  };
}

/**
 * @template {{id: string}} T
 * @param {T[]} known
 * @param {T} told  in the place of what was told of it before
 */
function withOne(known, told) {
  if (!known.some(({ id }) => id === told.id)) return [...known, told];
  return known.map((each) => (each.id === told.id ? told : each));
}

/**
 * One that was ended is nothing to look after any more.
 *
 * @param {import("./protocol.js").Publication} publication
 */
function isStanding({ state }) {
  return state !== "ended";
}

/**
 * The server said no.
 *
 * @param {State} state
 * @param {import("./protocol.js").ServerError} error
 * @returns {State}
 */
function refused(state, error) {
  const { code, message, about } = error;
  /** @type {Notice} */
  const problem = { tone: "problem", text: message };
  if (FATAL.has(code)) return failed(state, code, message, about);
  if (about === "hello") {
    if (code === "stream_unknown") {
      const text = "That stream is over. Type a prompt to begin a new one.";
      return { ...withoutStream(state), notice: { tone: "problem", text } };
    }
    if (code === "not_director") return { ...state, notice: problem };
    return failed(state, code, message, about);
  }
  if (code === "busy" && (about === "start" || about === "offer")) {
    return { ...state, place: null, failure: { kind: "busy", code, message, about } };
  }
  if (about === "start") {
    return { ...state, wanted: null, pending: null, caption: "", place: null, notice: problem };
  }
  if (about === "set_prompt" || about === "pick") {
    return { ...state, pending: null, notice: problem };
  }
  // The video is asked for again; how that goes is told by the picture.
  if (about === "offer") return state;
  return { ...state, notice: problem };
}

/**
 * @param {State} state
 * @param {string} code
 * @param {string} message
 * @param {string|null} about
 * @returns {State}
 */
function failed(state, code, message, about) {
  return {
    ...state,
    wanted: null,
    place: null,
    pending: null,
    applied: null,
    failure: { kind: "failed", code, message, about },
  };
}

/** @param {State} state @returns {State} */
function withoutStream(state) {
  return { ...state, ...OF_STREAM, stream: null, place: null, ribbon: emptyRibbon() };
}
