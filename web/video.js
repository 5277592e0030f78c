/**
 * The media connection: receives the stream's video over WebRTC.
 */

import { backoffMs } from "./connection.js";
import { looked, noPatience } from "./patience.js";

/** Sum of delays and number of frames in the jitter buffer; packets asked for again. */
const NOTHING_SEEN = { delayS: 0, frames: 0, nacks: 0 };
/** A connection that has brought no picture by then is given up and asked for again. */
const PICTURE_WITHIN_MS = 8000;

/**
 * @typedef {object} VideoEvents
 * @property {(sdp: string) => void} onOffer     to be sent to the server
 * @property {() => void} onRenewed              another connection begins
 * @property {() => void} onUnreachable          no picture after several attempts
 */

/** Owner: the player; one at a time; `connect` replaces what was there. */
export class VideoLink {
  #video;
  #events;
  #attempts;
  /** @type {RTCPeerConnection|null} */
  #peer = null;
  /** @type {import("./protocol.js").IceServer[]} */
  #iceServers = [];
  #attempt = 0;
  #numUnanswered = 0;
  #retryTimer = 0;
  /** What was counted when the reception was last looked at. */
  #seen = NOTHING_SEEN;
  #patience = noPatience();

  /**
   * @param {HTMLVideoElement} video
   * @param {VideoEvents} events
   * @param {number} attempts   so many in a row without a picture mean that the path is blocked
   */
  constructor(video, events, attempts) {
    this.#video = video;
    this.#events = events;
    this.#attempts = attempts;
  }

  /** Whether there is a connection, or one is being made. */
  get isOpen() {
    return this.#peer !== null;
  }

  /**
   * Ask for the video.  The offer leaves at once: the server learns this side's addresses from
   * the packets themselves, so there is nothing to gather first.
   *
   * @param {import("./protocol.js").IceServer[]} iceServers
   */
  async connect(iceServers) {
    this.#drop();
    this.#iceServers = iceServers;
    this.#events.onRenewed();
    const peer = new RTCPeerConnection({ iceServers: iceServers.map(withoutNull) });
    this.#peer = peer;
    this.#seen = NOTHING_SEEN;
    this.#patience = noPatience();
    peer.addTransceiver("video", { direction: "recvonly" });
    peer.ontrack = (event) => this.#show(event.track);
    peer.onconnectionstatechange = () => {
      if (peer === this.#peer && peer.connectionState === "failed") this.retry();
    };
    this.#retryTimer = window.setTimeout(() => this.retry(), PICTURE_WITHIN_MS);
    const offer = await peer.createOffer();
    await peer.setLocalDescription(offer);
    if (peer !== this.#peer) return;
    this.#numUnanswered += 1;
    this.#events.onOffer(offer.sdp ?? "");
  }

  /** @param {string} sdp  the server answers in order: only the answer to the last offer counts */
  async accept(sdp) {
    this.#numUnanswered = Math.max(0, this.#numUnanswered - 1);
    const peer = this.#peer;
    if (peer === null || this.#numUnanswered > 0) return;
    if (peer.signalingState !== "have-local-offer") return;
    try {
      await peer.setRemoteDescription({ type: "answer", sdp });
    } catch (error) {
      console.warn("the answer does not fit the offer:", error);
      this.retry();
    }
  }

  /** A frame of this connection was painted: it works. */
  painted() {
    if (this.#peer === null) return;
    this.#attempt = 0;
    window.clearTimeout(this.#retryTimer);
  }

  /** The last offer was refused: ask again after a while, or give up. */
  refused() {
    this.#numUnanswered = Math.max(0, this.#numUnanswered - 1);
    this.retry();
  }

  /** Ask again after a while. */
  retry() {
    this.#drop();
    this.#attempt += 1;
    if (this.#attempt >= this.#attempts) {
      this.#attempt = 0;
      this.#events.onUnreachable();
      return;
    }
    const waitMs = backoffMs(this.#attempt, Math.random());
    this.#retryTimer = window.setTimeout(() => void this.connect(this.#iceServers), waitMs);
  }

  /** Close for good, or until `connect`; offers under way are forgotten. */
  close() {
    this.#drop();
    this.#attempt = 0;
    this.#numUnanswered = 0;
  }

  /**
   * Look at how the video is received, once a second: the browser holds pictures back for longer
   * where packets get lost.
   *
   * @param {number} fps   the stream's own rate
   * @returns {Promise<number|null>} ms that pictures were held back since the last look, on average;
   *   null when the browser does not tell
   */
  async look(fps) {
    const peer = this.#peer;
    const entries = [...((await peer?.getStats())?.values() ?? [])];
    const video = entries.find(({ type, kind }) => type === "inbound-rtp" && kind === "video");
    if (peer === null || peer !== this.#peer || video === undefined) return null;
    const before = this.#seen;
    this.#seen = {
      delayS: video.jitterBufferDelay ?? 0,
      frames: video.jitterBufferEmittedCount ?? 0,
      nacks: video.nackCount ?? 0,
    };
    const roundTripS = entries.find(
      ({ type, nominated, currentRoundTripTime }) =>
        type === "candidate-pair" && nominated && currentRoundTripTime !== undefined,
    )?.currentRoundTripTime;
    const roundTripMs = roundTripS === undefined ? null : 1000 * roundTripS;
    const numMissing = this.#seen.nacks - before.nacks;
    const { targetMs } = this.#patience;
    this.#patience = looked(this.#patience, numMissing, roundTripMs, 1000 / fps);
    if (this.#patience.targetMs !== targetMs) holdBack(peer, this.#patience.targetMs);
    const frames = this.#seen.frames - before.frames;
    return frames > 0 ? (1000 * (this.#seen.delayS - before.delayS)) / frames : null;
  }

  #drop() {
    window.clearTimeout(this.#retryTimer);
    const peer = this.#peer;
    this.#peer = null;
    if (peer !== null) {
      peer.ontrack = peer.onconnectionstatechange = null;
      peer.close();
    }
  }

  /** @param {MediaStreamTrack} track */
  #show(track) {
    this.#video.srcObject = new MediaStream([track]);
    this.#video.play().catch((error) => {
      // A newer picture interrupted this one; anything else is shown by the missing picture.
      if (error.name !== "AbortError") console.warn("the video does not play:", error);
    });
  }
}

/**
 * As `RTCPeerConnection` takes it: what a server does not need is left out, not null.
 *
 * @param {import("./protocol.js").IceServer} server
 * @returns {RTCIceServer}
 */
function withoutNull({ urls, username, credential }) {
  return username === null || credential === null ? { urls } : { urls, username, credential };
}

/**
 * Browsers that cannot be told how long play as soon as they can.
 *
 * @param {RTCPeerConnection} peer
 * @param {number} targetMs   0: as short as possible
 */
function holdBack(peer, targetMs) {
  for (const receiver of peer.getReceivers()) {
    if ("jitterBufferTarget" in receiver) receiver.jitterBufferTarget = targetMs || null;
  }
}
