/**
 * What the viewer is shown: one name for the whole state.  Pure.
 */

/**
 * @typedef {import("./state.js").State} State
 *
 * @typedef {"connecting"|"loading"|"ready"|"queued"|"starting"|"playing"|"slow"|"paused"|
 *   "restoring"|"parked"|"busy"|"lost"|"ended"|"failed"} Phase
 */

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
    if (state.place !== null) return "queued";
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
 * Whether what is typed is proposed to the director instead of played.
 *
 * @param {State} state
 */
export function maySuggest(state) {
  return !isDirector(state) && state.audience?.suggestions_open === true;
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

/** Phases in which there is something to steer. @type {ReadonlySet<Phase>} */
export const STEERABLE = new Set([
  "starting", "playing", "slow", "paused", "restoring", "parked",
]);

/** Phases in which a prompt cannot be sent. @type {ReadonlySet<Phase>} */
export const SILENT = new Set(["connecting", "lost", "ended", "failed", "queued"]);
