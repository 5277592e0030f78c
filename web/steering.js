/**
 * What the director's buttons do to the stream, and the ways out of a state that cannot go on.
 */

import { STEERABLE, isDirector, phaseOf } from "./phase.js";
import * as protocol from "./protocol.js";

/** Owner: the page. */
export class Steering {
  #page;
  #onAskVideo;

  /**
   * @param {import("./promptline.js").Page} page
   * @param {() => void} onAskVideo   the video is to be asked for again
   */
  constructor(page, onAskVideo) {
    this.#page = page;
    this.#onAskVideo = onAskVideo;
  }

  /** Whether there is a stream, and this page steers it. */
  get isAble() {
    const state = this.#page.state();
    return state.stream !== null && isDirector(state) && STEERABLE.has(phaseOf(state));
  }

  togglePause() {
    if (!this.isAble) return;
    const isPaused = phaseOf(this.#page.state()) === "paused";
    this.#page.send(isPaused ? protocol.resume() : protocol.pause());
  }

  /** Begin the picture anew with the same seed. */
  anew() {
    const { stream } = this.#page.state();
    if (stream !== null) this.reseed(stream.seed, "the picture begins anew");
  }

  newSeed() {
    const seed = crypto.getRandomValues(new Uint32Array(1))[0];
    this.reseed(seed, `new seed ${seed}`);
  }

  /** Begin the picture anew. @param {number} seed @param {string} text  what the viewer is told */
  reseed(seed, text) {
    if (!this.isAble || !this.#page.send(protocol.setSeed(seed))) return;
    this.#page.dispatch({ type: "reseeded", seed });
    this.#page.dispatch({ type: "noticed", notice: { tone: "done", text } });
  }

  /** End the stream for everybody, or leave it. */
  end() {
    this.#page.send(protocol.stop());
    // The end is told by the server; a viewer leaves without one.
    if (!isDirector(this.#page.state())) this.#page.dispatch({ type: "left" });
  }

  /** Go to the first screen. */
  leave() {
    const { stream, place } = this.#page.state();
    const isAlive = stream !== null && stream.state !== "ended";
    if (isAlive || place !== null) this.#page.send(protocol.stop());
    this.#page.dispatch({ type: "left" });
  }

  /** Try again what there was no place for. */
  retry() {
    const { failure, wanted } = this.#page.state();
    this.#page.dispatch({ type: "retried" });
    if (failure?.about === "offer") this.#onAskVideo();
    else if (wanted !== null) this.#page.send(protocol.start(wanted, null));
  }
}
