/**
 * The share panel: the link of the stream, its code to be read by a phone's camera.
 */

import { element, make, write, writeAttribute } from "./dom.js";
import { shareLink } from "./identity.js";
import { qrModules } from "./qr.js";

/** Modules of light around a code (ISO/IEC 18004, 6.3.8). */
const QUIET_ZONE = 4;

/** Owner: the page. */
export class ShareView {
  #panel = element("share", HTMLElement);
  #code = element("code", SVGSVGElement);
  #link = element("link", HTMLInputElement);
  #copy = element("copy", HTMLButtonElement);
  #direction = element("share-direction", HTMLInputElement);
  #clean = element("share-clean", HTMLInputElement);
  #note = element("share-note", HTMLParagraphElement);
  #send = element("share-send", HTMLButtonElement);
  /** @type {{stream: string, token: string|null}|null} */
  #identity = null;

  constructor() {
    this.#send.hidden = !("share" in navigator);
    this.#panel.addEventListener("beforetoggle", () => {
      this.#direction.checked = this.#clean.checked = false;
      this.#renderLink();
    });
    for (const choice of [this.#direction, this.#clean]) {
      choice.addEventListener("change", () => this.#renderLink());
    }
    this.#link.addEventListener("focus", () => this.#link.select());
    this.#copy.addEventListener("click", () => void this.#copyLink());
    this.#send.addEventListener("click", () => {
      navigator.share({ title: document.title, url: this.#link.value }).catch(() => {
        // Whoever closes the system's panel has changed their mind.
      });
    });
  }

  /** @param {{stream: string|null, token: string|null}} identity */
  render({ stream, token }) {
    const isSame = stream === this.#identity?.stream && token === this.#identity?.token;
    if (isSame || stream === null) return;
    this.#identity = { stream, token };
    this.#renderLink();
  }

  #renderLink() {
    if (this.#identity === null) return;
    const { stream, token } = this.#identity;
    const link = shareLink(stream, this.#direction.checked ? token : null, this.#clean.checked);
    this.#link.value = link;
    write(this.#copy, "Copy");
    const note = noteOf(this.#direction.checked);
    this.#note.hidden = note.length === 0;
    this.#note.replaceChildren(...note);
    try {
      drawCode(this.#code, qrModules(link));
      this.#code.removeAttribute("hidden");
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      this.#code.setAttribute("hidden", "");
    }
  }

  async #copyLink() {
    try {
      await navigator.clipboard.writeText(this.#link.value);
      write(this.#copy, "Copied");
    } catch {
      // Without leave, or on a page without TLS: the link is marked, and the keys do it.
      this.#link.focus();
      write(this.#copy, "Press Ctrl+C");
    }
  }
}

/** @param {boolean} givesDirection @returns {(Node|string)[]} */
function noteOf(givesDirection) {
  if (["localhost", "127.0.0.1", "[::1]"].includes(location.hostname)) {
    const option = make("code", "", "--host 0.0.0.0");
    return ["This address works on this machine only. For others, start the server with ", option, "."];
  }
  return givesDirection ? ["Whoever has this link can steer and end the stream."] : [];
}

/** @param {SVGSVGElement} picture @param {boolean[][]} rows */
function drawCode(picture, rows) {
  const size = rows.length + 2 * QUIET_ZONE;
  let path = "";
  rows.forEach((row, i) => {
    row.forEach((isDark, j) => {
      if (isDark) path += `M${j + QUIET_ZONE} ${i + QUIET_ZONE}h1v1h-1z`;
    });
  });
  writeAttribute(picture, "viewBox", `0 0 ${size} ${size}`);
  const shape =
    picture.firstElementChild ??
    picture.appendChild(document.createElementNS("http://www.w3.org/2000/svg", "path"));
  writeAttribute(shape, "d", path);
}
