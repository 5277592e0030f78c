/**
 * What the viewer takes away, or sends elsewhere: pictures, clips, recordings, publications.  Each
 * is asked of the server, told in a notice, and given to the browser to save.
 */

import * as api from "./api.js";
import { hostOf } from "./words.js";

const CLIP_S = 30;

/** @typedef {import("./protocol.js").Recording} Recording */

/** Owner: the page. */
export class Keepsakes {
  #identity;
  #dispatch;
  /** The recording that runs, and since when. @type {{id: string, sinceMs: number}|null} */
  #running = null;
  #isAsking = false;

  /**
   * @param {() => {stream: string|null, token: string|null}} identity
   * @param {(event: import("./state.js").Event) => void} dispatch
   */
  constructor(identity, dispatch) {
    this.#identity = identity;
    this.#dispatch = dispatch;
  }

  /** For how long this stream has been recorded; null: it is not. @param {number} nowMs */
  recordedS(nowMs) {
    return this.#running === null ? null : (nowMs - this.#running.sinceMs) / 1000;
  }

  /** Learn what was recorded, and where it is published, before this page came. */
  async learn() {
    const { stream, token } = this.#identity();
    if (stream === null) return;
    try {
      const recordings = await api.recordings(stream);
      if (stream !== this.#identity().stream) return;
      this.#dispatch({ type: "recorded", recordings });
      recordings.forEach((each) => this.follow(each));
      if (token === null) return;
      const publications = await api.publications({ stream, token });
      if (stream === this.#identity().stream) this.#dispatch({ type: "published", publications });
    } catch (error) {
      console.warn("recordings and publications are not known:", error);
    }
  }

  /** The server told of a recording. @param {Recording} told */
  follow(told) {
    if (told.state === "recording") {
      this.#running ??= { id: told.id, sinceMs: performance.now() - 1000 * told.seconds };
    } else if (told.id === this.#running?.id) {
      this.#running = null;
      if (told.state === "failed") this.#say("problem", `the recording failed: ${told.detail}`);
    }
  }

  /** The server told how publishing goes. @param {import("./protocol.js").Publication} told */
  followPublication({ state, url, detail }) {
    if (state === "refused") this.#say("problem", `not published to ${hostOf(url)}: ${detail}`);
  }

  /** Another stream, or none. */
  forget() {
    this.#running = null;
  }

  screenshot() {
    return this.#asked("saving the picture", async (stream) => {
      const picture = await api.screenshot(stream);
      const address = URL.createObjectURL(picture);
      save(address, `${stream}.png`);
      URL.revokeObjectURL(address);
      return "picture saved, with its recipe";
    });
  }

  clip() {
    return this.#asked("saving the last 30 seconds", async (stream, token) => {
      const clip = await api.saveLast({ stream, token }, CLIP_S);
      save(api.addressOf(clip.url), "");
      return `the last ${Math.round(clip.seconds)} s are saved`;
    });
  }

  toggleRecording() {
    const isRunning = this.#running !== null;
    return this.#asked(isRunning ? "finishing" : "recording begins", async (stream, token) => {
      const asked = isRunning ? api.stopRecording : api.startRecording;
      const told = await asked({ stream, token });
      this.follow(told);
      if (told.state !== "finished") return "recording";
      save(api.addressOf(told.url), "");
      return `${Math.round(told.seconds)} s are saved`;
    });
  }

  /**
   * @param {string} doing
   * @param {(stream: string, token: string|null) => Promise<string>} act  returns what was done
   */
  async #asked(doing, act) {
    const { stream, token } = this.#identity();
    if (stream === null || this.#isAsking) return;
    this.#isAsking = true;
    this.#say("progress", doing);
    try {
      this.#say("done", await act(stream, token));
    } catch (error) {
      this.#say("problem", error instanceof Error ? error.message : String(error));
    } finally {
      this.#isAsking = false;
    }
  }

  /** @param {import("./state.js").Notice["tone"]} tone @param {string} text */
  #say(tone, text) {
    this.#dispatch({ type: "noticed", notice: { tone, text } });
  }
}

/** @param {string} address @param {string} name  empty: as the server names it */
function save(address, name) {
  const link = document.createElement("a");
  link.href = address;
  link.download = name;
  link.click();
}
