/**
 * The panels that only tell: what can be said to the model, and what the keys do.
 */

import { button, element, make } from "./dom.js";
import { KEYS, PROMPT_KEYS } from "./keys.js";

/**
 * @param {import("./vocabulary.js").Section[]} sections
 * @param {(wording: string) => void} onChosen
 */
export function renderVocabulary(sections, onChosen) {
  const isThere = sections.length > 0;
  element("words-toggle", HTMLButtonElement).hidden = !isThere;
  element("menu-words", HTMLButtonElement).hidden = !isThere;
  element("sections", HTMLDivElement).replaceChildren(
    ...sections.map(({ title, words }) => {
      const section = make("section", "");
      const list = make("div", "word-list");
      list.append(...words.map(({ name, wording }) => word(name, wording, onChosen)));
      section.append(make("h3", "", title), list);
      return section;
    }),
  );
}

/** @param {string} name @param {string} wording @param {(wording: string) => void} onChosen */
function word(name, wording, onChosen) {
  const made = button("word", name, () => onChosen(wording));
  made.title = wording;
  return made;
}

export function renderKeys() {
  element("key-list", HTMLDListElement).replaceChildren(
    ...[...KEYS, ...PROMPT_KEYS].flatMap(({ name, words }) => {
      const term = make("dt", "");
      term.append(make("kbd", "", name));
      return [term, make("dd", "", words)];
    }),
  );
}
