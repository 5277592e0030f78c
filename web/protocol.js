/**
 * The messages between page and server, both directions: the twin of `server/protocol.py`.
 *
 * One JSON object a message over one WebSocket.  This module knows their shapes and nothing else.
 */

export const PROTOCOL_VERSION = 1;

/**
 * @typedef {{kind: "cut"|"swap"|"recache"|"blend"|"scene", blocks: number}} Transition
 * @typedef {{id: string, text: string, transition: Transition | null}} Prompt
 *
 * @typedef {{type: "hello", version: number, stream: string|null, token: string|null,
 *   name: string|null}} Hello
 * @typedef {{type: "start", prompt: Prompt, seed: number|null, wait: boolean}} Start
 * @typedef {{type: "offer", sdp: string}} Offer
 * @typedef {{type: "set_prompt", prompt: Prompt}} SetPrompt
 * @typedef {{type: "set_seed", seed: number}} SetSeed
 * @typedef {{type: "pause"}} Pause
 * @typedef {{type: "resume"}} Resume
 * @typedef {{type: "stop"}} Stop
 * @typedef {{type: "ping", id: number}} Ping
 * @typedef {{type: "shown", prompt_id: string, latency_ms: number,
 *   jitter_buffer_ms: number|null}} Shown
 * @typedef {{type: "hand_over", to: string}} HandOver
 * @typedef {{type: "open_suggestions", is_open: boolean}} OpenSuggestions
 * @typedef {{type: "suggest", prompt: Prompt}} Suggest
 * @typedef {{type: "pick", suggestion_id: string}} Pick
 * @typedef {{type: "dismiss", suggestion_id: string}} Dismiss
 * @typedef {Hello|Start|Offer|SetPrompt|SetSeed|Pause|Resume|Stop|Ping|Shown|HandOver|
 *   OpenSuggestions|Suggest|Pick|Dismiss} ClientMessage
 *
 * @typedef {{urls: string, username: string|null, credential: string|null}} IceServer
 * @typedef {{bytes: number, width: number, height: number}} Opening
 * @typedef {{type: "welcome", version: number, server: string, model: string, title: string,
 *   examples: string[], transitions: string[], prompt_limit: number, loading: number,
 *   ice_servers: IceServer[], opening: Opening|null}} Welcome
 * @typedef {{type: "loading", progress: number, stage: string}} Loading
 * @typedef {{type: "queued", position: number, length: number}} Queued
 * @typedef {{type: "stream", id: string, token: string|null, model: string, seed: number,
 *   width: number, height: number, fps: number, prompt: Prompt, state: StreamState}} StreamInfo
 * @typedef {{type: "answer", sdp: string, codec: string}} Answer
 * @typedef {{type: "prompt_accepted", prompt_id: string, block: number, applies_in_s: number
 *   }} PromptAccepted
 * @typedef {{wait: number, text: number, block: number, decode: number, queue: number,
 *   encode: number}} Stages   ms
 * @typedef {{type: "prompt_applied", prompt_id: string, text: string, block: number,
 *   frame: number, rtp_timestamp: number|null, pts: number, stages_ms: Stages}} PromptApplied
 * @typedef {{type: "seed_applied", seed: number, block: number, frame: number}} SeedApplied
 * @typedef {{type: "status", state: StreamState, detail: string}} Status
 * @typedef {{type: "statistics", fps_generated: number, fps_played: number, playback_rate: number,
 *   queued_s: number, lead_s: number, block_ms: number, block: number, viewers: number,
 *   dropped: number, bitrate_kbps: number, key_frames: number, renditions: Rendition[],
 *   measure: "none"|"lead"|"decoder"|"steps"|"rate", measure_reason: string}} Statistics
 * @typedef {{codec: string, tier: "full"|"small", width: number, height: number, kbps: number,
 *   viewers: number}} Rendition
 * @typedef {{prompt_id: string, text: string, block: number, frame: number}} PastPrompt
 * @typedef {{type: "history", prompts: PastPrompt[], frame: number}} PromptHistory
 * @typedef {{id: string, name: string, is_director: boolean}} Member
 * @typedef {{type: "audience", you: string, viewers: number, members: Member[],
 *   suggestions_open: boolean}} Audience
 * @typedef {{id: string, text: string, by: string, name: string}} Suggestion
 * @typedef {{type: "suggestions", suggestions: Suggestion[]}} Suggestions
 * @typedef {{type: "direction", token: string|null}} Direction
 * @typedef {{type: "recording", id: string, state: "recording"|"finished"|"failed",
 *   detail: string, seconds: number, url: string}} Recording
 * @typedef {{type: "publication", id: string, url: string,
 *   state: "connecting"|"publishing"|"waiting"|"refused"|"ended", detail: string,
 *   attempts: number, retry_in_s: number|null}} Publication
 * @typedef {{type: "pong", id: number}} Pong
 * @typedef {{type: "error", code: string, message: string, about: string|null}} ServerError
 * @typedef {Welcome|Loading|Queued|StreamInfo|Answer|PromptAccepted|PromptApplied|SeedApplied|
 *   Status|Statistics|PromptHistory|Audience|Suggestions|Direction|Recording|Publication|Pong|
 *   ServerError} ServerMessage
 * @typedef {"starting"|"playing"|"paused"|"restoring"|"parked"|"ended"} StreamState
 */

