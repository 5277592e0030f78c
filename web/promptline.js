/**
 * The prompt line: what is typed becomes a prompt, or a suggestion to the director.
 */

import { PromptHistory } from "./history.js";
import { isDirector, maySuggest } from "./phase.js";
import * as protocol from "./protocol.js";
import { withWording } from "./vocabulary.js";

const BLEND_BLOCKS = 4;
const HISTORY_KEY = "streamer.prompts";

/**
 * @typedef {object} Page
 * @property {() => import("./state.js").State} state
 * @property {(event: import("./state.js").Event) => void} dispatch
 * @property {(message: import("./protocol.js").ClientMessage) => boolean} send
 */

/** Owner: the page. */
export class PromptLine {
  #parts;
  #page;
  #opening;
  #sent = new PromptHistory(JSON.parse(sessionStorage.getItem(HISTORY_KEY) ?? "[]"));

  /**
   * @param {{form: HTMLFormElement, prompt: HTMLInputElement, transition: HTMLSelectElement,
   *   send: HTMLButtonElement, examples: HTMLElement}} parts
   * @param {Page} page
   * @param {{isThere: boolean, begin: (prompt: string) => Promise<boolean>}} opening
   *   the file that the next prompt begins a stream with, if there is one
   */
  constructor(parts, page, opening) {
    this.#parts = parts;
    this.#page = page;
    this.#opening = opening;
    parts.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit(parts.prompt.value);
    });
    parts.prompt.addEventListener("keydown", (event) => this.#press(event));
    parts.examples.addEventListener("click", (event) => {
      if (event.target instanceof HTMLButtonElement) this.#submit(event.target.textContent ?? "");
    });
  }

  /** Put a text into the line, to be changed before it is sent. @param {string} text */
  fill(text) {
    this.#parts.prompt.value = text;
    this.#parts.prompt.focus();
  }

  /** @param {string} wording  joins what stands there */
  add(wording) {
    this.#parts.prompt.value = withWording(this.#parts.prompt.value, wording);
  }

  focus() {
    this.#parts.prompt.focus({ preventScroll: true });
  }

  /** Play a suggestion. @param {import("./protocol.js").Suggestion} suggestion */
  pick({ id, text }) {
    const prompt = { id, text, transition: null };
    this.#page.dispatch({ type: "prompted", prompt, nowMs: performance.now() });
    this.#page.send(protocol.pick(id));
  }

  /** @param {KeyboardEvent} event */
  #press(event) {
    const { prompt } = this.#parts;
    if (event.key === "Escape") prompt.blur();
    // The key that leads to the line, pressed once more.
    if (event.key === "/" && prompt.value === "") event.preventDefault();
    if (event.key !== "ArrowUp" && event.key !== "ArrowDown") return;
    event.preventDefault();
    const walk = event.key === "ArrowUp" ? "older" : "newer";
    prompt.value = this.#sent[walk](prompt.value);
  }

  /** @param {string} text */
  #submit(text) {
    const wish = text.trim();
    const { form, send } = this.#parts;
    if (form.hidden || send.disabled) return;
    if (this.#opening.isThere) {
      void this.#opening.begin(wish).then((hasBegun) => hasBegun && this.#keep(wish));
      return;
    }
    if (wish === "") return;
    const state = this.#page.state();
    if (isDirector(state)) this.#play(wish, state.stream === null);
    else if (!maySuggest(state) || !this.#suggest(wish)) return;
    this.#keep(wish);
  }

  /** It was sent: remember it, and make room for the next. @param {string} wish */
  #keep(wish) {
    this.#sent.add(wish);
    sessionStorage.setItem(HISTORY_KEY, JSON.stringify(this.#sent.sent));
    this.#parts.prompt.value = "";
  }

  /** @param {string} text @param {boolean} isFirst  it starts the stream */
  #play(text, isFirst) {
    const kind = /** @type {import("./protocol.js").Transition["kind"]|""} */ (
      this.#parts.transition.value
    );
    const blocks = kind === "blend" ? BLEND_BLOCKS : 1;
    const transition = isFirst || kind === "" ? null : { kind, blocks };
    const prompt = { id: newPromptId(), text, transition };
    this.#page.dispatch({ type: "prompted", prompt, nowMs: performance.now() });
    this.#page.send(isFirst ? protocol.start(prompt, null) : protocol.setPrompt(prompt));
  }

  /** @param {string} text */
  #suggest(text) {
    const prompt = { id: newPromptId(), text, transition: null };
    if (!this.#page.send(protocol.suggest(prompt))) return false;
    const notice = { tone: /** @type {const} */ ("done"), text: "suggested to the director" };
    this.#page.dispatch({ type: "noticed", notice });
    return true;
  }
}

function newPromptId() {
  const words = crypto.getRandomValues(new Uint32Array(2));
  return `p-${[...words].map((word) => word.toString(36)).join("")}`;
}
