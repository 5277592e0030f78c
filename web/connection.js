/**
 * The control connection: one WebSocket, kept alive, opened again with back-off when it breaks.
 */

import { ProtocolError, decodeServer, ping } from "./protocol.js";

const PING_EVERY_MS = 2000;
/** A ping unanswered for so long means that the other side is gone. */
const SILENCE_MS = 6000;
/** WebSocket close code of a server that does not serve this page's origin. */
const CLOSE_REFUSED = 1008;

/**
 * How long to wait before attempt number `attempt` (from 0): doubling, at most 8 s, spread.
 *
 * @param {number} attempt
 * @param {number} random  0..1
 */
export function backoffMs(attempt, random) {
  return Math.min(8000, 250 * 2 ** attempt) * (0.75 + 0.5 * random);
}

/**
 * @typedef {object} ConnectionEvents
 * @property {() => void} onOpen
 * @property {(message: import("./protocol.js").ServerMessage) => void} onMessage
 * @property {(retryMs: number) => void} onLost     retryMs: when it is tried again
 * @property {() => void} onRetrying
 * @property {(reason: string) => void} onRefused   the server will not have this page
 */

/** Owner: the page, from load to unload. */
export class ControlConnection {
  /** Round trip of the last ping in milliseconds, null before the first answer. */
  roundTripMs = /** @type {number|null} */ (null);

  #url;
  #events;
  /** @type {WebSocket|null} */
  #socket = null;
  #attempt = 0;
  #retryTimer = 0;
  #pingTimer = 0;
  #pingId = 0;
  /** @type {number|null} */
  #pingSentMs = null;

  /** @param {string} url @param {ConnectionEvents} events */
  constructor(url, events) {
    this.#url = url;
    this.#events = events;
  }

  /** Connect now, whatever was there before. */
  open() {
    this.close();
    const socket = new WebSocket(this.#url);
    this.#socket = socket;
    socket.onopen = () => {
      this.#pingTimer = window.setInterval(() => this.#beat(), PING_EVERY_MS);
      this.#events.onOpen();
      this.#beat();
    };
    socket.onmessage = (event) => this.#take(event.data);
    socket.onclose = (event) => this.#lost(event.code, event.reason);
  }

  /** Do not wait any longer for the next attempt. */
  retryNow() {
    if (this.#socket !== null) return;
    this.#events.onRetrying();
    this.open();
  }

  /** @param {import("./protocol.js").ClientMessage} message @returns {boolean} whether it was sent */
  send(message) {
    if (this.#socket?.readyState !== WebSocket.OPEN) return false;
    this.#socket.send(JSON.stringify(message));
    return true;
  }

  /** Close for good, or until `open`. */
  close() {
    window.clearTimeout(this.#retryTimer);
    window.clearInterval(this.#pingTimer);
    this.#pingSentMs = null;
    const socket = this.#socket;
    this.#socket = null;
    if (socket !== null) {
      socket.onopen = socket.onmessage = socket.onclose = null;
      socket.close();
    }
  }

  /** @param {unknown} text */
  #take(text) {
    let message;
    try {
      message = decodeServer(String(text));
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      console.warn("a message of the server was left out:", error.message);
      return;
    }
    if (message.type === "welcome") this.#attempt = 0;
    if (message.type === "pong") this.#answered(message.id);
    this.#events.onMessage(message);
  }

  #beat() {
    const nowMs = performance.now();
    if (this.#pingSentMs === null) {
      this.#pingId += 1;
      this.#pingSentMs = nowMs;
      this.send(ping(this.#pingId));
    } else if (nowMs - this.#pingSentMs > SILENCE_MS) {
      this.#lost(1006, "no answer");
    }
  }

  /** @param {number} id */
  #answered(id) {
    if (id !== this.#pingId || this.#pingSentMs === null) return;
    this.roundTripMs = performance.now() - this.#pingSentMs;
    this.#pingSentMs = null;
  }

  /** @param {number} code @param {string} reason */
  #lost(code, reason) {
    this.close();
    this.roundTripMs = null;
    if (code === CLOSE_REFUSED) {
      this.#events.onRefused(reason);
      return;
    }
    const waitMs = backoffMs(this.#attempt, Math.random());
    this.#attempt += 1;
    this.#retryTimer = window.setTimeout(() => this.retryNow(), waitMs);
    this.#events.onLost(performance.now() + waitMs);
  }
}
