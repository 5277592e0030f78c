/**
 * The page: wires the state to the server, the video, the keys and the document.
 *
 * For tests and for the curious, `window.streamer` has
 *   state()  the present state (see state.js) with `phase`, a copy
 *   stats()  {phase, fpsShown, framesShown, lastRtpTimestamp, roundTripMs, latencyMs, codec,
 *             server}: what this page measured; server: the last `statistics` message or null
 *
 * Address parameters: `upscale=on|off` enlarges the picture with the GPU filter always or never
 * (default: where there is a GPU).
 */

import { ControlConnection } from "./connection.js";
import { PromptHistory } from "./history.js";
import { forgetStream, rememberStream, rememberedStream } from "./identity.js";
import { Picture } from "./picture.js";
import { hello, offer, pause, resume, setPrompt, setSeed, shown, start, stop } from "./protocol.js";
import { initialState, isDirector, isPictureDue, phaseOf, reduce } from "./state.js";
import { VideoLink } from "./video.js";
import { View } from "./view.js";

const RENDER_EVERY_MS = 500;
const IDLE_AFTER_MS = 4000;
const NOTICE_MS = { progress: 20_000, done: 6000, problem: 9000 };
const BLEND_BLOCKS = 4;
const HISTORY_KEY = "streamer.prompts";
const STATISTICS_KEY = "streamer.statistics";

const view = new View();
const { parts } = view;
const upscaling = new URLSearchParams(location.search).get("upscale");
const picture = new Picture(
  parts.picture,
  parts,
  upscaling === "on" || upscaling === "off" ? upscaling : "auto",
);
const sent = new PromptHistory(JSON.parse(sessionStorage.getItem(HISTORY_KEY) ?? "[]"));

let state = initialState();
let identity = rememberedStream();
let isStatisticsWanted = localStorage.getItem(STATISTICS_KEY) !== "off";
let noticeTimer = 0;
let idleTimer = 0;

/** @param {import("./state.js").Event} event */
function dispatch(event) {
  const before = state;
  state = reduce(before, event);
  if (state === before) return;
  if (state.notice !== before.notice) renewNoticeTimer();
  if (state.measured !== before.measured && state.measured !== null) {
    control.send(shown(state.measured.promptId, state.measured.latencyMs));
  }
  if (before.stream !== null && state.stream === null) leaveStream();
  render();
}

function render() {
  view.render(state, performance.now());
  view.renderStatistics(state, {
    fpsShown: video.fpsShown,
    roundTripMs: control.roundTripMs,
    isWanted: isStatisticsWanted,
  });
}

function renewNoticeTimer() {
  window.clearTimeout(noticeTimer);
  const { notice } = state;
  if (notice === null) return;
  noticeTimer = window.setTimeout(
    () => dispatch({ type: "noticed", notice: null }),
    NOTICE_MS[notice.tone],
  );
}

// ---- the server ----------------------------------------------------------------------------------

const address = new URL("ws", location.href);
address.protocol = address.protocol.replace("http", "ws");
address.hash = address.search = "";

const control = new ControlConnection(address.href, {
  onOpen: () => control.send(hello(identity.stream, identity.token)),
  onMessage: take,
  onLost(retryMs) {
    picture.hold();
    video.close();
    dispatch({ type: "lost", retryMs });
  },
  onRetrying: () => dispatch({ type: "retrying" }),
  onRefused(reason) {
    video.close();
    dispatch({ type: "failed", code: "refused", message: reason || "the server refused" });
  },
});

