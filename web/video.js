/**
 * The media connection: receives the stream's video over WebRTC and tells of every painted frame.
 */

import { backoffMs } from "./connection.js";

/** A connection that has brought no picture by then is given up and asked for again. */
const PICTURE_WITHIN_MS = 8000;
/** After so many attempts in a row without a picture the path counts as blocked. */
const ATTEMPTS = 6;
/** Frames shown are counted over so long. */
const COUNTED_MS = 2000;

/**
 * @typedef {object} VideoEvents
 * @property {(sdp: string) => void} onOffer     to be sent to the server
 * @property {(rtpTimestamp: number|null, nowMs: number) => void} onPainted
 * @property {() => void} onRenewed              another connection begins
 * @property {() => void} onUnreachable          no picture after several attempts
 */

/** Owner: the page; one at a time; `connect` replaces what was there. */
export class VideoLink {
  /** Frames painted since the page was loaded. */
  numPainted = 0;
  /** RTP time of the last painted frame; null where the browser does not tell. */
  lastRtpTimestamp = /** @type {number|null} */ (null);

  #video;
  #events;
  /** @type {RTCPeerConnection|null} */
  #peer = null;
  /** @type {string[]} */
  #iceServers = [];
  #attempt = 0;
  #numUnanswered = 0;
  #retryTimer = 0;
  /** @type {number[]} */
  #paintedMs = [];

  /** @param {HTMLVideoElement} video @param {VideoEvents} events */
  constructor(video, events) {
    this.#video = video;
    this.#events = events;
    this.#watchFrames();
  }

  /** Frames per second that reached the screen, over the last two seconds. */
  get fpsShown() {
    const fromMs = performance.now() - COUNTED_MS;
    this.#paintedMs = this.#paintedMs.filter((ms) => ms > fromMs);
    return (this.#paintedMs.length * 1000) / COUNTED_MS;
  }

  /**
   * Ask for the video.  The offer leaves at once: the server learns this side's addresses from
   * the packets themselves, so there is nothing to gather first.
   *
   * @param {string[]} iceServers
   */
  async connect(iceServers) {
    this.#drop();
    this.#iceServers = iceServers;
    this.#events.onRenewed();
    const peer = new RTCPeerConnection({ iceServers: iceServers.map((urls) => ({ urls })) });
    this.#peer = peer;
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

  /** The last offer was refused: ask again after a while, or give up. */
  refused() {
    this.#numUnanswered = Math.max(0, this.#numUnanswered - 1);
    this.retry();
  }

  /** Ask again after a while. */
  retry() {
    this.#drop();
    this.#attempt += 1;
    if (this.#attempt >= ATTEMPTS) {
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

  /** @param {number|null} rtpTimestamp @param {number} nowMs */
  #painted(rtpTimestamp, nowMs) {
    this.numPainted += 1;
    this.lastRtpTimestamp = rtpTimestamp;
    this.#paintedMs.push(performance.now());
    if (this.#paintedMs.length > 1000) this.#paintedMs.shift();
    if (this.#peer === null) return;
    this.#attempt = 0;
    window.clearTimeout(this.#retryTimer);
    this.#events.onPainted(rtpTimestamp, nowMs);
  }

  #watchFrames() {
    const video = this.#video;
    if (!("requestVideoFrameCallback" in HTMLVideoElement.prototype)) {
      this.#pollFrames(0);
      return;
    }
    /** @type {VideoFrameRequestCallback} */
    const painted = (_now, frame) => {
      this.#painted(frame.rtpTimestamp ?? null, frame.expectedDisplayTime);
      video.requestVideoFrameCallback(painted);
    };
    video.requestVideoFrameCallback(painted);
  }

  /** For browsers without requestVideoFrameCallback: no RTP time, one look a screen refresh. */
  #pollFrames(/** @type {number} */ before) {
    const total = this.#video.getVideoPlaybackQuality().totalVideoFrames;
    if (total > before) this.#painted(null, performance.now());
    requestAnimationFrame(() => this.#pollFrames(total));
  }
}
