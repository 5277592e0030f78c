/**
 * What the page knows, and how each event changes it: pure functions, no clock, no document.
 *
 * `reduce(state, event)` returns the next state; `phaseOf(state)` names what the viewer is shown.
 * Times are milliseconds of one monotonic clock, handed in with the events.
 */

/**
 * @typedef {import("./protocol.js").ServerMessage} ServerMessage
 * @typedef {import("./protocol.js").Prompt} Prompt
 *
 * @typedef {"connecting"|"loading"|"ready"|"starting"|"playing"|"slow"|"paused"|"restoring"|
 *   "parked"|"busy"|"lost"|"ended"|"failed"} Phase
 *
 * @typedef {object} Stream
 * @property {string} id
 * @property {string|null} token      null for a viewer, who may only watch
 * @property {number} seed
 * @property {number} width           px
 * @property {number} height          px
 * @property {import("./protocol.js").StreamState} state
 * @property {string} detail
 *
 * @typedef {object} Pending          the newest prompt sent, until its first frame is painted
 * @property {string} id
 * @property {number} sentMs
 * @property {boolean} isFirst        it starts the stream
 *
 * @typedef {object} Applied          a prompt whose first frame is on its way to the screen
 * @property {string} id
 * @property {string} text
 * @property {number|null} rtpTimestamp   what that frame carries; null: any next frame
 * @property {number} appliedMs
 *
 * @typedef {{tone: "progress"|"done"|"problem", text: string}} Notice
 * @typedef {{promptId: string, latencyMs: number}} Measured
 * @typedef {{kind: "busy"|"failed", code: string, message: string, about: string|null}} Failure
 *
 * @typedef {object} State
 * @property {"connecting"|"open"|"lost"} connection
 * @property {number|null} retryMs    when the next attempt to connect is made
 * @property {import("./protocol.js").Welcome|null} server
 * @property {number} loading         0..1
 * @property {string} stage
 * @property {Prompt|null} wanted     the first prompt, until the server has made a stream of it
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
 *
 * @typedef {{type: "received", message: ServerMessage, nowMs: number}
 *   | {type: "lost", retryMs: number}
 *   | {type: "retrying"}
 *   | {type: "prompted", prompt: Prompt, nowMs: number}
 *   | {type: "painted", rtpTimestamp: number|null, nowMs: number}
 *   | {type: "video_renewed"}
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
  "out_of_memory",
  "output_unwritable",
  "codec_unsupported",
  "internal",
]);

/** Below this playback rate the picture counts as slow ... */
const SLOW_BELOW = 0.95;
/** ... until it is above this one again. */
const NORMAL_ABOVE = 0.98;

/** A first frame that was not recognised by then is not waited for: its time means nothing. */
const RECOGNISED_WITHIN_MS = 5000;

/** @returns {State} */
export function initialState() {
  return {
    connection: "connecting",
    retryMs: null,
    server: null,
    loading: 0,
    stage: "",
    wanted: null,
    stream: null,
    hasPicture: false,
    caption: "",
    pending: null,
    applied: null,
    measured: null,
    notice: null,
    failure: null,
    statistics: null,
    isSlow: false,
    codec: null,
  };
}

/**
 * @param {State} state
 * @returns {Phase}
 */
export function phaseOf(state) {
  const { failure, stream } = state;
  if (failure?.kind === "failed") return "failed";
  if (state.connection === "lost") return "lost";
  if (state.connection === "connecting") return "connecting";
  if (failure?.kind === "busy") return "busy";
  if (stream === null) {
    if (state.loading < 1) return "loading";
    return state.wanted === null ? "ready" : "starting";
  }
  if (stream.state === "starting" && state.loading < 1) return "loading";
  if (stream.state === "playing" && !state.hasPicture) return "starting";
  if (stream.state === "playing" && state.isSlow) return "slow";
  return stream.state;
}

/**
 * Whether this page may steer: it owns the stream, or there is none yet.
 *
 * @param {State} state
 */
export function isDirector(state) {
  return state.stream === null || state.stream.token !== null;
}

/**
 * Whether the server sends pictures, so that their staying away means something.  While the model
 * is being loaded or brought back there are none.
 *
 * @param {State} state
 */
export function isPictureDue(state) {
  return state.stream?.state === "playing";
}

/**
 * Whether RTP time `a` is at or after `b`, modulo 2^32 (RFC 3550, section 5.1).
 *
 * @param {number} a
 * @param {number} b
 */
