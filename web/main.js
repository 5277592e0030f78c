/**
 * The page: wires the state to the server, the video, the keys and the document.
 *
 * For tests and for the curious, `window.streamer` has
 *   state()  the present state (see state.js) with `phase`, a copy
 *   stats()  {phase, fpsShown, framesShown, lastRtpTimestamp, roundTripMs, latencyMs, codec, route,
 *             server}: what this page measured; server: the last `statistics` message or null
 */

import { bindButtons, bindKeys, watchIdle } from "./actions.js";
import { socketOf, vocabulary } from "./api.js";
import { ControlConnection } from "./connection.js";
import { element } from "./dom.js";
import {
  forgetStream,
  rememberName,
  rememberStream,
  rememberedName,
  rememberedStream,
} from "./identity.js";
import { Figures } from "./figures.js";
import { Keepsakes } from "./keepsakes.js";
import { isDirector, isPictureDue, phaseOf } from "./phase.js";
import { Picture } from "./picture.js";
import { Player } from "./player.js";
import { PromptLine } from "./promptline.js";
import * as protocol from "./protocol.js";
import { closePanels, toggleFullscreen, toggleInset } from "./screen.js";
import { initialState, reduce } from "./state.js";
import { Steering } from "./steering.js";
import { FilesView } from "./view-files.js";
import { MenuView } from "./view-menu.js";
import { OpeningView } from "./view-opening.js";
import { PeopleView } from "./view-people.js";
import { RibbonView } from "./view-ribbon.js";
import { ShareView } from "./view-share.js";
import { StatisticsView } from "./view-statistics.js";
import { renderKeys, renderVocabulary } from "./view-words.js";
import { View } from "./view.js";
import { readVocabulary } from "./vocabulary.js";
import { readWishes } from "./wishes.js";
import { factsWords } from "./words.js";

const RENDER_EVERY_MS = 250;
const IDLE_AFTER_MS = 4000;
const NOTICE_MS = { progress: 20_000, done: 6000, problem: 9000 };

const wishes = readWishes(location.search);
const { isClean } = wishes;

const view = new View();
const { parts } = view;
const picture = new Picture(parts.picture, parts, wishes.upscaling);
const files = new FilesView();
const share = new ShareView();
/** @type {import("./promptline.js").Page} */
const page = { state: () => state, dispatch, send: (message) => control.send(message) };
const opening = new OpeningView(page.state, {
  onTaken() {
    closePanels();
    line.focus();
  },
  onBegun: beginWith,
  onRefused(fault) {
    closePanels();
    complain(fault);
  },
  onChanged: render,
});
const line = new PromptLine(parts, page, opening);
const steering = new Steering(page, connectVideo);
const ribbon = new RibbonView((text) => line.fill(text));
const statisticsView = new StatisticsView();
const people = new PeopleView(rememberedName(), {
  onHandOver: (to) => control.send(protocol.handOver(to)),
  onOpened: (isOpen) => control.send(protocol.openSuggestions(isOpen)),
  onPicked: (suggestion) => line.pick(suggestion),
  onDismissed: (id) => control.send(protocol.dismiss(id)),
  onNamed: rename,
});
const menu = new MenuView(parts.video, {
  onSeed: (seed) => steering.reseed(seed, `seed ${seed}`),
  onEnd() {
    closePanels();
    steering.end();
  },
});

let state = initialState();
let identity = rememberedStream();
let noticeTimer = 0;

const figures = new Figures();
const keepsakes = new Keepsakes(() => identity, dispatch);

/** @param {import("./state.js").Event} event */
function dispatch(event) {
  const before = state;
  state = reduce(before, event);
  if (state === before) return;
  if (state.notice !== before.notice) renewNoticeTimer();
  if (state.measured !== before.measured && state.measured !== null) {
    const { promptId, latencyMs } = state.measured;
    figures.noteWay(state.measured);
    control.send(protocol.shown(promptId, latencyMs, figures.jitterBufferMs));
  }
  if (before.stream !== null && state.stream === null) leaveStream();
  render();
}

