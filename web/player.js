/**
 * Brings the stream's video to the screen: over WebRTC, or over WebSocket where that is blocked.
 */

import { canPlayFallback } from "./fallback.js";
import { FrameWatch } from "./frames.js";
import { Relay } from "./relay.js";
import { VideoLink } from "./video.js";

/** So many attempts over WebRTC are made without a picture: few while there is another way. */
const ATTEMPTS = { withFallback: 2, alone: 6 };
/** The tab remembers which way its network lets through. */
const ROUTE_KEY = "streamer.route";

/**
 * @typedef {"webrtc"|"websocket"} Route
 *
 * @typedef {object} PlayerEvents
 * @property {(sdp: string) => void} onOffer       to be sent to the server
 * @property {(frame: import("./state.js").Painted) => void} onPainted
 * @property {() => void} onRenewed                another connection begins
 * @property {() => boolean} isPictureDue          whether a missing picture means anything
 * @property {(code: string, message: string) => void} onRefused
 * @property {() => void} onUnreachable            neither way brings a picture
 */

/** Owner: the page. */
export class Player {
  #video;
  #events;
  #frames;
  #webrtc;
  #relay;
  /** @type {Route} */
  #route;
  /** @type {import("./protocol.js").IceServer[]} */
  #iceServers = [];
  #videoUrl = "";

  /**
   * @param {HTMLVideoElement} video
   * @param {Route|null} wanted     always this way; null: WebRTC first
   * @param {PlayerEvents} events
   */
  constructor(video, wanted, events) {
    this.#video = video;
    this.#events = events;
    this.#route = wanted ?? rememberedRoute();
    const hasFallback = wanted === null && canPlayFallback();
    this.#frames = new FrameWatch(video, (frame) => this.#painted(frame));
    this.#webrtc = new VideoLink(
      video,
      {
        onOffer: events.onOffer,
        onRenewed: events.onRenewed,
        onUnreachable: () => this.#blocked(hasFallback ? "websocket" : null),
      },
      hasFallback ? ATTEMPTS.withFallback : ATTEMPTS.alone,
    );
    this.#relay = new Relay(video, {
      onRenewed: events.onRenewed,
      onRefused: events.onRefused,
      onUnreachable: () => this.#blocked(null),
    });
  }

  /** Whether this browser can play at all. */
  static get isSupported() {
    return typeof RTCPeerConnection !== "undefined" || canPlayFallback();
  }

  /** The way the video takes now. */
  get route() {
    return this.#route;
  }

  get fpsShown() {
    return this.#frames.fpsShown;
  }

  get numPainted() {
    return this.#frames.numPainted;
  }

  get lastRtpTimestamp() {
    return this.#frames.lastRtpTimestamp;
  }

  /**
   * Once a second.
   *
   * @param {number} fps   the stream's own rate
   * @returns {Promise<number|null>} ms that the browser held pictures back lately
   */
  look(fps) {
    return this.#webrtc.look(fps);
  }

  /**
   * Ask for the video.
   *
   * @param {import("./protocol.js").IceServer[]} iceServers
   * @param {string} videoUrl   the stream's video socket
   */
  connect(iceServers, videoUrl) {
    this.#iceServers = iceServers;
    this.#videoUrl = videoUrl;
    this.#connect();
  }

  /** @param {string} sdp  the server's answer to an offer */
  accept(sdp) {
    void this.#webrtc.accept(sdp);
  }

  /** The server refused the last offer; it is asked again. */
  refused() {
    if (this.#route === "webrtc") this.#webrtc.refused();
  }

  /** Close for good, or until `connect`. */
  close() {
    this.#webrtc.close();
    this.#relay.close();
  }

  /** Show nothing any more. */
  clear() {
    this.close();
    this.#video.srcObject = null;
    this.#video.removeAttribute("src");
  }

  #connect() {
    this.#webrtc.close();
    this.#relay.close();
    if (this.#route === "websocket") {
      this.#relay.connect(this.#videoUrl);
      return;
    }
    this.#video.removeAttribute("src");
    void this.#webrtc.connect(this.#iceServers);
  }

  /** @param {Route|null} other  the way still to try */
  #blocked(other) {
    // Nothing is sent while nothing is made: the path may be as good as any.
    if (!this.#events.isPictureDue()) return this.#connect();
    if (other === null) return this.#events.onUnreachable();
    this.#route = other;
    sessionStorage.setItem(ROUTE_KEY, other);
    this.#connect();
  }

  /** @param {import("./state.js").Painted} frame */
  #painted(frame) {
    if (!this.#webrtc.isOpen && !this.#relay.isOpen) return;
    this.#webrtc.painted();
    this.#relay.painted();
    this.#events.onPainted(frame);
  }
}

/** @returns {Route} */
function rememberedRoute() {
  if (typeof RTCPeerConnection === "undefined") return "websocket";
  return sessionStorage.getItem(ROUTE_KEY) === "websocket" ? "websocket" : "webrtc";
}