export function rtpReached(a, b) {
  return (a - b) >>> 0 < 2 ** 31;
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
      return { ...state, connection: "lost", retryMs: event.retryMs };
    case "retrying":
      return { ...state, retryMs: null };
    case "prompted":
      return prompted(state, event.prompt, event.nowMs);
    case "painted":
      return painted(state, event.rtpTimestamp, event.nowMs);
    case "video_renewed":
      // Another connection counts from another RTP time.
      return state.applied === null
        ? state
        : { ...state, applied: { ...state.applied, rtpTimestamp: null } };
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
        // A failure is told again after the welcome if it still holds.
        failure: null,
      };
    case "loading":
      return { ...state, loading: message.progress, stage: message.stage };
    case "stream":
      return attached(state, message);
    case "answer":
      return { ...state, codec: message.codec };
    case "prompt_accepted":
      if (message.prompt_id !== state.pending?.id) return state;
      return {
        ...state,
        notice: { tone: "progress", text: `applies in ${seconds(message.applies_in_s, 1)}` },
      };
    case "prompt_applied":
      return {
        ...state,
        applied: {
          id: message.prompt_id,
          text: message.text,
          rtpTimestamp: message.rtp_timestamp,
          appliedMs: nowMs,
        },
      };
    case "status":
      return told(state, message);
    case "statistics":
      return {
        ...state,
        statistics: message,
        isSlow: message.playback_rate < (state.isSlow ? NORMAL_ABOVE : SLOW_BELOW),
      };
    case "pong":
      return state;
    case "error":
      return refused(state, message);
  }
}

/**
 * @param {State} state
 * @param {import("./protocol.js").Status} message
 * @returns {State}
 */
function told(state, message) {
  if (state.stream === null) return state;
  const stream = { ...state.stream, state: message.state, detail: message.detail };
  if (message.state !== "ended") return { ...state, stream };
  // Nothing that was on its way arrives any more.
  return { ...state, stream, wanted: null, pending: null, applied: null, notice: null };
}

/**
 * @param {State} state
 * @param {import("./protocol.js").StreamInfo} message
 * @returns {State}
 */
function attached(state, message) {
  const { id, token, seed, width, height } = message;
  const isSame = state.stream?.id === id;
  const pending = state.pending?.isFirst ? state.pending : null;
  return {
    ...state,
    wanted: null,
    stream: { id, token, seed, width, height, state: message.state, detail: "" },
    hasPicture: isSame && state.hasPicture,
    caption: message.prompt.text,
    // What was under way when the connection broke cannot be measured any more.
    pending,
    applied: null,
    notice: state.pending === pending ? state.notice : null,
    statistics: isSame ? state.statistics : null,
    isSlow: isSame && state.isSlow,
  };
}

/**
 * @param {State} state
 * @param {Prompt} prompt
 * @param {number} nowMs
 * @returns {State}
 */
function prompted(state, prompt, nowMs) {
  const isFirst = state.stream === null;
  return {
    ...state,
    wanted: isFirst ? prompt : null,
    failure: state.failure?.kind === "busy" ? null : state.failure,
    caption: isFirst ? prompt.text : state.caption,
    pending: { id: prompt.id, sentMs: nowMs, isFirst },
    notice: isFirst ? null : { tone: "progress", text: "sending" },
  };
}

/**
 * A frame reached the screen.  Returns the same object when that changes nothing.
 *
 * @param {State} state
 * @param {number|null} rtpTimestamp
 * @param {number} nowMs
 * @returns {State}
 */
function painted(state, rtpTimestamp, nowMs) {
  if (state.stream === null) return state;
  let next = state.hasPicture ? state : { ...state, hasPicture: true };
  if (next.pending?.isFirst) {
    next = measuredAt(next, next.pending, nowMs, "first picture after");
  }
  const { applied } = next;
  if (applied === null) return next;
  const isUnknown = applied.rtpTimestamp === null || rtpTimestamp === null;
  const isOverdue = nowMs - applied.appliedMs > RECOGNISED_WITHIN_MS;
  const isHere = isUnknown || rtpReached(Number(rtpTimestamp), Number(applied.rtpTimestamp));
  if (!isHere && !isOverdue) return next;
  next = { ...next, applied: null, caption: applied.text };
  if (next.pending?.id !== applied.id) return next;
  if (isOverdue) {
    return { ...next, pending: null, notice: { tone: "done", text: "changed" } };
  }
  return measuredAt(next, next.pending, nowMs, "changed in");
}

/**
 * @param {State} state
 * @param {Pending} pending
 * @param {number} nowMs
 * @param {string} what
 * @returns {State}
 */
function measuredAt(state, pending, nowMs, what) {
  const latencyMs = Math.max(0, nowMs - pending.sentMs);
  return {
    ...state,
    pending: null,
    measured: { promptId: pending.id, latencyMs },
    notice: { tone: "done", text: `${what} ${seconds(latencyMs / 1000, 2)}` },
  };
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
    return { ...state, failure: { kind: "busy", code, message, about } };
  }
  if (about === "start") {
    return { ...state, wanted: null, pending: null, caption: "", notice: problem };
  }
  if (about === "set_prompt") return { ...state, pending: null, notice: problem };
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
    pending: null,
    applied: null,
    failure: { kind: "failed", code, message, about },
  };
}

/** @param {State} state @returns {State} */
function withoutStream(state) {
  return {
    ...state,
    stream: null,
    hasPicture: false,
    caption: "",
    pending: null,
    applied: null,
    statistics: null,
    isSlow: false,
    codec: null,
  };
}

/**
 * @param {number} value  s
 * @param {number} digits
 */
function seconds(value, digits) {
  return `${value.toFixed(digits)} s`;
}
