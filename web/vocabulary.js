/**
 * What the model at hand knows to draw, as the server lists it.  Pure.
 */

/**
 * @typedef {{name: string, wording: string}} Word       wording: how it is said in a prompt
 * @typedef {{title: string, words: Word[]}} Section
 */

/**
 * Read a list of the form `{attributes: {scene: {meadow: ["in a meadow", ...]}}}`.  What is not of
 * that form is left out, so that a newer server does no harm.
 *
 * @param {unknown} tree
 * @returns {Section[]}
 */
export function readVocabulary(tree) {
  return entriesOf(recordOf(tree).attributes).map(([title, classes]) => ({
    title,
    words: entriesOf(classes)
      .filter(([, wordings]) => Array.isArray(wordings) && typeof wordings[0] === "string")
      .map(([name, wordings]) => ({ name, wording: /** @type {string[]} */ (wordings)[0] })),
  })).filter((section) => section.words.length > 0);
}

/**
 * The prompt with a wording more: after a comma where it joins something, else as it is.
 *
 * @param {string} typed
 * @param {string} wording
 */
export function withWording(typed, wording) {
  const before = typed.trim();
  if (before === "") return wording;
  return /[,;]$/.test(before) ? `${before} ${wording}` : `${before}, ${wording}`;
}

/** @param {unknown} value @returns {Record<string, unknown>} */
function recordOf(value) {
  const isRecord = typeof value === "object" && value !== null && !Array.isArray(value);
  return isRecord ? /** @type {Record<string, unknown>} */ (value) : {};
}

/** @param {unknown} value */
const entriesOf = (value) => Object.entries(recordOf(value));
