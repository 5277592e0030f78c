/**
 * Draws the ribbon: a piece for each prompt, a line for now, and what is on its way.
 */

import { element, keyed, make, write, writeAttribute } from "./dom.js";
import { clockWords, layout } from "./ribbon.js";

/** Pieces narrower than this carry no words, in pixels: the time and some letters must fit. */
const WORDS_FROM_PX = 88;

/** Owner: the page. */
export class RibbonView {
  #root = element("ribbon", HTMLOListElement);
  #onChosen;
  #now = make("li", "ribbon-now");
  #coming = make("li", "ribbon-coming");

  /** @param {(text: string) => void} onChosen  a prompt of the past was pressed */
  constructor(onChosen) {
    this.#onChosen = onChosen;
    this.#now.dataset.key = "now";
    this.#now.ariaHidden = "true";
    this.#coming.dataset.key = "coming";
  }

  /**
   * @param {import("./state.js").State} state
   * @param {number} nowMs
   */
  render({ ribbon, stream, pending, hasPicture }, nowMs) {
    this.#root.hidden = stream === null || !hasPicture || ribbon.prompts.length === 0;
    if (this.#root.hidden || stream === null) return;
    const isComing = pending !== null && !ribbon.prompts.some(({ id }) => id === pending.id);
    const inS = Math.max(0, ((pending?.dueMs ?? nowMs) - nowMs) / 1000);
    const coming = isComing ? { text: pending.text, inS } : null;
    const { segments, now, coming: next } = layout(ribbon, stream.fps, nowMs, coming);
    /** @type {({key: string} & Partial<import("./ribbon.js").Segment>)[]} */
    const pieces = segments.map((segment) => ({ key: segment.id, ...segment }));
    pieces.push({ key: "now" });
    if (next !== null) pieces.push({ key: "coming" });
    const widthPx = this.#root.clientWidth;
    keyed(
      this.#root,
      pieces,
      ({ key }) => key,
      ({ key }) => {
        if (key === "now") return this.#now;
        return key === "coming" ? this.#coming : this.#piece();
      },
      (child, { key, ...segment }) => {
        if (key === "now" || key === "coming") return;
        renderPiece(child, /** @type {import("./ribbon.js").Segment} */ (segment), widthPx);
      },
    );
    this.#now.style.left = percent(now);
    if (next !== null) {
      this.#coming.style.left = percent(next.from);
      write(this.#coming, next.text);
    }
  }

  #piece() {
    const piece = make("li", "ribbon-piece");
    const button = make("button", "");
    button.type = "button";
    button.append(make("time", ""), " ", make("span", ""));
    button.addEventListener("click", () => this.#onChosen(button.lastElementChild?.textContent ?? ""));
    piece.append(button);
    return piece;
  }
}

/**
 * @param {HTMLElement} piece
 * @param {import("./ribbon.js").Segment} segment
 * @param {number} widthPx   of the ribbon
 */
function renderPiece(piece, { text, from, to, startS, isCurrent, isCutOff }, widthPx) {
  piece.style.left = percent(from);
  piece.style.width = percent(Math.max(0, to - from));
  piece.toggleAttribute("data-current", isCurrent);
  piece.toggleAttribute("data-cut-off", isCutOff);
  piece.toggleAttribute("data-wordless", (to - from) * widthPx < WORDS_FROM_PX);
  const [button] = piece.children;
  const [time, words] = button.children;
  write(time, clockWords(startS));
  write(words, text);
  writeAttribute(button, "title", `${clockWords(startS)}  ${text}`);
  writeAttribute(button, "aria-label", `${clockWords(startS)} ${text}`);
  if (isCurrent) writeAttribute(button, "aria-current", "true");
  else button.removeAttribute("aria-current");
}

/** @param {number} part */
const percent = (part) => `${(100 * part).toFixed(2)}%`;
