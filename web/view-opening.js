/**
 * The file that a stream is to begin with: chosen, dropped or pasted, shown above the prompt line,
 * sent with the next prompt.
 */

import { ApiError } from "./api.js";
import { element, write, writeAttribute } from "./dom.js";
import { NO_PICTURES, aboutWords, faultOf, isClip, shortName, sizeWords, typeOf } from "./opening.js";
import { isDirector, phaseOf } from "./phase.js";
import { startFromFile } from "./upload.js";
import { sentence } from "./words.js";

/** A clip is shown as it ends: that is where the stream goes on. */
const BEFORE_END_S = 0.05;

/**
 * @typedef {object} OpeningEvents
 * @property {() => void} onTaken       a file waits for its prompt
 * @property {(made: import("./protocol.js").StreamInfo, sentMs: number) => void} onBegun
 * @property {(fault: string) => void} onRefused
 * @property {() => void} onChanged     to be drawn again
 */

/** Owner: the page. */
export class OpeningView {
  #card = element("opening", HTMLDivElement);
  #frame = element("opening-frame", HTMLDivElement);
  #image = element("opening-image", HTMLImageElement);
  #clip = element("opening-clip", HTMLVideoElement);
  #name = element("opening-name", HTMLParagraphElement);
  #about = element("opening-about", HTMLParagraphElement);
  #progress = element("opening-progress", HTMLProgressElement);
  #remove = element("opening-remove", HTMLButtonElement);
  #input = element("opening-file", HTMLInputElement);
  #row = element("menu-opening", HTMLButtonElement);
  #rowWords = element("menu-opening-words", HTMLSpanElement);
  #chip = element("opening-toggle", HTMLButtonElement);
  #drop = element("drop", HTMLDivElement);
  #dropWords = element("drop-words", HTMLParagraphElement);
  #state;
  #events;
  /** @type {File|null} */
  #file = null;
  #address = "";
  #fault = "";
  /** @type {{upload: import("./upload.js").Upload, part: number}|null} */
  #sending = null;

