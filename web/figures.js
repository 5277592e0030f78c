/**
 * What is measured of the stream, once a second, and whether the visitor wants to see it.
 */

import { withWay } from "./latency.js";
import { noStatistics, withMeasured } from "./statistics.js";

const WANTED_KEY = "streamer.statistics";

/** Owner: the page. */
export class Figures {
  kept = noStatistics();
  /** How long the browser held pictures back lately; null while that is not known. */
  jitterBufferMs = /** @type {number|null} */ (null);
  areWanted = localStorage.getItem(WANTED_KEY) === "on";
  /** @type {import("./latency.js").Way[]} */
  ways = [];
  #latencyMs = /** @type {number|null} */ (null);

  /** The way of a prompt to the screen was measured. @param {import("./latency.js").Way} way */
  noteWay(way) {
    this.#latencyMs = way.latencyMs;
    this.ways = withWay(this.ways, way);
  }

  /**
   * The server told its figures; here are those of the page.
   *
   * @param {import("./protocol.js").Statistics} there
   * @param {import("./player.js").Player} player
   * @param {number|null} roundTripMs
   * @param {number} fps   the stream's own rate
   */
  async note(there, player, roundTripMs, fps) {
    this.jitterBufferMs = await player.look(fps);
    const here = { fpsShown: player.fpsShown, roundTripMs, latencyMs: this.#latencyMs };
    this.kept = withMeasured(this.kept, there, here);
    this.#latencyMs = null;
  }

  /** Another stream. */
  forget() {
    this.kept = noStatistics();
    this.ways = [];
  }

  toggle() {
    this.areWanted = !this.areWanted;
    localStorage.setItem(WANTED_KEY, this.areWanted ? "on" : "off");
  }
}