export class ProtocolError extends Error {}

/**
 * @param {string|null} stream
 * @param {string|null} token
 * @param {string|null} name  what the audience is shown
 * @returns {Hello}
 */
export const hello = (stream, token, name = null) => ({
  type: "hello",
  version: PROTOCOL_VERSION,
  stream,
  token,
  name,
});

/**
 * @param {Prompt} prompt
 * @param {number|null} seed
 * @param {boolean} wait  in line, while all places are taken
 * @returns {Start}
 */
export const start = (prompt, seed, wait = true) => ({ type: "start", prompt, seed, wait });

/** @param {string} sdp @returns {Offer} */
export const offer = (sdp) => ({ type: "offer", sdp });

/** @param {Prompt} prompt @returns {SetPrompt} */
export const setPrompt = (prompt) => ({ type: "set_prompt", prompt });

/** @param {number} seed whole, 0 to 2^53 - 1  @returns {SetSeed} */
export const setSeed = (seed) => ({ type: "set_seed", seed });

/** @returns {Pause} */
export const pause = () => ({ type: "pause" });

/** @returns {Resume} */
export const resume = () => ({ type: "resume" });

/** @returns {Stop} */
export const stop = () => ({ type: "stop" });

/** @param {number} id @returns {Ping} */
export const ping = (id) => ({ type: "ping", id });

/**
 * @param {string} promptId
 * @param {number} latencyMs  from Enter to the picture
 * @param {number|null} jitterBufferMs  how long the browser held pictures back lately
 * @returns {Shown}
 */
export const shown = (promptId, latencyMs, jitterBufferMs = null) => ({
  type: "shown",
  prompt_id: promptId,
  latency_ms: latencyMs,
  jitter_buffer_ms: jitterBufferMs,
});

/** @param {string} to  an id of the audience  @returns {HandOver} */
export const handOver = (to) => ({ type: "hand_over", to });

/** @param {boolean} isOpen @returns {OpenSuggestions} */
export const openSuggestions = (isOpen) => ({ type: "open_suggestions", is_open: isOpen });

/** @param {Prompt} prompt @returns {Suggest} */
export const suggest = (prompt) => ({ type: "suggest", prompt });

/** @param {string} suggestionId @returns {Pick} */
export const pick = (suggestionId) => ({ type: "pick", suggestion_id: suggestionId });

/** @param {string} suggestionId @returns {Dismiss} */
export const dismiss = (suggestionId) => ({ type: "dismiss", suggestion_id: suggestionId });

/** @typedef {(value: unknown) => boolean} Check */

/** @type {Check} */
const text = (value) => typeof value === "string";
/** @type {Check} */
const number = (value) => typeof value === "number" && Number.isFinite(value);
/** @type {Check} */
const texts = (value) => Array.isArray(value) && value.every(text);
/** @type {Check} */
const flag = (value) => typeof value === "boolean";
/** @type {(check: Check) => Check} */
const listOf = (check) => (value) => Array.isArray(value) && value.every(check);
/** @type {(check: Check) => Check} */
const orNull = (check) => (value) => value === null || check(value);
/** @type {(...allowed: string[]) => Check} */
const oneOf =
  (...allowed) =>
  (value) =>
    typeof value === "string" && allowed.includes(value);
