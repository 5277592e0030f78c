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
   * @param {boolean} isOpening   the next prompt begins a stream with the visitor's file
   */
  render(state, nowMs, isOpening) {
    const phase = phaseOf(state);
    const { app } = this.parts;
    if (app.dataset.phase !== phase) app.dataset.phase = phase;
    app.toggleAttribute("data-picture", state.hasPicture);
    app.dataset.role = isDirector(state) ? "director" : "viewer";
    if (state.server !== null && state.server !== this.#greeted) this.#greet(state.server);
    // The browser leaves a black place with a text of its own; the page says it better.
    const isOut = document.pictureInPictureElement === this.parts.video;
    app.toggleAttribute("data-inset", isOut);
    this.#renderHero(wordsFor(state, nowMs, isOut), state, phase, nowMs);
    this.#renderControls(state, phase);
    this.#renderPrompt(state, phase, isOpening);
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
   * @param {import("./words.js").Words} words
   * @param {import("./state.js").State} state
   * @param {import("./phase.js").Phase} phase
   * @param {number} nowMs
   */
  #renderHero(words, state, phase, nowMs) {
    const { badge, hint, hero, title, sentence, code, action } = this.parts;
    const { loading, progress, stage, timeLeft } = this.parts;
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
   * @param {boolean} isOpening
   */
  #renderPrompt(state, phase, isOpening) {
    const { caption, notice, examples, form, watching } = this.parts;
    const { prompt, promptLabel, transition, send } = this.parts;
    const [mayLead, isSuggesting] = [isDirector(state), maySuggest(state)];
    const isOver = (phase === "ended" && !isOpening) || phase === "failed";
    const mayType = mayLead || isSuggesting || isOpening;
    write(caption, state.caption);
    if (notice.dataset.tone !== state.notice?.tone && state.notice !== null) {
      notice.dataset.tone = state.notice.tone;
    }
    write(notice, state.notice?.text ?? "");
    form.hidden = isOver || phase === "queued" || !mayType;
    examples.hidden = form.hidden;
    const watchingText = isOver || isOpening ? "" : watchingWords(state);
    watching.hidden = watchingText === "";
    write(watching, watchingText);
    transition.hidden = state.stream === null || !mayLead || isOpening;
    const [label, invitation, sends] = lineWords(state, isSuggesting, isOpening);
    if (prompt.placeholder !== invitation) prompt.placeholder = invitation;
    write(promptLabel, label);
    send.ariaLabel = sends;
    send.disabled = SILENT.has(phase) && !(isOpening && phase === "ended");
  }
}

/**
 * What the prompt line is called, what it invites to, and what its button does.
 *
 * @param {import("./state.js").State} state
 * @param {boolean} isSuggesting
 * @param {boolean} isOpening
 */
function lineWords(state, isSuggesting, isOpening) {
  if (isOpening) return ["Prompt", "What happens in it?", "Begin a stream with the file"];
  if (isSuggesting) return ["Suggestion", "Suggest what comes next", "Suggest it to the director"];
  const invitation = state.stream === null ? "Describe a scene" : "What comes next?";
  return ["Prompt", invitation, "Send the prompt"];
}