  /** @param {() => import("./state.js").State} state @param {OpeningEvents} events */
  constructor(state, events) {
    this.#state = state;
    this.#events = events;
    for (const button of [this.#row, this.#chip]) {
      button.addEventListener("click", () => this.choose());
    }
    this.#input.addEventListener("change", () => {
      this.#take(this.#input.files);
      this.#input.value = "";
    });
    this.#remove.addEventListener("click", () => this.clear());
    this.#clip.addEventListener("loadedmetadata", () => {
      const { duration } = this.#clip;
      if (Number.isFinite(duration)) this.#clip.currentTime = Math.max(0, duration - BEFORE_END_S);
    });
    for (const preview of [this.#image, this.#clip]) {
      // What this browser cannot show, the server may still read.
      preview.addEventListener("error", () => preview.toggleAttribute("hidden", true));
    }
    this.#listenToDrops();
  }

  /** Whether a file waits for its prompt, or is being sent. */
  get isThere() {
    return this.#file !== null;
  }

  /** Let the visitor choose a file, or say why there is none to choose. */
  choose() {
    if (!this.#isAble) this.#events.onRefused(this.#disability);
    else this.#input.click();
  }

  /** Let go of the file; what is being sent is not sent any further. */
  clear() {
    this.#sending?.upload.cancel();
    this.#sending = null;
    this.#file = null;
    this.#fault = "";
    URL.revokeObjectURL(this.#address);
    this.#image.removeAttribute("src");
    this.#clip.removeAttribute("src");
    this.#clip.load();
    this.#events.onChanged();
  }

  /**
   * Begin a stream with the file.
   *
   * @param {string} prompt
   * @returns {Promise<boolean>} whether it has begun
   */
  async begin(prompt) {
    if (this.#file === null || this.#sending !== null) return false;
    this.#fault = prompt === "" ? "Say what happens next, then press Enter." : "";
    if (this.#fault !== "") {
      this.#events.onChanged();
      return false;
    }
    const sentMs = performance.now();
    const { stream } = this.#state();
    const token = stream !== null && stream.state !== "ended" ? stream.token : null;
    const insteadOf = stream === null || token === null ? null : { stream: stream.id, token };
    const wish = { prompt, insteadOf };
    const upload = startFromFile(this.#file, typeOf(this.#file), wish, (part) => {
      if (this.#sending?.upload === upload) this.#sending.part = part;
      this.#events.onChanged();
    });
    this.#sending = { upload, part: 0 };
    this.#events.onChanged();
    try {
      const made = await upload.made;
      this.clear();
      this.#events.onBegun(made, sentMs);
      return true;
    } catch (error) {
      if (this.#sending?.upload !== upload) return false;
      this.#sending = null;
      this.#fault = sentence(error instanceof ApiError ? error.message : String(error));
      this.#events.onChanged();
      return false;
    }
  }

  /** @param {import("./state.js").State} state */
  render(state) {
    this.#renderButtons(state);
    const opening = state.server?.opening ?? null;
    const file = this.#file;
    this.#card.hidden = file === null || opening === null;
    if (file === null || opening === null) return;
    this.#frame.style.setProperty("--shape", String(opening.width / opening.height));
    write(this.#name, `${shortName(file.name)}, ${sizeWords(file.size)}`);
    const part = this.#sending?.part ?? null;
    this.#card.toggleAttribute("data-fault", this.#fault !== "");
    write(this.#about, this.#fault || sendingWords(part, state) || aboutWords(file, opening, presence(state)));
    this.#progress.hidden = part === null;
    // All has left: how long the model then takes is not known.
    if (part === null || part >= 1) this.#progress.removeAttribute("value");
    else this.#progress.value = part;
    const label = part === null ? "Take the file away" : "Stop sending";
    writeAttribute(this.#remove, "aria-label", label);
    writeAttribute(this.#remove, "title", label);
  }

  /** @param {import("./state.js").State} state */
  #renderButtons({ server, stream }) {
    this.#chip.hidden = server === null;
    this.#chip.toggleAttribute("data-roomy", stream !== null);
    const isAble = this.#isAble;
    for (const button of [this.#row, this.#chip]) {
      writeAttribute(button, "aria-disabled", String(!isAble));
    }
    const isUnfit = server !== null && server.opening === null;
    const label = isUnfit ? "This model cannot begin with a picture" : "Begin with a picture or clip";
    writeAttribute(this.#chip, "aria-label", label);
    writeAttribute(this.#chip, "title", isUnfit ? label : `${label} (o)`);
    write(this.#rowWords, isUnfit ? "not with this model" : "or drop a file onto the page");
  }

  get #isAble() {
    return this.#disability === "";
  }

  /** Why no file is taken now; empty when one is. */
  get #disability() {
    const state = this.#state();
    const phase = phaseOf(state);
    if (phase === "connecting" || phase === "lost" || phase === "failed" || state.server === null) {
      return "There is no connection to a server that works.";
    }
    if (phase === "queued") return "Leave the line first.";
    return state.server.opening === null ? NO_PICTURES : "";
  }

  /** @param {FileList|null|undefined} files  the first of them counts */
  #take(files) {
    const file = files?.[0];
    if (file === undefined) return;
    const fault = this.#disability || faultOf(file, this.#state().server?.opening ?? null);
    if (fault !== "") return this.#events.onRefused(fault);
    this.clear();
    this.#file = file;
    this.#address = URL.createObjectURL(file);
    const [shown, other] = isClip(file) ? [this.#clip, this.#image] : [this.#image, this.#clip];
    shown.src = this.#address;
    shown.hidden = false;
    other.hidden = true;
    this.#events.onTaken();
    this.#events.onChanged();
  }

  #listenToDrops() {
    // Entering a child comes before leaving its parent: zero only when the page is left.
    let depth = 0;
    const show = (/** @type {boolean} */ isShown) => {
      if (!isShown) depth = 0;
      write(this.#dropWords, this.#disability || "Let go: a new stream begins with it.");
      this.#drop.hidden = !isShown;
    };
    /** @param {DragEvent} event */
    const holdsFile = (event) => event.dataTransfer?.types.includes("Files") === true;
    document.addEventListener("dragenter", (event) => {
      if (!holdsFile(event)) return;
      depth += 1;
      show(true);
    });
    document.addEventListener("dragleave", (event) => {
      if (holdsFile(event) && (depth -= 1) <= 0) show(false);
    });
    document.addEventListener("dragover", (event) => {
      if (!holdsFile(event) || event.dataTransfer === null) return;
      event.preventDefault();
      event.dataTransfer.dropEffect = this.#isAble ? "copy" : "none";
    });
    document.addEventListener("drop", (event) => {
      show(false);
      if (!holdsFile(event)) return;
      event.preventDefault();
      this.#take(event.dataTransfer?.files);
    });
    document.addEventListener("paste", (event) => {
      if (event.clipboardData?.files.length === 0) return;
      event.preventDefault();
      this.#take(event.clipboardData?.files);
    });
  }
}

/** @param {number|null} part  how much was sent @param {import("./state.js").State} state */
function sendingWords(part, state) {
  if (part === null) return "";
  if (part < 1) return `Sending: ${Math.round(100 * part)} %`;
  return state.loading < 1 ? "Sent. It begins when the model is loaded." : "Sent. The model looks at it.";
}

/** @param {import("./state.js").State} state @returns {"none"|"own"|"watched"} */
function presence(state) {
  if (state.stream === null || state.stream.state === "ended") return "none";
  return isDirector(state) ? "own" : "watched";
}