/** @type {(fields: Record<string, Check>) => Check} */
const record = (fields) => (value) =>
  typeof value === "object" &&
  value !== null &&
  Object.entries(fields).every(([name, check]) =>
    check(/** @type {Record<string, unknown>} */ (value)[name]),
  );

const state = oneOf("starting", "playing", "paused", "restoring", "parked", "ended");
const transition = record({
  kind: oneOf("cut", "swap", "recache", "blend", "scene"),
  blocks: number,
});
const prompt = record({ id: text, text, transition: orNull(transition) });

/** @type {Record<string, Record<string, Check>>} */
const SERVER_FIELDS = {
  welcome: {
    version: number,
    server: text,
    model: text,
    title: text,
    examples: texts,
    transitions: texts,
    prompt_limit: number,
    loading: number,
    ice_servers: listOf(
      record({ urls: text, username: orNull(text), credential: orNull(text) }),
    ),
    opening: orNull(record({ bytes: number, width: number, height: number })),
  },
  loading: { progress: number, stage: text },
  queued: { position: number, length: number },
  stream: {
    id: text,
    token: orNull(text),
    model: text,
    seed: number,
    width: number,
    height: number,
    fps: number,
    prompt,
    state,
  },
  answer: { sdp: text, codec: text },
  prompt_accepted: { prompt_id: text, block: number, applies_in_s: number },
  prompt_applied: {
    prompt_id: text,
    text,
    block: number,
    frame: number,
    rtp_timestamp: orNull(number),
    pts: number,
    stages_ms: record({
      wait: number,
      text: number,
      block: number,
      decode: number,
      queue: number,
      encode: number,
    }),
  },
  seed_applied: { seed: number, block: number, frame: number },
  status: { state, detail: text },
  statistics: {
    fps_generated: number,
    fps_played: number,
    playback_rate: number,
    queued_s: number,
    lead_s: number,
    block_ms: number,
    block: number,
    viewers: number,
    dropped: number,
    bitrate_kbps: number,
    key_frames: number,
    renditions: listOf(
      record({
        codec: text,
        tier: oneOf("full", "small"),
        width: number,
        height: number,
        kbps: number,
        viewers: number,
      }),
    ),
    measure: oneOf("none", "lead", "decoder", "steps", "rate"),
    measure_reason: text,
  },
  history: {
    prompts: listOf(record({ prompt_id: text, text, block: number, frame: number })),
    frame: number,
  },
  audience: {
    you: text,
    viewers: number,
    members: listOf(record({ id: text, name: text, is_director: flag })),
    suggestions_open: flag,
  },
  suggestions: { suggestions: listOf(record({ id: text, text, by: text, name: text })) },
  direction: { token: orNull(text) },
  recording: {
    id: text,
    state: oneOf("recording", "finished", "failed"),
    detail: text,
    seconds: number,
    url: text,
  },
  publication: {
    id: text,
    url: text,
    state: oneOf("connecting", "publishing", "waiting", "refused", "ended"),
    detail: text,
    attempts: number,
    retry_in_s: orNull(number),
  },
  pong: { id: number },
  error: { code: text, message: text, about: orNull(text) },
};

/**
 * Read a message of the server.  Fields that a newer server adds are ignored.
 *
 * @param {string} json
 * @returns {ServerMessage}
 * @throws {ProtocolError} naming the field that is missing or of the wrong type
 */
export function decodeServer(json) {
  /** @type {unknown} */
  let tree;
  try {
    tree = JSON.parse(json);
  } catch (error) {
    throw new ProtocolError(`not JSON: ${error instanceof Error ? error.message : error}`);
  }
  if (typeof tree !== "object" || tree === null || Array.isArray(tree)) {
    throw new ProtocolError("a message is a JSON object");
  }
  const message = /** @type {Record<string, unknown>} */ (tree);
  const type = typeof message.type === "string" ? message.type : "";
  if (!Object.hasOwn(SERVER_FIELDS, type)) throw new ProtocolError(`unknown message '${type}'`);
  for (const [name, check] of Object.entries(SERVER_FIELDS[type])) {
    if (!check(message[name])) {
      throw new ProtocolError(`${type}.${name}: found ${JSON.stringify(message[name])}`);
    }
  }
  return /** @type {ServerMessage} */ (tree);
}
