/**
 * Draws who watches together, and what they suggest.
 */

import { button, element, keyed, make, write, writeAttribute } from "./dom.js";
import { isDirector, maySuggest } from "./phase.js";

/** A choice that the server has not confirmed by then was not heard. */
const ANSWERED_WITHIN_MS = 3000;

/**
 * @typedef {object} PeopleEvents
 * @property {(memberId: string) => void} onHandOver
 * @property {(isOpen: boolean) => void} onOpened       suggestions are taken, or no longer
 * @property {(suggestion: import("./protocol.js").Suggestion) => void} onPicked
 * @property {(suggestionId: string) => void} onDismissed
 * @property {(name: string) => void} onNamed
 */

/** Owner: the page. */
export class PeopleView {
  #toggle = element("people-toggle", HTMLButtonElement);
  #viewers = element("viewers", HTMLSpanElement);
  #title = element("people-title", HTMLHeadingElement);
  #members = element("members", HTMLUListElement);
  #choice = element("suggestions-choice", HTMLLabelElement);
  #open = element("suggestions-open", HTMLInputElement);
  #suggestions = element("suggestions", HTMLUListElement);
  #name = element("own-name", HTMLInputElement);
  #events;
  /** Who was pressed once for the direction: the second press hands it over. */
  #heir = "";
  /** What was chosen and until when it is shown, though the server has not said so yet. */
  #chosen = { isOpen: false, untilMs: 0 };

  /** @param {string} name @param {PeopleEvents} events */
  constructor(name, events) {
    this.#events = events;
    this.#name.value = name;
    this.#open.addEventListener("change", () => {
      const isOpen = this.#open.checked;
      this.#chosen = { isOpen, untilMs: performance.now() + ANSWERED_WITHIN_MS };
      events.onOpened(isOpen);
    });
    element("people", HTMLElement).addEventListener("toggle", () => (this.#heir = ""));
    element("name-form", HTMLFormElement).addEventListener("submit", (event) => {
      event.preventDefault();
      events.onNamed(this.#name.value.trim());
    });
  }

  /** @param {import("./state.js").State} state */
  render(state) {
    const { audience } = state;
    const viewers = audience?.viewers ?? state.statistics?.viewers ?? 0;
    const words = viewers === 1 ? "1 person watches" : `${viewers} people watch`;
    write(this.#viewers, viewers > 0 ? String(viewers) : "");
    writeAttribute(this.#toggle, "aria-label", words);
    write(this.#title, words);
    this.#choice.hidden = !isDirector(state);
    // The audience is told for other reasons too, and may not know of the choice yet.
    const isOpen = audience?.suggestions_open ?? false;
    if (isOpen === this.#chosen.isOpen) this.#chosen.untilMs = 0;
    this.#open.checked = performance.now() < this.#chosen.untilMs ? this.#chosen.isOpen : isOpen;
    this.#renderMembers(state);
    this.#renderSuggestions(state);
  }

  /** @param {import("./state.js").State} state */
  #renderMembers(state) {
    const { audience } = state;
    const mayLead = isDirector(state) && state.stream?.state !== "ended";
    keyed(
      this.#members,
      audience?.members ?? [],
      ({ id }) => id,
      ({ id }) => this.#member(id),
      (child, { id, name, is_director: directs }) => {
        const [label, role, handOver] = child.children;
        const who = name === "" ? "nameless" : name;
        write(label, id === audience?.you ? `${who} (you)` : who);
        label.classList.toggle("quiet", name === "");
        write(role, directs ? "directs" : "");
        handOver.toggleAttribute("hidden", !mayLead || directs || id === audience?.you);
        write(handOver, this.#heir === id ? "Really hand over?" : "Let them direct");
      },
    );
  }

  /** @param {string} id */
  #member(id) {
    const row = make("li", "member");
    const handOver = button("", "", () => {
      if (this.#heir === id) this.#events.onHandOver(id);
      this.#heir = this.#heir === id ? "" : id;
      write(handOver, this.#heir === id ? "Really hand over?" : "Let them direct");
    });
    row.append(make("span", ""), make("span", "role"), handOver);
    return row;
  }

  /** @param {import("./state.js").State} state */
  #renderSuggestions(state) {
    const mayLead = isDirector(state);
    this.#suggestions.hidden = state.suggestions.length === 0 || !(mayLead || maySuggest(state));
    keyed(
      this.#suggestions,
      state.suggestions,
      ({ id }) => id,
      (suggestion) => this.#suggestion(suggestion),
      (child) => {
        for (const press of child.querySelectorAll("button")) press.hidden = !mayLead;
      },
    );
  }

  /** @param {import("./protocol.js").Suggestion} suggestion */
  #suggestion(suggestion) {
    const { id, text, name } = suggestion;
    const chip = make("li", "suggestion");
    const play = button("suggestion-play", "Play", () => this.#events.onPicked(suggestion));
    play.ariaLabel = `Play: ${text}`;
    const drop = button("suggestion-drop", "×", () => this.#events.onDismissed(id));
    drop.ariaLabel = `Dismiss: ${text}`;
    const who = name === "" ? "somebody" : name;
    chip.append(make("span", "quiet", `${who}:`), make("span", "suggestion-text", text), play, drop);
    return chip;
  }
}