function render() {
  const nowMs = performance.now();
  const { stream } = state;
  opening.render(state);
  view.render(state, nowMs, opening.isThere);
  ribbon.render(state, nowMs);
  people.render(state);
  files.render(state, keepsakes.recordedS(nowMs));
  share.render(identity);
  const plays = state.hasPicture && stream !== null && stream.state !== "ended";
  const facts = factsWords(state, player.route);
  statisticsView.render(figures, plays ? stream.fps : null, facts);
  menu.render(state, steering.isAble);
}

function renewNoticeTimer() {
  window.clearTimeout(noticeTimer);
  const { notice } = state;
  if (notice === null) return;
  noticeTimer = window.setTimeout(() => say(null), NOTICE_MS[notice.tone]);
}

/** @param {import("./state.js").Notice|null} notice */
function say(notice) {
  dispatch({ type: "noticed", notice });
}

/** @param {string} text */
function complain(text) {
  say({ tone: "problem", text });
}

// ---- the server ----------------------------------------------------------------------------------

const control = new ControlConnection(socketOf("ws"), {
  onOpen: () => {
    const name = rememberedName();
    control.send(protocol.hello(identity.stream, identity.token, name === "" ? null : name));
  },
  onMessage: take,
  onLost(retryMs) {
    endVideo();
    dispatch({ type: "lost", retryMs });
  },
  onRetrying: () => dispatch({ type: "retrying" }),
  onRefused(reason) {
    player.close();
    dispatch({ type: "failed", code: "refused", message: reason || "the server refused" });
  },
});

const player = new Player(parts.video, wishes.route, {
  onOffer: (sdp) => control.send(protocol.offer(sdp)),
  onPainted(frame) {
    picture.painted(frame.nowMs);
    dispatch({ type: "painted", ...frame });
  },
  onRenewed() {
    picture.hold();
    dispatch({ type: "video_renewed" });
  },
  isPictureDue: () => isPictureDue(state),
  // As if it were said on the control connection about an offer: there may be no place.
  onRefused: (code, message) => take({ type: "error", code, message, about: "offer" }),
  onUnreachable() {
    const message = "the server is there, but no picture arrives";
    dispatch({ type: "failed", code: "video_unreachable", message });
  },
});

/** @param {import("./protocol.js").ServerMessage} message */
function take(message) {
  dispatch({ type: "received", message, nowMs: performance.now() });
  switch (message.type) {
    case "welcome":
      // A first prompt typed before the connection broke, or before there was one.
      if (state.wanted !== null && identity.stream === null) {
        control.send(protocol.start(state.wanted, null));
      }
      break;
    case "stream":
      if (message.id !== identity.stream) figures.forget();
      identity = { stream: message.id, token: message.token };
      rememberStream(message.id, message.token);
      if (message.state !== "ended") connectVideo();
      void keepsakes.learn();
      break;
    case "statistics":
      void figures
        .note(message, player, control.roundTripMs, state.stream?.fps ?? 16)
        .then(render);
      break;
    case "recording":
      keepsakes.follow(message);
      break;
    case "publication":
      keepsakes.followPublication(message);
      break;
    case "direction":
      identity = { ...identity, token: message.token };
      if (identity.stream !== null) rememberStream(identity.stream, message.token);
      void keepsakes.learn();
      break;
    case "status":
      if (message.state === "ended") endVideo();
      break;
    case "answer":
      player.accept(message.sdp);
      break;
    case "error":
      takeError(message);
      break;
  }
}

/** @param {import("./protocol.js").ServerError} error */
function takeError(error) {
  if (error.about === "hello" && error.code === "stream_unknown") {
    leaveStream();
  } else if (error.about === "hello" && error.code === "not_director") {
    // The token is of no use: watch, as anybody with the link may.
    identity = { ...identity, token: null };
    control.open();
  } else if (state.failure?.kind === "failed") {
    endVideo();
  } else if (error.about === "offer" && state.failure === null) {
    player.refused();
  } else if (error.about === "offer") {
    // All places are taken: the viewer asks again, not the player by itself.
    endVideo();
  }
}

function connectVideo() {
  if (!Player.isSupported) {
    const message = "this browser plays neither WebRTC nor MediaSource";
    dispatch({ type: "failed", code: "video_unsupported", message });
  } else if (identity.stream !== null) {
    const path = `ws/video/${encodeURIComponent(identity.stream)}`;
    player.connect(state.server?.ice_servers ?? [], socketOf(path));
  }
}

function endVideo() {
  closePanels();
  picture.hold();
  player.close();
}

