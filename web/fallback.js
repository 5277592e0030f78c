/**
 * The video over WebSocket, for networks that let no WebRTC through: fragmented MP4, the same
 * packets as everybody's, played through MediaSource.
 *
 * First comes one JSON text with the media type, then binary: the initial segment, a fragment a
 * frame.  Another JSON text announces another initial segment.
 */

/** So far behind the newest picture is as it should be: one fragment may come late. */
const LAG_S = 0.35;
/** Farther behind than this, playback is a little faster ... */
const HURRY_S = 0.6;
const HURRY_RATE = 1.06;
/** ... and farther than this, it jumps. */
const JUMP_S = 2;
/** What lies farther back is given up, from time to time. */
const KEPT_S = 12;
/** So many segments wait for the browser at most; a page in the background takes none. */
const QUEUE_LIMIT = 600;
/** The server's close code for a stream that has ended. */
const CLOSE_ENDED = 1000;

/** Whether this browser can play such video. */
export function canPlayFallback() {
  return typeof MediaSource !== "undefined";
}

/**
 * A media time on the stream's clock.
 *
 * @param {number} mediaS
 * @param {number} clock   ticks a second
 */
export function ptsOf(mediaS, clock) {
  return Math.round(mediaS * clock);
}

/**
 * Where to jump to in order to be close to the newest picture; null: stay.
 *
 * @param {number} nowS     the video's time
 * @param {number} startS   first and ...
 * @param {number} endS     ... last time of the newest range that is buffered
 */
export function catchUp(nowS, startS, endS) {
  // Where the stream was paused the times have a gap, and nothing more comes before it.
  if (nowS >= startS && endS - nowS <= JUMP_S) return null;
  return Math.max(startS, endS - LAG_S);
}

/**
 * How fast to play.
 *
 * @param {number} lagS   behind the newest picture
 */
export function paceOf(lagS) {
  return lagS > HURRY_S ? HURRY_RATE : 1;
}

/**
 * @typedef {object} StreamedEvents
 * @property {() => void} onOpen   the server sends
 * @property {(error: {code: string, message: string}|null) => void} onEnded
 *   null: the stream is over; code "refused" and the like: the server says why not; code "broken":
 *   the connection or the browser gave up, another try may work
 */

/** One connection, from construction to `close` or the end.  Owner: the relay. */
export class StreamedVideo {
  /** Ticks a second of the stream's clock. */
  clock = 90_000;

  #video;
  #events;
  #socket;
  #source = new MediaSource();
  /** @type {SourceBuffer|null} */
  #buffer = null;
  /** Media types and segments in order, not yet given to the browser. @type {(string|ArrayBuffer)[]} */
  #waiting = [];
  #isOver = false;

  /**
   * @param {HTMLVideoElement} video
   * @param {string} url   the stream's video socket
   * @param {StreamedEvents} events
   */
  constructor(video, url, events) {
    this.#video = video;
    this.#events = events;
    this.#socket = new WebSocket(url);
    this.#socket.binaryType = "arraybuffer";
    this.#socket.onmessage = (event) => this.#take(event.data);
    this.#socket.onclose = (event) => {
      if (event.code === CLOSE_ENDED) this.#end(null);
      else this.#break("the connection was lost");
    };
    const source = URL.createObjectURL(this.#source);
    this.#source.onsourceopen = () => {
      URL.revokeObjectURL(source);
      this.#pump();
    };
    video.srcObject = null;
    video.src = source;
  }

  /** Close; nothing is told. */
  close() {
    this.#isOver = true;
    this.#waiting = [];
    this.#socket.onmessage = this.#socket.onclose = null;
    this.#socket.close();
  }

  /** @param {{code: string, message: string}|null} error */
  #end(error) {
    if (this.#isOver) return;
    this.close();
    this.#events.onEnded(error);
  }

  /** @param {string} message */
  #break(message) {
    this.#end({ code: "broken", message });
  }

  /** @param {unknown} item  what the server sent */
  #take(item) {
    if (item instanceof ArrayBuffer) {
      this.#waiting.push(item);
    } else {
      const told = JSON.parse(String(item));
      if (told.type === "error") {
        this.#end({ code: String(told.code), message: String(told.message) });
        return;
      }
      if (told.type === "video") {
        this.clock = Number(told.clock);
        this.#waiting.push(String(told.mime));
        this.#events.onOpen();
      }
    }
    if (this.#waiting.length > QUEUE_LIMIT) this.#break("this page does not keep up");
    else this.#pump();
  }

  /** Give the browser what waits, one piece at a time. */
  #pump() {
    if (this.#isOver || this.#source.readyState !== "open" || this.#buffer?.updating) return;
    const next = this.#waiting.shift();
    if (next === undefined) return;
    try {
      if (typeof next !== "string") {
        this.#buffer?.appendBuffer(next);
      } else {
        this.#announce(next);
        this.#pump();
      }
    } catch (error) {
      this.#break(`the browser does not play it: ${error instanceof Error ? error.message : error}`);
    }
  }

  /** @param {string} mime */
  #announce(mime) {
    if (this.#buffer !== null) {
      this.#buffer.changeType(mime);
      return;
    }
    const buffer = this.#source.addSourceBuffer(mime);
    this.#buffer = buffer;
    buffer.onupdateend = () => {
      if (this.#isOver) return;
      this.#follow(buffer);
      this.#pump();
    };
  }

  /** Stay close to the newest picture. @param {SourceBuffer} buffer */
  #follow(buffer) {
    const video = this.#video;
    const { buffered } = buffer;
    const last = buffered.length - 1;
    if (last < 0) return;
    const endS = buffered.end(last);
    const jumpS = catchUp(video.currentTime, buffered.start(last), endS);
    if (jumpS !== null) video.currentTime = jumpS;
    const pace = paceOf(endS - video.currentTime);
    if (video.playbackRate !== pace) video.playbackRate = pace;
    if (video.paused) {
      video.play().catch((error) => {
        if (error.name !== "AbortError") console.warn("the video does not play:", error);
      });
    }
    const oldS = video.currentTime - KEPT_S;
    if (buffered.start(0) < oldS - KEPT_S) buffer.remove(0, oldS);
  }
}
