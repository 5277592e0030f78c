/**
 * What keys and buttons do: the keys of the page, and the buttons that stand for one of them.
 */

import { element } from "./dom.js";
import { actionOf } from "./keys.js";

/** @typedef {Record<import("./keys.js").Action, () => void>} Actions */

/** @type {readonly [string, import("./keys.js").Action][]} */
const BUTTONS = [
  ["pause", "pause"],
  ["screenshot", "screenshot"],
  ["menu-screenshot", "screenshot"],
  ["record", "record"],
  ["statistics-toggle", "statistics"],
  ["fullscreen", "fullscreen"],
  ["anew", "anew"],
  ["new-seed", "seed"],
  ["clip", "clip"],
  ["inset", "inset"],
];

/** @param {Actions} actions */
export function bindButtons(actions) {
  for (const [id, action] of BUTTONS) {
    element(id, HTMLButtonElement).addEventListener("click", () => actions[action]());
  }
}

/** @param {Actions} actions */
export function bindKeys(actions) {
  document.addEventListener("keydown", (event) => {
    if (!(event.target instanceof Element)) return;
    const isField = event.target.closest("input:not([type=checkbox]), select") !== null;
    const isButton = event.target.closest("button, a, input") !== null;
    const action = actionOf(event, isField ? "field" : isButton ? "button" : "page");
    if (action === null) return;
    event.preventDefault();
    actions[action]();
  });
}

/**
 * Mark the page while nobody touches it, so that what is not needed goes away.
 *
 * @param {HTMLElement} app        carries data-idle
 * @param {() => boolean} isCalm   whether there is nothing under way that must stay in sight
 * @param {number} afterMs
 */
export function watchIdle(app, isCalm, afterMs) {
  let timer = 0;
  const wake = () => {
    app.toggleAttribute("data-idle", false);
    window.clearTimeout(timer);
    timer = window.setTimeout(() => app.toggleAttribute("data-idle", isCalm()), afterMs);
  };
  for (const name of ["pointermove", "pointerdown", "keydown", "focusin"]) {
    document.addEventListener(name, wake, { passive: true });
  }
  wake();
}
