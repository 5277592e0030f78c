/**
 * Everything that is picture: the video, its enlarged copy, the last still, the light around it.
 */

import { Upscaler } from "./upscale.js";

/** How much of the picture may be cut off to fill the window: up to this ratio of shapes. */
const FILL_WITHIN = 1.25;
/** The light around the picture follows it this often. */
const AMBIENT_EVERY_MS = 200;

/** Owner: the page. */
export class Picture {
  #root;
  #screen;
  #video;
  #upscaled;
  #still;
  #ambient;
  #upscaler;
  #isCurrent = false;
  #ambientMs = 0;

  /**
   * @param {HTMLElement} root         carries data-fit: "fill", "tall" or "wide"
   * @param {{video: HTMLVideoElement, screen: HTMLElement, upscaled: HTMLCanvasElement,
   *   still: HTMLCanvasElement, ambient: HTMLCanvasElement}} parts
   * @param {"auto"|"on"|"off"} upscaling
   */
  constructor(root, parts, upscaling) {
    this.#root = root;
    this.#screen = parts.screen;
    this.#video = parts.video;
    this.#upscaled = parts.upscaled;
    this.#still = parts.still;
    this.#ambient = parts.ambient;
    this.#upscaler =
      upscaling === "off" ? null : Upscaler.create(parts.upscaled, upscaling === "on");
    parts.upscaled.hidden = this.#upscaler === null;
    new ResizeObserver(() => this.#fit()).observe(root);
    parts.video.addEventListener("resize", () => this.#fit());
  }

  /** A frame is on screen. @param {number} nowMs */
  painted(nowMs) {
    if (!this.#isCurrent) {
      this.#isCurrent = true;
      this.#still.hidden = true;
      this.#upscaled.hidden = this.#upscaler === null;
    }
    this.#upscaler?.draw(this.#video);
    if (nowMs - this.#ambientMs > AMBIENT_EVERY_MS && this.#root.dataset.fit !== "fill") {
      this.#ambientMs = nowMs;
      draw(this.#ambient, this.#video);
    }
  }

  /** Keep what is seen now on screen until the next frame is painted. */
  hold() {
    const { videoWidth, videoHeight } = this.#video;
    if (!this.#isCurrent || videoWidth === 0) return;
    this.#isCurrent = false;
    this.#still.width = videoWidth;
    this.#still.height = videoHeight;
    draw(this.#still, this.#video);
    this.#still.hidden = false;
  }

  /** Show nothing any more. */
  clear() {
    this.#isCurrent = false;
    this.#still.hidden = true;
    this.#upscaled.hidden = true;
  }

  /** Fill the window when little is lost by it; otherwise show all of the picture. */
  #fit() {
    const { videoWidth, videoHeight } = this.#video;
    if (videoWidth === 0) return;
    const shape = videoWidth / videoHeight;
    const excess = this.#root.clientWidth / Math.max(1, this.#root.clientHeight) / shape;
    const isClose = excess < FILL_WITHIN && excess > 1 / FILL_WITHIN;
    this.#root.dataset.fit = isClose ? "fill" : excess < 1 ? "tall" : "wide";
    this.#screen.style.setProperty("--shape", String(shape));
    // A video that has ended gives black; what is seen then is the still.
    if (!isClose) draw(this.#ambient, this.#isCurrent ? this.#video : this.#still);
    if (this.#isCurrent) this.#upscaler?.draw(this.#video);
  }
}

/** @param {HTMLCanvasElement} canvas @param {HTMLVideoElement|HTMLCanvasElement} source */
function draw(canvas, source) {
  canvas.getContext("2d")?.drawImage(source, 0, 0, canvas.width, canvas.height);
}
