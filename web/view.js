/**
 * Writes the state into the document.  Text goes in through textContent only.
 */

import { isDirector, phaseOf } from "./state.js";
import { statisticsWords, wordsFor } from "./words.js";

/**
 * @template {HTMLElement} T
 * @param {string} id
 * @param {new () => T} kind
 * @returns {T}
 */
export function element(id, kind) {
  const found = document.getElementById(id);
  if (!(found instanceof kind)) throw new Error(`index.html lacks #${id} (${kind.name})`);
  return found;
}

/** Phases in which there is something to steer. */
const STEERABLE = new Set(["starting", "playing", "slow", "paused", "restoring", "parked"]);
/** Phases in which a prompt cannot be sent. */
const SILENT = new Set(["connecting", "lost", "ended", "failed"]);

/**
 * What each transition is called in the page; anything else keeps its own name.
 *
 * @type {Record<string, string>}
 */
const TRANSITION_TITLES = { blend: "blend in", scene: "new scene" };

/** Owner: the page.  `render` may be called at any time; it touches only what changed. */
export class View {
  parts = {
    app: element("app", HTMLDivElement),
    picture: element("picture", HTMLDivElement),
    screen: element("screen", HTMLDivElement),
    video: element("video", HTMLVideoElement),
    upscaled: element("upscaled", HTMLCanvasElement),
    still: element("still", HTMLCanvasElement),
    ambient: element("ambient", HTMLCanvasElement),
    model: element("model", HTMLSpanElement),
    badge: element("badge", HTMLParagraphElement),
    controls: element("controls", HTMLDivElement),
    pause: element("pause", HTMLButtonElement),
    newSeed: element("new-seed", HTMLButtonElement),
    statisticsToggle: element("statistics-toggle", HTMLButtonElement),
    script: element("script", HTMLAnchorElement),
    fullscreen: element("fullscreen", HTMLButtonElement),
    end: element("end", HTMLButtonElement),
    hero: element("hero", HTMLElement),
    title: element("hero-title", HTMLHeadingElement),
    sentence: element("hero-sentence", HTMLParagraphElement),
    code: element("hero-code", HTMLParagraphElement),
    loading: element("loading", HTMLDivElement),
    progress: element("progress", HTMLProgressElement),
    stage: element("stage", HTMLParagraphElement),
    action: element("action", HTMLButtonElement),
    caption: element("caption", HTMLParagraphElement),
    notice: element("notice", HTMLParagraphElement),
    examples: element("examples", HTMLDivElement),
    form: element("prompt-form", HTMLFormElement),
    prompt: element("prompt", HTMLInputElement),
    transition: element("transition", HTMLSelectElement),
    send: element("send", HTMLButtonElement),
    watching: element("watching", HTMLParagraphElement),
    statistics: element("statistics", HTMLParagraphElement),
  };

  /** @type {import("./protocol.js").Welcome|null} */
  #greeted = null;