const video = new VideoLink(parts.video, {
  onOffer: (sdp) => control.send(offer(sdp)),
  onPainted(rtpTimestamp, nowMs) {
    picture.painted(nowMs);
    dispatch({ type: "painted", rtpTimestamp, nowMs });
  },
  onRenewed() {
    picture.hold();
    dispatch({ type: "video_renewed" });
  },
  onUnreachable() {
    // Nothing is sent while nothing is made: the path may be as good as any.
    if (!isPictureDue(state)) return connectVideo();
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
      if (state.wanted !== null && identity.stream === null) control.send(start(state.wanted, null));
      break;
    case "stream":
      identity = { stream: message.id, token: message.token };
      rememberStream(message.id, message.token);
      if (message.state !== "ended") connectVideo();
      break;
    case "answer":
      void video.accept(message.sdp);
      break;
    case "status":
      if (message.state === "ended") endVideo();
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
    identity.token = null;
    control.open();
  } else if (state.failure?.kind === "failed") {
    endVideo();
  } else if (error.about === "offer" && state.failure === null) {
    video.refused();
  } else if (error.about === "offer") {
    // All places are taken: the viewer asks again, not the link by itself.
    video.close();
  }
}

function connectVideo() {
  if (typeof RTCPeerConnection === "undefined") {
    const message = "this browser has no WebRTC";
    dispatch({ type: "failed", code: "webrtc_missing", message });
    return;
  }
  void video.connect(state.server?.ice_servers ?? []);
}

function endVideo() {
  picture.hold();
  video.close();
}

/** Back to the first screen: nothing of the stream is kept. */
function leaveStream() {
  identity = { stream: null, token: null };
  forgetStream();
  video.close();
  picture.clear();
}

// ---- what the viewer does ------------------------------------------------------------------------

/** @param {string} text */
function sendPrompt(text) {
  const wish = text.trim();
  if (wish === "" || !isDirector(state) || parts.send.disabled) return;
  const kind = /** @type {import("./protocol.js").Transition["kind"]|""} */ (parts.transition.value);
  const blocks = kind === "blend" ? BLEND_BLOCKS : 1;
  const isFirst = state.stream === null;
  const transition = isFirst || kind === "" ? null : { kind, blocks };
  const prompt = { id: newPromptId(), text: wish, transition };
  dispatch({ type: "prompted", prompt, nowMs: performance.now() });
  control.send(isFirst ? start(prompt, null) : setPrompt(prompt));
  sent.add(wish);
  sessionStorage.setItem(HISTORY_KEY, JSON.stringify(sent.sent));
  parts.prompt.value = "";
}

function newPromptId() {
  const words = crypto.getRandomValues(new Uint32Array(2));
  return `p-${[...words].map((word) => word.toString(36)).join("")}`;
}

function togglePause() {
  if (parts.pause.disabled || parts.pause.hidden) return;
  control.send(phaseOf(state) === "paused" ? resume() : pause());
}

function newSeed() {
  if (parts.newSeed.disabled || parts.newSeed.hidden) return;
  const seed = crypto.getRandomValues(new Uint32Array(1))[0];
  if (control.send(setSeed(seed))) {
    dispatch({ type: "noticed", notice: { tone: "done", text: `new seed ${seed}` } });
  }
}

function toggleStatistics() {
  isStatisticsWanted = !isStatisticsWanted;
  localStorage.setItem(STATISTICS_KEY, isStatisticsWanted ? "on" : "off");
  render();
}

function toggleFullscreen() {
  if (!document.fullscreenEnabled) return;
  const change =
    document.fullscreenElement === null
      ? parts.app.requestFullscreen()
      : document.exitFullscreen();
  change.catch((error) => console.warn("fullscreen was not granted:", error));
}

function takeWayOut() {
  const action = parts.action.dataset.action;
  const about = state.failure?.about;
  if (action === "reconnect") control.retryNow();
  if (action === "reload") location.reload();
  if (action === "leave") {
    if (state.stream !== null && state.stream.state !== "ended") control.send(stop());
    dispatch({ type: "left" });
  }
  if (action === "retry") {
    dispatch({ type: "retried" });
    if (about === "offer") connectVideo();
    else if (state.wanted !== null) control.send(start(state.wanted, null));
  }
}

parts.form.addEventListener("submit", (event) => {
  event.preventDefault();
  sendPrompt(parts.prompt.value);
});
parts.prompt.addEventListener("keydown", (event) => {
  if (event.key === "Escape") parts.prompt.blur();
  if (event.key !== "ArrowUp" && event.key !== "ArrowDown") return;
  event.preventDefault();
  const typed = parts.prompt.value;
  parts.prompt.value = event.key === "ArrowUp" ? sent.older(typed) : sent.newer(typed);
});
parts.examples.addEventListener("click", (event) => {
  if (event.target instanceof HTMLButtonElement) sendPrompt(event.target.textContent ?? "");
});
parts.pause.addEventListener("click", togglePause);
parts.newSeed.addEventListener("click", newSeed);
parts.statisticsToggle.addEventListener("click", toggleStatistics);
parts.fullscreen.addEventListener("click", toggleFullscreen);
parts.end.addEventListener("click", () => control.send(stop()));
parts.action.addEventListener("click", takeWayOut);
// A browser that holds back even muted video plays it after a touch.
parts.app.addEventListener("click", () => {
  if (parts.video.srcObject !== null && parts.video.paused) void parts.video.play();
});

/** @type {Record<string, () => void>} */
const SHORTCUTS = {
  "/": () => parts.prompt.focus(),
  " ": togglePause,
  n: newSeed,
  i: toggleStatistics,
  f: toggleFullscreen,
};

document.addEventListener("keydown", (event) => {
  const isTaken = event.target instanceof Element && event.target.closest("input, select");
  const isPress = event.target instanceof Element && event.target.closest("button, a");
  if (isTaken || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  if (isPress && event.key === " ") return;
  const shortcut = SHORTCUTS[event.key];
  if (shortcut === undefined) return;
  event.preventDefault();
  shortcut();
});

function wake() {
  parts.app.toggleAttribute("data-idle", false);
  window.clearTimeout(idleTimer);
  idleTimer = window.setTimeout(() => {
    parts.app.toggleAttribute("data-idle", state.hasPicture && parts.prompt.value === "");
  }, IDLE_AFTER_MS);
}
for (const name of ["pointermove", "pointerdown", "keydown", "focusin"]) {
  document.addEventListener(name, wake, { passive: true });
}

// ---- the life of the page ------------------------------------------------------------------------

window.addEventListener("pagehide", () => {
  video.close();
  control.close();
});
window.addEventListener("pageshow", (event) => {
  if (event.persisted) control.open();
});
window.addEventListener("online", () => control.retryNow());
window.addEventListener("hashchange", () => {
  if (rememberedStream().stream !== identity.stream) location.reload();
});

Object.assign(window, {
  streamer: {
    state: () => structuredClone({ ...state, phase: phaseOf(state) }),
    stats: () => ({
      phase: phaseOf(state),
      fpsShown: video.fpsShown,
      framesShown: video.numPainted,
      lastRtpTimestamp: video.lastRtpTimestamp,
      roundTripMs: control.roundTripMs,
      latencyMs: state.measured?.latencyMs ?? null,
      codec: state.codec,
      server: state.statistics,
    }),
  },
});

window.setInterval(render, RENDER_EVERY_MS);
render();
wake();
control.open();
parts.prompt.focus({ preventScroll: true });
