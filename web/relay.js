/**
 * Keeps the video over WebSocket alive: asks for it again until a picture comes, or gives up.
 */

import { backoffMs } from "./connection.js";
import { StreamedVideo } from "./fallback.js";

/** A connection that has brought no picture by then is made again. */
const PICTURE_WITHIN_MS = 8000;
/** After so many attempts in a row without a picture this way is blocked too. */
const ATTEMPTS = 4;

/**
 * @typedef {object} RelayEvents
 * @property {() => void} onRenewed       another connection begins
 * @property {(code: string, message: string) => void} onRefused   the server will not send
 * @property {() => void} onUnreachable   no picture after several attempts
 */

/** Owner: the player; one connection at a time; `connect` replaces what was there. */
export class Relay {
  #video;
  #events;
  /** @type {StreamedVideo|null} */
  #streamed = null;
  #url = "";
  #attempt = 0;
  #retryTimer = 0;

  /** @param {HTMLVideoElement} video @param {RelayEvents} events */
  constructor(video, events) {
    this.#video = video;
    this.#events = events;
  }

  /** Whether there is a connection, or one is being made. */
  get isOpen() {
    return this.#streamed !== null;
  }

  /** @param {string} url  the stream's video socket */
  connect(url) {
    this.#drop();
    this.#url = url;
    this.#events.onRenewed();
    this.#retryTimer = window.setTimeout(() => this.#retry(), PICTURE_WITHIN_MS);
    this.#streamed = new StreamedVideo(this.#video, url, {
      onOpen() {},
      onEnded: (error) => {
        if (error?.code === "broken") return this.#retry();
        this.#drop();
        if (error !== null) this.#events.onRefused(error.code, error.message);
      },
    });
  }

  /** A frame of this connection was painted: it works. */
  painted() {
    if (this.#streamed === null) return;
    this.#attempt = 0;
    window.clearTimeout(this.#retryTimer);
  }

  /** Close for good, or until `connect`. */
  close() {
    this.#drop();
    this.#attempt = 0;
  }

  #retry() {
    this.#drop();
    this.#attempt += 1;
    if (this.#attempt >= ATTEMPTS) {
      this.#attempt = 0;
      this.#events.onUnreachable();
      return;
    }
    const waitMs = backoffMs(this.#attempt, Math.random());
    this.#retryTimer = window.setTimeout(() => this.connect(this.#url), waitMs);
  }

  #drop() {
    window.clearTimeout(this.#retryTimer);
    this.#streamed?.close();
    this.#streamed = null;
  }
}