  /**
   * @param {import("./state.js").State} state
   * @param {number} nowMs
   */
  render(state, nowMs) {
    const phase = phaseOf(state);
    const { app } = this.parts;
    if (app.dataset.phase !== phase) app.dataset.phase = phase;
    app.toggleAttribute("data-picture", state.hasPicture);
    if (state.server !== null && state.server !== this.#greeted) this.#greet(state.server);
    this.#renderHero(state, phase, nowMs);
    this.#renderControls(state, phase);
    this.#renderPrompt(state, phase);
    document.title = state.caption === "" ? "streamer" : `${state.caption} - streamer`;
  }

  /**
   * @param {import("./state.js").State} state
   * @param {{fpsShown: number, roundTripMs: number|null, isWanted: boolean}} here
   */
  renderStatistics(state, here) {
    const { statistics, statisticsToggle } = this.parts;
    statisticsToggle.setAttribute("aria-pressed", String(here.isWanted));
    const isAlive = state.hasPicture && state.stream?.state !== "ended";
    statistics.hidden = !here.isWanted || !isAlive;
    if (statistics.hidden) return;
    const texts = statisticsWords(state, here);
    while (statistics.childElementCount > texts.length) statistics.lastElementChild?.remove();
    texts.forEach((text, i) => {
      const part = statistics.children[i] ?? statistics.appendChild(document.createElement("span"));
      write(part, text);
    });
  }

  /** @param {import("./protocol.js").Welcome} server */
  #greet(server) {
    this.#greeted = server;
    const { model, examples, prompt, transition } = this.parts;
    write(model, server.title);
    prompt.maxLength = server.prompt_limit;
    examples.replaceChildren(
      ...server.examples.map((text) => {
        const button = document.createElement("button");
        button.type = "button";
        button.className = "example";
        button.textContent = text;
        return button;
      }),
    );
    const chosen = transition.value;
    transition.replaceChildren(new Option("transition", ""));
    for (const kind of server.transitions) {
      transition.append(new Option(TRANSITION_TITLES[kind] ?? kind, kind));
    }
    transition.value = server.transitions.includes(chosen) ? chosen : "";
  }

  /**
   * @param {import("./state.js").State} state
   * @param {import("./state.js").Phase} phase
   * @param {number} nowMs
   */
  #renderHero(state, phase, nowMs) {
    const { badge, hero, title, sentence, code, loading, progress, stage, action } = this.parts;
    const words = wordsFor(state, nowMs);
    write(badge, words.badge);
    hero.hidden = words.title === "";
    write(title, words.title);
    write(sentence, words.sentence);
    code.hidden = words.code === "";
    write(code, words.code === "" ? "" : `code: ${words.code}`);
    loading.hidden = phase !== "loading";
    progress.value = state.loading;
    write(stage, state.stage);
    action.hidden = words.action === null;
    action.dataset.action = words.action ?? "";
    write(action, words.actionLabel);
  }

  /**
   * @param {import("./state.js").State} state
   * @param {import("./state.js").Phase} phase
   */
  #renderControls(state, phase) {
    const { controls, pause, newSeed, end, script, fullscreen } = this.parts;
    const { stream } = state;
    controls.hidden = stream === null;
    if (stream === null) return;
    const mayLead = stream.token !== null;
    for (const control of [pause, newSeed, end]) {
      control.hidden = !mayLead;
      control.disabled = !STEERABLE.has(phase);
    }
    const label = phase === "paused" ? "Resume" : "Pause";
    if (pause.ariaLabel !== label) {
      pause.ariaLabel = label;
      pause.title = `${label} (space)`;
    }
    fullscreen.hidden = !document.fullscreenEnabled;
    const path = `api/streams/${encodeURIComponent(stream.id)}/script`;
    if (script.getAttribute("href") !== path) script.href = path;
  }

  /**
   * @param {import("./state.js").State} state
   * @param {import("./state.js").Phase} phase
   */
  #renderPrompt(state, phase) {
    const { caption, notice, examples, form, watching, prompt, transition, send } = this.parts;
    const mayLead = isDirector(state);
    write(caption, state.caption);
    if (notice.dataset.tone !== state.notice?.tone && state.notice !== null) {
      notice.dataset.tone = state.notice.tone;
    }
    write(notice, state.notice?.text ?? "");
    form.hidden = !mayLead || phase === "ended" || phase === "failed";
    examples.hidden = form.hidden;
    watching.hidden = mayLead || phase === "ended" || phase === "failed";
    transition.hidden = state.stream === null;
    const invitation = state.stream === null ? "Describe a scene" : "What comes next?";
    if (prompt.placeholder !== invitation) prompt.placeholder = invitation;
    send.disabled = SILENT.has(phase);
  }
}

/**
 * Screen readers announce what changes, so nothing is written twice.
 *
 * @param {Element} target
 * @param {string} text
 */
function write(target, text) {
  if (target.textContent !== text) target.textContent = text;
}
