/**
 * The record button, and the lists of what was recorded of this stream and where it is published.
 */

import { addressOf } from "./api.js";
import { element, keyed, make, write, writeAttribute } from "./dom.js";
import { STEERABLE, isDirector, phaseOf } from "./phase.js";
import { clockWords } from "./ribbon.js";
import { publicationWords } from "./words.js";

/** Owner: the page. */
export class FilesView {
  #record = element("record", HTMLButtonElement);
  #recorded = element("recorded", HTMLSpanElement);
  #clip = element("clip", HTMLButtonElement);
  #files = element("files", HTMLUListElement);
  #publications = element("publications", HTMLUListElement);

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
    const publications = isDirector(state) ? state.publications : [];
    this.#publications.hidden = publications.length === 0;
    keyed(
      this.#publications,
      publications,
      ({ id }) => id,
      () => make("li", "quiet"),
      (row, publication) => write(row, publicationWords(publication)),
    );
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
  // What was written before a failure plays.
  const hasFilm = state === "finished" || (state === "failed" && seconds > 0);
  const words = {
    recording: "recording",
    failed: `${seconds > 0 ? `${clockWords(seconds)}, then ` : ""}failed: ${detail}`,
    finished: clockWords(seconds),
  };
  write(about, words[state]);
  const address = addressOf(url);
  for (const [link, name, suffix] of /** @type {[Element, string, string][]} */ ([
    [film, "film", ""],
    [captions, "captions", ".vtt"],
    [script, "script", ".jsonl"],
  ])) {
    link.toggleAttribute("hidden", !hasFilm);
    link.toggleAttribute("download", true);
    writeAttribute(link, "href", suffix === "" ? address : address.replace(/\.\w+$/, suffix));
    write(link, name);
  }
}
