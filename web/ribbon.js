/**
 * The ribbon: the prompts of a stream along its time.  Pure functions, no clock, no document.
 *
 * Time is counted in frames of the stream, as the server names them: they stand still while it is
 * paused, and who comes late has the same past as everybody else.
 */

/**
 * @typedef {{id: string, text: string, block: number, frame: number}} Shown   frame: its first
 *
 * @typedef {object} Ribbon
 * @property {Shown[]} prompts   oldest first
 * @property {{frame: number, ms: number}|null} anchor   this frame was shown at this time
 * @property {number} rate       frames a second since then
 *
 * @typedef {object} Segment
 * @property {string} id
 * @property {string} text
 * @property {number} from       0..1 of the ribbon's width
 * @property {number} to         0..1
 * @property {number} startS     time of the stream at which the prompt took effect
 * @property {boolean} isCurrent
 * @property {boolean} isCutOff  it began before the ribbon does
 *
 * @typedef {object} Coming      the newest prompt, on its way
 * @property {string} text
 * @property {number} from       0..1
 *
 * @typedef {{segments: Segment[], now: number, nowS: number, coming: Coming|null}} Layout
 */

/** How much time the ribbon spans: the first of these that the stream fits into, then the last. */
const SPANS_S = [30, 60, 120, 300];
/** Where "now" is at most; what is right of it is still to come. */
const NOW_AT = 0.86;
/** A prompt that is on its way begins at least so far right of now. */
const COMING_GAP = 0.01;
/** So many prompts are kept. */
const KEPT = 200;
/** The estimate of the present frame is corrected when it is off by more seconds than this. */
const DRIFT_S = 2;

/** @returns {Ribbon} */
export function emptyRibbon() {
  return { prompts: [], anchor: null, rate: 0 };
}

/**
 * What was shown before this page came.
 *
 * @param {Ribbon} ribbon
 * @param {import("./protocol.js").PromptHistory} told
 * @param {number} nowMs
 * @returns {Ribbon}
 */
export function withHistory(ribbon, { prompts: past, frame }, nowMs) {
  const prompts = past.map(({ prompt_id: id, text, block, frame }) => ({ id, text, block, frame }));
  return {
    ...ribbon,
    prompts: prompts.slice(-KEPT),
    anchor: prompts.length === 0 ? ribbon.anchor : { frame, ms: nowMs },
  };
}

/**
 * A prompt takes effect with `shown.frame`, now.
 *
 * @param {Ribbon} ribbon
 * @param {Shown} shown
 * @param {number} nowMs
 * @returns {Ribbon}
 */
export function withPrompt(ribbon, shown, nowMs) {
  const earlier = ribbon.prompts.filter((each) => each.frame < shown.frame);
  return {
    ...ribbon,
    prompts: [...earlier, shown].slice(-KEPT),
    anchor: { frame: shown.frame, ms: nowMs },
  };
}

/**
 * How fast frames are shown from now on; 0 while the picture stands.
 *
 * @param {Ribbon} ribbon
 * @param {number} rate
 * @param {number} nowMs
 * @returns {Ribbon}
 */
export function withRate(ribbon, rate, nowMs) {
  if (ribbon.anchor === null) return { ...ribbon, rate };
  return { ...ribbon, rate, anchor: { frame: frameAt(ribbon, nowMs), ms: nowMs } };
}

/**
 * The statistics tell which block was made last; from that the frame on screen is estimated when
 * nothing better is known.
 *
 * @param {Ribbon} ribbon
 * @param {import("./protocol.js").Statistics} told
 * @param {number} fps     the stream's own rate
 * @param {number} nowMs
 * @returns {Ribbon}
 */
export function withStatistics(ribbon, told, fps, nowMs) {
  const next = withRate(ribbon, told.fps_played, nowMs);
  const last = next.prompts.at(-1);
  if (last === undefined || told.block_ms === 0) return next;
  const framesPerBlock = (told.fps_generated * told.block_ms) / 1000;
  const made = last.frame + (told.block + 1 - last.block) * framesPerBlock;
  const frame = Math.max(last.frame, made - told.queued_s * fps);
  const isOff = next.anchor === null || Math.abs(next.anchor.frame - frame) > DRIFT_S * fps;
  return isOff ? { ...next, anchor: { frame, ms: nowMs } } : next;
}

/**
 * The frame on screen, estimated.
 *
 * @param {Ribbon} ribbon
 * @param {number} nowMs
 */
export function frameAt({ anchor, rate, prompts }, nowMs) {
  if (anchor === null) return prompts.at(-1)?.frame ?? 0;
  return anchor.frame + (Math.max(0, nowMs - anchor.ms) / 1000) * rate;
}

/**
 * Where everything is on the ribbon.
 *
 * @param {Ribbon} ribbon
 * @param {number} fps
 * @param {number} nowMs
 * @param {{text: string, inS: number}|null} coming   the newest prompt, if it is on its way
 * @returns {Layout}
 */
export function layout(ribbon, fps, nowMs, coming = null) {
  const nowS = frameAt(ribbon, nowMs) / fps;
  const spanS = SPANS_S.find((span) => nowS <= span * NOW_AT) ?? SPANS_S[SPANS_S.length - 1];
  const startS = Math.max(0, nowS - spanS * NOW_AT);
  const at = (/** @type {number} */ second) => (second - startS) / spanS;
  const now = at(nowS);
  const segments = ribbon.prompts.map((prompt, index) => {
    const next = ribbon.prompts[index + 1];
    const fromS = prompt.frame / fps;
    return {
      id: prompt.id,
      text: prompt.text,
      from: Math.max(0, at(fromS)),
      to: Math.min(now, next === undefined ? now : at(next.frame / fps)),
      startS: fromS,
      isCurrent: next === undefined,
      isCutOff: fromS < startS,
    };
  });
  const from = now + Math.max(COMING_GAP, (coming?.inS ?? 0) / spanS);
  return {
    segments: segments.filter((segment) => segment.to > 0 || segment.isCurrent),
    now,
    nowS,
    coming: coming === null ? null : { text: coming.text, from: Math.min(from, 1 - COMING_GAP) },
  };
}

/**
 * A time of the stream, as a clock shows it.
 *
 * @param {number} seconds
 */
export function clockWords(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  const tail = String(whole % 60).padStart(2, "0");
  return hours > 0 ? `${hours}:${String(minutes).padStart(2, "0")}:${tail}` : `${minutes}:${tail}`;
}
