/**
 * Writes the state into the document: what is said, the badge, the controls, the prompt line.
 */

import { element, make, write } from "./dom.js";
import { SILENT, STEERABLE, isDirector, maySuggest, phaseOf } from "./phase.js";
import { timeLeftWords, watchingWords, wordsFor } from "./words.js";

/**
 * What each transition is called in the page, and what it does; anything else keeps its own name.
 *
 * @type {Record<string, [string, string]>}
 */
const TRANSITIONS = {
  recache: ["recache", "new words, and the past is read in their light"],
  blend: ["blend in", "the words change over a few blocks"],
  swap: ["swap", "new words, the past stays as it was understood"],
  scene: ["new scene", "the past is left behind, the picture moves on"],
  cut: ["cut", "everything starts afresh"],
};

/** Owner: the page.  `render` may be called at any time; it touches only what changed. */
export class View {
  parts = {
    app: element("app", HTMLDivElement),
    picture: element("picture", HTMLElement),
    screen: element("screen", HTMLDivElement),
    video: element("video", HTMLVideoElement),
    upscaled: element("upscaled", HTMLCanvasElement),
    still: element("still", HTMLCanvasElement),
    ambient: element("ambient", HTMLCanvasElement),
    model: element("model", HTMLSpanElement),
    badge: element("badge", HTMLParagraphElement),
    hint: element("hint", HTMLParagraphElement),
    controls: element("controls", HTMLDivElement),
    pause: element("pause", HTMLButtonElement),
    fullscreen: element("fullscreen", HTMLButtonElement),
    hero: element("hero", HTMLElement),
    title: element("hero-title", HTMLHeadingElement),
    sentence: element("hero-sentence", HTMLParagraphElement),
    code: element("hero-code", HTMLParagraphElement),
    loading: element("loading", HTMLDivElement),
    progress: element("progress", HTMLProgressElement),
    stage: element("stage", HTMLSpanElement),
    timeLeft: element("time-left", HTMLSpanElement),
    action: element("action", HTMLButtonElement),
    caption: element("caption", HTMLParagraphElement),
    notice: element("notice", HTMLParagraphElement),
    examples: element("examples", HTMLDivElement),
    form: element("prompt-form", HTMLFormElement),
    prompt: element("prompt", HTMLInputElement),
    promptLabel: element("prompt-label", HTMLLabelElement),
    transition: element("transition", HTMLSelectElement),
    send: element("send", HTMLButtonElement),
    watching: element("watching", HTMLParagraphElement),
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
    app.dataset.role = isDirector(state) ? "director" : "viewer";
    if (state.server !== null && state.server !== this.#greeted) this.#greet(state.server);
    this.#renderHero(state, phase, nowMs);
    this.#renderControls(state, phase);
    this.#renderPrompt(state, phase);
    document.title = state.caption === "" ? "streamer" : `${state.caption} - streamer`;
  }

  /** @param {import("./protocol.js").Welcome} server */
  #greet(server) {
    this.#greeted = server;
    const { model, examples, prompt, transition } = this.parts;
    write(model, server.title);
    prompt.maxLength = server.prompt_limit;
    examples.replaceChildren(
      ...server.examples.map((text) => {
        const button = make("button", "example", text);
        button.type = "button";
        return button;
      }),
    );
    const chosen = transition.value;
    transition.replaceChildren(new Option("transition", ""));
    for (const kind of server.transitions) {
      const [title, meaning] = TRANSITIONS[kind] ?? [kind, ""];
      const option = new Option(title, kind);
      option.title = meaning;
      transition.append(option);
    }
    transition.value = server.transitions.includes(chosen) ? chosen : "";
  }

  /**
   * @param {import("./state.js").State} state
   * @param {import("./phase.js").Phase} phase
   * @param {number} nowMs
   */
  #renderHero(state, phase, nowMs) {
    const { badge, hint, hero, title, sentence, code, action } = this.parts;
    const { loading, progress, stage, timeLeft } = this.parts;
    const words = wordsFor(state, nowMs);
    write(badge, words.badge);
    write(hint, words.hint);
    hero.hidden = words.title === "";
    write(title, words.title);
    write(sentence, words.sentence);
    code.hidden = words.code === "";
    write(code, words.code === "" ? "" : `code: ${words.code}`);
    loading.hidden = phase !== "loading";
    progress.value = state.loading;
    write(stage, state.stage);
    write(timeLeft, timeLeftWords(state, nowMs));
    action.hidden = words.action === null;
    action.dataset.action = words.action ?? "";
    write(action, words.actionLabel);
  }

  /**
   * @param {import("./state.js").State} state
   * @param {import("./phase.js").Phase} phase
   */
  #renderControls(state, phase) {
    const { controls, pause, fullscreen } = this.parts;
    controls.hidden = state.stream === null;
    if (state.stream === null) return;
    pause.hidden = !isDirector(state);
    pause.disabled = !STEERABLE.has(phase);
    const label = phase === "paused" ? "Go on" : "Pause";
    if (pause.ariaLabel !== label) {
      pause.ariaLabel = label;
      pause.title = `${label} (space)`;
    }
    fullscreen.hidden = !document.fullscreenEnabled;
  }

  /**
   * @param {import("./state.js").State} state
   * @param {import("./phase.js").Phase} phase
   */
  #renderPrompt(state, phase) {
    const { caption, notice, examples, form, watching } = this.parts;
    const { prompt, promptLabel, transition, send } = this.parts;
    const [mayLead, isSuggesting] = [isDirector(state), maySuggest(state)];
    const isOver = phase === "ended" || phase === "failed";
    write(caption, state.caption);
    if (notice.dataset.tone !== state.notice?.tone && state.notice !== null) {
      notice.dataset.tone = state.notice.tone;
    }
    write(notice, state.notice?.text ?? "");
    form.hidden = isOver || phase === "queued" || !(mayLead || isSuggesting);
    examples.hidden = form.hidden;
    const watchingText = isOver ? "" : watchingWords(state);
    watching.hidden = watchingText === "";
    write(watching, watchingText);
    transition.hidden = state.stream === null || !mayLead;
    const invitation = invitationOf(state, isSuggesting);
    if (prompt.placeholder !== invitation) prompt.placeholder = invitation;
    write(promptLabel, isSuggesting ? "Suggestion" : "Prompt");
    send.ariaLabel = isSuggesting ? "Suggest it to the director" : "Send the prompt";
    send.disabled = SILENT.has(phase);
  }
}

/** @param {import("./state.js").State} state @param {boolean} isSuggesting */
function invitationOf(state, isSuggesting) {
  if (isSuggesting) return "Suggest what comes next";
  return state.stream === null ? "Describe a scene" : "What comes next?";
}
