/**
 * The way of a prompt from Enter to the screen, and how long it took.  Pure.
 *
 * The server names the first frame of a prompt by the time that the frame carries: its RTP time
 * over WebRTC, its media time over WebSocket.  The page measures when that frame is painted.
 */

/**
 * @typedef {import("./state.js").State} State
 * @typedef {import("./state.js").Painted} Painted
 */

/** A first frame that was not recognised by then is not waited for: its time means nothing. */
const RECOGNISED_WITHIN_MS = 5000;
/** Media times are compared with this margin, in 1/90000 s: browsers round them. */
const MARGIN = 450;

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
 * @param {import("./protocol.js").Prompt} prompt
 * @param {number} nowMs
 * @returns {State}
 */
export function prompted(state, prompt, nowMs) {
  const isFirst = state.stream === null;
  return {
    ...state,
    wanted: isFirst ? prompt : null,
    failure: state.failure?.kind === "busy" ? null : state.failure,
    caption: isFirst ? prompt.text : state.caption,
    pending: { id: prompt.id, text: prompt.text, sentMs: nowMs, dueMs: null, isFirst },
    notice: isFirst ? null : { tone: "progress", text: "sending" },
  };
}

/**
 * The server has taken the prompt.
 *
 * @param {State} state
 * @param {import("./protocol.js").PromptAccepted} message
 * @param {number} nowMs
 * @returns {State}
 */
export function accepted(state, message, nowMs) {
  if (message.prompt_id !== state.pending?.id) return state;
  return {
    ...state,
    pending: { ...state.pending, dueMs: nowMs + 1000 * message.applies_in_s },
    notice: { tone: "progress", text: `applies in ${seconds(message.applies_in_s, 1)}` },
  };
}

/**
 * A frame reached the screen.  Returns the same object when that changes nothing.
 *
 * @param {State} state
 * @param {Painted} frame
 * @returns {State}
 */
export function painted(state, frame) {
  if (state.stream === null) return state;
  const { nowMs } = frame;
  let next = state.hasPicture ? state : { ...state, hasPicture: true };
  if (next.pending?.isFirst) {
    const stages = next.applied?.id === next.pending.id ? next.applied.stages : null;
    next = measuredAt(next, next.pending, nowMs, "first picture after", stages);
  }
  const { applied } = next;
  if (applied === null) return next;
  const isOverdue = nowMs - applied.appliedMs > RECOGNISED_WITHIN_MS;
  if (!isReached(applied, frame) && !isOverdue) return next;
  next = { ...next, applied: null, caption: applied.text };
  if (next.pending?.id !== applied.id) return next;
  if (isOverdue) {
    return { ...next, pending: null, notice: { tone: "done", text: "changed" } };
  }
  return measuredAt(next, next.pending, nowMs, "changed in", applied.stages);
}

/**
 * Whether a painted frame is the named one, or later.  One that carries no time counts.
 *
 * @param {import("./state.js").Applied} applied
 * @param {Painted} frame
 */
function isReached(applied, { rtpTimestamp, pts }) {
  if (pts !== null) return pts >= applied.pts - MARGIN;
  if (applied.rtpTimestamp === null || rtpTimestamp === null) return true;
  return rtpReached(rtpTimestamp, applied.rtpTimestamp);
}

/**
 * @param {State} state
 * @param {import("./state.js").Pending} pending
 * @param {number} nowMs
 * @param {string} what
 * @param {import("./protocol.js").Stages|null} stages
 * @returns {State}
 */
function measuredAt(state, pending, nowMs, what, stages) {
  const latencyMs = Math.max(0, nowMs - pending.sentMs);
  return {
    ...state,
    pending: null,
    measured: { promptId: pending.id, latencyMs, stages },
    notice: { tone: "done", text: `${what} ${seconds(latencyMs / 1000, 2)}` },
  };
}

/**
 * @param {number} value  s
 * @param {number} digits
 */
function seconds(value, digits) {
  return `${value.toFixed(digits)} s`;
}
