/**
 * What is measured while a stream plays: one value of each a second.  Pure.
 */

import { appended } from "./plots.js";

/**
 * @typedef {import("./plots.js").Series} Series
 *
 * @typedef {object} Measured       what this page measured itself; null: not known
 * @property {number} fpsShown
 * @property {number|null} roundTripMs
 * @property {number|null} latencyMs   of a prompt shown since the last time
 *
 * @typedef {Record<"fpsGenerated"|"fpsShown"|"queuedS"|"blockMs"|"roundTripMs"|"bitrateKbps"|
 *   "latencyMs", Series>} Statistics
 *
 * @typedef {object} Plot
 * @property {string} name
 * @property {string} value         the newest, with its unit
 * @property {{series: Series, isSecond?: boolean}[]} lines
 * @property {boolean} isStrokes    single measurements, not a course
 * @property {number} atLeast       the least top of its scale
 */

/** @returns {Statistics} */
export function noStatistics() {
  return {
    fpsGenerated: [],
    fpsShown: [],
    queuedS: [],
    blockMs: [],
    roundTripMs: [],
    bitrateKbps: [],
    latencyMs: [],
  };
}

/**
 * @param {Statistics} kept
 * @param {import("./protocol.js").Statistics} there
 * @param {Measured} here
 * @returns {Statistics}
 */
export function withMeasured(kept, there, here) {
  return {
    fpsGenerated: appended(kept.fpsGenerated, there.fps_generated),
    fpsShown: appended(kept.fpsShown, here.fpsShown),
    queuedS: appended(kept.queuedS, there.queued_s),
    blockMs: appended(kept.blockMs, there.block_ms),
    roundTripMs: appended(kept.roundTripMs, here.roundTripMs),
    bitrateKbps: appended(kept.bitrateKbps, there.bitrate_kbps),
    latencyMs: appended(kept.latencyMs, here.latencyMs),
  };
}

/**
 * The plots, in the order in which they are shown.
 *
 * @param {Statistics} kept
 * @param {number} fps   the stream's own rate
 * @returns {Plot[]}
 */
export function plotsOf(kept, fps) {
  const { fpsGenerated, fpsShown, queuedS, blockMs, roundTripMs, bitrateKbps, latencyMs } = kept;
  // What could be made faster than needed says little; it is cut off well above what is shown.
  const made = fpsGenerated.map((value) => (value === null ? null : Math.min(value, 4 * fps)));
  return [
    {
      name: "fps shown / generated",
      value: `${words(fpsShown, 1)} / ${words(fpsGenerated, 0)}`,
      lines: [{ series: made, isSecond: true }, { series: fpsShown }],
      isStrokes: false,
      atLeast: fps,
    },
    plot("queue", `${words(queuedS, 2)} s`, queuedS, 1),
    plot("time of a block", `${words(blockMs, 0)} ms`, blockMs, 100),
    plot("round trip", `${words(roundTripMs, 0)} ms`, roundTripMs, 10),
    plot("bitrate", `${words(bitrateKbps, 0)} kbit/s`, bitrateKbps, 100),
    { ...plot("prompt to picture", latencyWords(latencyMs), latencyMs, 1000), isStrokes: true },
  ];
}

/** @param {string} name @param {string} value @param {Series} series @param {number} atLeast */
function plot(name, value, series, atLeast) {
  return { name, value, lines: [{ series }], isStrokes: false, atLeast };
}

/** @param {Series} series @param {number} digits */
function words(series, digits) {
  const last = series[series.length - 1];
  return last === undefined || last === null ? "–" : last.toFixed(digits);
}

/** The newest, however long ago. @param {Series} series */
function latencyWords(series) {
  const measured = series.filter((value) => value !== null);
  return measured.length === 0 ? "–" : `${(measured[measured.length - 1] / 1000).toFixed(2)} s`;
}
