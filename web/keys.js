/**
 * The keys of the page: one table, for what they do and for the list that the page shows.
 */

/**
 * @typedef {"prompt"|"pause"|"anew"|"seed"|"screenshot"|"clip"|"record"|"share"|"people"|
 *   "vocabulary"|"opening"|"statistics"|"inset"|"fullscreen"|"menu"|"keys"} Action
 *
 * @typedef {object} Key
 * @property {string} key         as `KeyboardEvent.key` names it
 * @property {string} name        as people name it
 * @property {Action} action
 * @property {string} words       what it does
 */

/** @type {readonly Key[]} */
export const KEYS = [
  { key: "/", name: "/", action: "prompt", words: "type a prompt" },
  { key: " ", name: "space", action: "pause", words: "pause, go on" },
  { key: "a", name: "a", action: "anew", words: "begin the picture anew" },
  { key: "n", name: "n", action: "seed", words: "another seed" },
  { key: "c", name: "c", action: "clip", words: "save the last 30 seconds" },
  { key: "r", name: "r", action: "record", words: "record, stop recording" },
  { key: "s", name: "s", action: "screenshot", words: "save the picture" },
  { key: "l", name: "l", action: "share", words: "share the link" },
  { key: "w", name: "w", action: "people", words: "who watches" },
  { key: "v", name: "v", action: "vocabulary", words: "what can I say?" },
  { key: "o", name: "o", action: "opening", words: "begin with a picture or clip" },
  { key: "i", name: "i", action: "statistics", words: "statistics" },
  { key: "p", name: "p", action: "inset", words: "picture in picture" },
  { key: "f", name: "f", action: "fullscreen", words: "fullscreen" },
  { key: "m", name: "m", action: "menu", words: "more" },
  { key: "?", name: "?", action: "keys", words: "these keys" },
];

/** Keys of the prompt line, for the list alone. */
export const PROMPT_KEYS = [
  { name: "Enter", words: "send the prompt" },
  { name: "↑ ↓", words: "earlier prompts" },
  { name: "Esc", words: "leave the line, close a panel" },
];

/**
 * What a key press asks for; null: nothing of the page's.  A press that belongs to a field, a
 * button or the browser is left alone.
 *
 * @param {{key: string, ctrlKey: boolean, metaKey: boolean, altKey: boolean, repeat: boolean}} press
 * @param {"field"|"button"|"page"} where
 * @returns {Action|null}
 */
export function actionOf(press, where) {
  if (where === "field" || press.ctrlKey || press.metaKey || press.altKey || press.repeat) {
    return null;
  }
  if (where === "button" && press.key === " ") return null;
  return KEYS.find(({ key }) => key === press.key)?.action ?? null;
}
