/**
 * The menu: what is wanted now and then.
 */

import { scriptPath } from "./api.js";
import { element, write, writeAttribute } from "./dom.js";
import { STEERABLE, isDirector, phaseOf } from "./phase.js";
import { insetFault } from "./screen.js";

/** Owner: the page. */
export class MenuView {
  #anew = element("anew", HTMLButtonElement);
  #newSeed = element("new-seed", HTMLButtonElement);
  #seed = element("seed", HTMLInputElement);
  #script = element("script", HTMLAnchorElement);
  #inset = element("inset", HTMLButtonElement);
  #insetWords = element("inset-words", HTMLSpanElement);
  #end = element("end", HTMLButtonElement);
  #video;

  /**
   * @param {HTMLVideoElement} video
   * @param {{onSeed: (seed: number) => void, onEnd: () => void}} events
   */
  constructor(video, { onSeed, onEnd }) {
    this.#video = video;
    element("seed-form", HTMLFormElement).addEventListener("submit", (event) => {
      event.preventDefault();
      onSeed(Number(this.#seed.value));
    });
    this.#end.addEventListener("click", onEnd);
  }

  /** @param {import("./state.js").State} state @param {boolean} isAble  whether this page may steer */
  render(state, isAble) {
    const { stream } = state;
    this.#anew.disabled = this.#newSeed.disabled = !isAble;
    if (stream !== null && document.activeElement !== this.#seed) {
      this.#seed.value = String(stream.seed);
    }
    if (stream !== null) writeAttribute(this.#script, "href", scriptPath(stream.id));
    this.#renderInset();
    this.#end.disabled = stream === null || !STEERABLE.has(phaseOf(state));
    write(this.#end, isDirector(state) ? "End the stream" : "Leave the stream");
  }

  #renderInset() {
    const fault = insetFault(this.#video);
    const isOut = document.pictureInPictureElement === this.#video;
    writeAttribute(this.#inset, "aria-disabled", String(fault !== ""));
    writeAttribute(this.#inset, "aria-pressed", String(isOut));
    write(this.#insetWords, fault);
  }
}
