/**
 * Which stream this tab has.  The address names it; the tab remembers it over a reload; the browser
 * keeps the director's tokens, so that a closed tab can be opened again at its address and steer.
 */

const KEY = "streamer.stream";
const TOKENS = "streamer.tokens";
const TOKENS_KEPT = 32;

/**
 * The stream to go on with.  An address that names a stream of somebody else's is a link they
 * shared: it is watched, not steered.
 *
 * @returns {{stream: string|null, token: string|null}}
 */
export function rememberedStream() {
  const named = location.hash.slice(1);
  const stream = /^[\w.:-]{1,64}$/.test(named) ? named : sessionStorage.getItem(KEY);
  return { stream, token: stream === null ? null : new Map(tokens()).get(stream) ?? null };
}

/** @param {string} stream @param {string|null} token */
export function rememberStream(stream, token) {
  if (token !== null) {
    sessionStorage.setItem(KEY, stream);
    const others = tokens().filter(([id]) => id !== stream);
    const kept = [...others, [stream, token]].slice(-TOKENS_KEPT);
    localStorage.setItem(TOKENS, JSON.stringify(kept));
  }
  if (location.hash.slice(1) !== stream) history.replaceState(null, "", `#${stream}`);
}

/** The stream is over, or was left. */
export function forgetStream() {
  sessionStorage.removeItem(KEY);
  history.replaceState(null, "", location.pathname + location.search);
}

/** @returns {[string, string][]} stream and token, oldest first */
function tokens() {
  try {
    const pairs = JSON.parse(localStorage.getItem(TOKENS) ?? "[]");
    return pairs.filter((/** @type {unknown[]} */ pair) => pair.every((part) => typeof part === "string"));
  } catch {
    // What cannot be read was not written by this page.
    return [];
  }
}
