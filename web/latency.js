/**
 * The times from a prompt to its first picture: how they are spread, and where the last one went.
 * Pure.
 */

/**
 * @typedef {import("./protocol.js").Stages} Stages
 *
 * @typedef {object} Way           of one prompt to the screen
 * @property {number} latencyMs    from Enter to the picture
 * @property {Stages|null} stages  as far as the server knows; null: unknown
 */

/** So many of the newest are kept. */
const KEPT = 256;
/** Stages shorter than this are left out, in ms. */
const WORTH_TELLING_MS = 1;

/** In their order, under the names that people read. @type {(keyof Stages)[]} */
const STAGES = ["wait", "text", "block", "decode", "queue", "encode"];

/** @param {readonly Way[]} ways @param {Way} way @returns {Way[]} */
export function withWay(ways, way) {
  return [...ways, way].slice(-KEPT);
}

/** @param {readonly Way[]} ways */
export function spreadWords(ways) {
  if (ways.length === 0) return "";
  const sorted = ways.map(({ latencyMs }) => latencyMs).sort((a, b) => a - b);
  const count = ways.length === 1 ? "1 prompt" : `${ways.length} prompts`;
  return `of ${count}: median ${quantile(sorted, 0.5)}, p95 ${quantile(sorted, 0.95)}`;
}

/**
 * The stages of a way, in order.  What the server does not know of is the network, the browser and
 * the screen.
 *
 * @param {Way} way
 * @returns {{name: string, ms: number}[]}
 */
export function stagesOf({ latencyMs, stages }) {
  if (stages === null) return [];
  const known = STAGES.map((name) => ({ name, ms: stages[name] }));
  const rest = latencyMs - known.reduce((sum, { ms }) => sum + ms, 0);
  return [...known, { name: "screen", ms: rest }].filter(({ ms }) => ms >= WORTH_TELLING_MS);
}

/** @param {{name: string, ms: number}[]} stages */
export function stagesWords(stages) {
  const told = stages.map(({ name, ms }) => `${name} ${Math.round(ms)}`);
  return told.length === 0 ? "" : `${told.join(" · ")} ms`;
}

/**
 * Between the two values that are nearest, as `streamer_prompt_to_picture_seconds` has it.
 *
 * @param {number[]} sorted  ms, at least one
 * @param {number} part
 */
function quantile(sorted, part) {
  const place = part * (sorted.length - 1);
  const [below, above] = [sorted[Math.floor(place)], sorted[Math.ceil(place)]];
  return `${((below + (above - below) * (place % 1)) / 1000).toFixed(2)} s`;
}
