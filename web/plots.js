/**
 * Small plots: what is kept of each measured quantity, and the line it makes.  Pure.
 */

/** So many of the newest values are kept: two minutes at one a second. */
export const KEPT = 120;
/** A plot is as wide as this many values at least. */
const SHORTEST = 30;

/** A missing value breaks the line.  @typedef {readonly (number|null)[]} Series */

/**
 * @param {Series} series
 * @param {number|null} value
 * @returns {Series}
 */
export function appended(series, value) {
  return [...series, value !== null && Number.isFinite(value) ? value : null].slice(-KEPT);
}

/**
 * The top of a plot's scale: a round number (1, 2 or 5 times a power of ten) not below any value,
 * nor below `atLeast`.  One scale for all series of a plot, so that they can be compared.
 *
 * @param {Series[]} all
 * @param {number} atLeast  more than 0
 */
export function scaleTop(all, atLeast) {
  const highest = Math.max(atLeast, ...all.flat().map((value) => value ?? 0));
  const power = 10 ** Math.floor(Math.log10(highest));
  const factor = [1, 2, 5, 10].find((each) => highest <= each * power * (1 + 1e-9)) ?? 10;
  return factor * power;
}

/**
 * The line of a series as an SVG path: the newest value at the right edge, 0 at the bottom.
 *
 * @param {Series} series
 * @param {number} top     value at the upper edge
 * @param {number} width
 * @param {number} height
 */
export function linePath(series, top, width, height) {
  const step = stepOf(series, width);
  let path = "";
  let isDown = false;
  series.forEach((value, index) => {
    if (value === null) {
      isDown = false;
      return;
    }
    const x = width - (series.length - 1 - index) * step;
    const y = height * (1 - Math.min(1, Math.max(0, value / top)));
    path += `${isDown ? "L" : "M"}${round(x)} ${round(y)}`;
    isDown = true;
  });
  return path;
}

/**
 * Single values, such as one measurement a prompt, as upright strokes.
 *
 * @param {Series} series
 * @param {number} top
 * @param {number} width
 * @param {number} height
 */
export function strokesPath(series, top, width, height) {
  const step = stepOf(series, width);
  return series
    .map((value, index) => {
      if (value === null) return "";
      const x = round(width - (series.length - 1 - index) * step);
      return `M${x} ${height}V${round(height * (1 - Math.min(1, value / top)))}`;
    })
    .join("");
}

/** @param {Series} series @param {number} width */
const stepOf = (series, width) => width / (Math.max(SHORTEST, series.length) - 1);

/** @param {number} value */
function round(value) {
  return Math.round(value * 10) / 10;
}