/** Back to the first screen: nothing of the stream is kept. */
function leaveStream() {
  identity = { stream: null, token: null };
  forgetStream();
  player.clear();
  picture.clear();
  keepsakes.forget();
  closePanels();
}

/**
 * Go with a stream that was made over HTTP, whatever was watched before.
 *
 * @param {import("./protocol.js").StreamInfo} made
 * @param {number} sentMs   when it was asked for
 */
function beginWith({ id, token, prompt }, sentMs) {
  dispatch({ type: "left" });
  identity = { stream: id, token };
  rememberStream(id, token);
  dispatch({ type: "prompted", prompt, nowMs: sentMs });
  control.open();
}

// ---- what the viewer does ------------------------------------------------------------------------

/** Others know us by another name from the next greeting on. @param {string} name */
function rename(name) {
  rememberName(name);
  control.open();
}

parts.action.addEventListener("click", () => {
  const action = parts.action.dataset.action;
  if (action === "reconnect") control.retryNow();
  if (action === "reload") location.reload();
  if (action === "leave" || action === "unqueue") steering.leave();
  if (action === "retry") steering.retry();
  if (action === "inset") ACTIONS.inset();
});
// A browser that holds back even muted video plays it after a touch.
parts.app.addEventListener("click", () => {
  if (parts.video.readyState > 0 && parts.video.paused) void parts.video.play();
});

/** @param {string} id */
const toggler = (id) => () => {
  const panel = element(id, HTMLElement);
  if (state.stream !== null || id === "keys" || id === "words") panel.togglePopover();
};

/** @type {import("./actions.js").Actions} */
const ACTIONS = {
  prompt: () => line.focus(),
  pause: () => steering.togglePause(),
  anew: () => steering.anew(),
  seed: () => steering.newSeed(),
  screenshot: () => void (state.hasPicture && keepsakes.screenshot()),
  clip: () => void (isDirector(state) && keepsakes.clip()),
  record: () => void (isDirector(state) && keepsakes.toggleRecording()),
  share: toggler("share"),
  people: toggler("people"),
  vocabulary: () => element("sections", HTMLElement).childElementCount > 0 && toggler("words")(),
  statistics() {
    figures.toggle();
    render();
  },
  opening: () => opening.choose(),
  inset() {
    closePanels();
    toggleInset(parts.video, complain);
  },
  fullscreen: () => toggleFullscreen(parts.app),
  menu: toggler("menu"),
  keys: toggler("keys"),
};

bindButtons(ACTIONS);
if (!isClean) bindKeys(ACTIONS);

// ---- the life of the page ------------------------------------------------------------------------

async function learnVocabulary() {
  try {
    const sections = readVocabulary(await vocabulary());
    renderVocabulary(sections, (wording) => line.add(wording));
  } catch (error) {
    console.warn("the vocabulary is not known:", error);
  }
}

window.addEventListener("pagehide", () => {
  player.close();
  control.close();
});
window.addEventListener("pageshow", (event) => {
  if (event.persisted) control.open();
});
window.addEventListener("online", () => control.retryNow());
window.addEventListener("hashchange", () => {
  const asked = rememberedStream();
  if (asked.stream !== identity.stream || asked.token !== identity.token) location.reload();
});

Object.assign(window, {
  streamer: {
    state: () => structuredClone({ ...state, phase: phaseOf(state) }),
    stats: () => ({
      phase: phaseOf(state),
      fpsShown: player.fpsShown,
      framesShown: player.numPainted,
      lastRtpTimestamp: player.lastRtpTimestamp,
      roundTripMs: control.roundTripMs,
      latencyMs: state.measured?.latencyMs ?? null,
      codec: state.codec,
      route: player.route,
      server: state.statistics,
    }),
  },
});

window.setInterval(render, RENDER_EVERY_MS);
parts.app.toggleAttribute("data-clean", isClean);
parts.prompt.value = wishes.prompt;
renderKeys();
render();
watchIdle(
  parts.app,
  () => {
    const isPanelOpen = document.querySelector(":popover-open") !== null;
    return state.hasPicture && parts.prompt.value === "" && !opening.isThere && !isPanelOpen;
  },
  IDLE_AFTER_MS,
);
control.open();
if (!isClean) {
  void learnVocabulary();
  line.focus();
}
