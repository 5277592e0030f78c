/**
 * Every frame that a video element paints, with the time it carries.
 */

import { ptsOf } from "./fallback.js";

/** Frames shown are counted over so long. */
const COUNTED_MS = 2000;
/** Media times are told in 1/90000 s, the stream's clock. */
const CLOCK_RATE = 90_000;

/** Owner: the player, as long as the page lives. */
export class FrameWatch {
  /** Frames painted since the page was loaded. */
  numPainted = 0;
  /** RTP time of the last painted frame; null where it carries none. */
  lastRtpTimestamp = /** @type {number|null} */ (null);

  #video;
  #onPainted;
  /** @type {number[]} */
  #paintedMs = [];

  /**
   * @param {HTMLVideoElement} video
   * @param {(frame: import("./state.js").Painted) => void} onPainted
   */
  constructor(video, onPainted) {
    this.#video = video;
    this.#onPainted = onPainted;
    if ("requestVideoFrameCallback" in HTMLVideoElement.prototype) this.#listen();
    else this.#poll(0);
  }

  /** Frames per second that reached the screen, over the last two seconds. */
  get fpsShown() {
    const fromMs = performance.now() - COUNTED_MS;
    this.#paintedMs = this.#paintedMs.filter((ms) => ms > fromMs);
    return (this.#paintedMs.length * 1000) / COUNTED_MS;
  }

  /** @param {number|null} rtpTimestamp @param {number|null} mediaS @param {number} nowMs */
  #painted(rtpTimestamp, mediaS, nowMs) {
    this.numPainted += 1;
    this.lastRtpTimestamp = rtpTimestamp;
    this.#paintedMs.push(performance.now());
    if (this.#paintedMs.length > 1000) this.#paintedMs.shift();
    // A stream from the network has media times of its own, which nobody else knows.
    const isFile = this.#video.srcObject === null;
    const pts = isFile && mediaS !== null ? ptsOf(mediaS, CLOCK_RATE) : null;
    this.#onPainted({ rtpTimestamp, pts, nowMs });
  }

  #listen() {
    /** @type {VideoFrameRequestCallback} */
    const painted = (_now, frame) => {
      this.#painted(frame.rtpTimestamp ?? null, frame.mediaTime, frame.expectedDisplayTime);
      this.#video.requestVideoFrameCallback(painted);
    };
    this.#video.requestVideoFrameCallback(painted);
  }

  /** For browsers without requestVideoFrameCallback: no RTP time, one look a screen refresh. */
  #poll(/** @type {number} */ before) {
    const total = this.#video.getVideoPlaybackQuality().totalVideoFrames;
    if (total > before) this.#painted(null, this.#video.currentTime, performance.now());
    requestAnimationFrame(() => this.#poll(total));
  }
}
