/**
 * The record button, and the list of what was recorded of this stream.
 */

import { addressOf } from "./api.js";
import { element, keyed, make, write, writeAttribute } from "./dom.js";
import { STEERABLE, isDirector, phaseOf } from "./phase.js";
import { clockWords } from "./ribbon.js";

/** Owner: the page. */
export class FilesView {
  #record = element("record", HTMLButtonElement);
  #recorded = element("recorded", HTMLSpanElement);
  #clip = element("clip", HTMLButtonElement);
  #files = element("files", HTMLUListElement);

  /**
   * @param {import("./state.js").State} state
   * @param {number|null} recordedS   for how long it has been recorded; null: it is not
   */
  render(state, recordedS) {
    const label = recordedS === null ? "Record" : "Stop recording";
    this.#record.disabled = this.#clip.disabled = !STEERABLE.has(phaseOf(state));
    this.#record.hidden = !isDirector(state);
    writeAttribute(this.#record, "aria-pressed", String(recordedS !== null));
    writeAttribute(this.#record, "aria-label", label);
    writeAttribute(this.#record, "title", `${label} (r)`);
    write(this.#recorded, recordedS === null ? "" : clockWords(recordedS));
    this.#files.hidden = state.recordings.length === 0;
    keyed(this.#files, state.recordings.slice(-5).reverse(), ({ id }) => id, create, update);
  }
}

function create() {
  const row = make("li", "file");
  const film = make("a", "");
  film.download = "";
  row.append(make("span", "quiet"), film, make("a", ""), make("a", ""));
  return row;
}

/** @param {HTMLElement} row @param {import("./protocol.js").Recording} recording */
function update(row, { state, detail, seconds, url }) {
  const [about, film, captions, script] = row.children;
  const isWhole = state === "finished";
  const words = { recording: "recording", failed: `failed: ${detail}`, finished: "" };
  write(about, isWhole ? clockWords(seconds) : words[state]);
  const address = addressOf(url);
  for (const [link, name, suffix] of /** @type {[Element, string, string][]} */ ([
    [film, "film", ""],
    [captions, "captions", ".vtt"],
    [script, "script", ".jsonl"],
  ])) {
    link.toggleAttribute("hidden", !isWhole);
    link.toggleAttribute("download", true);
    writeAttribute(link, "href", suffix === "" ? address : address.replace(/\.\w+$/, suffix));
    write(link, name);
  }
}
