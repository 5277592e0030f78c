/**
 * Which stream this tab has.  The address names it; the tab remembers it over a reload; the browser
 * keeps the director's tokens, so that a closed tab can be opened again at its address and steer.
 */

const KEY = "streamer.stream";
const TOKENS = "streamer.tokens";
const TOKENS_KEPT = 32;
const NAME = "streamer.name";

/**
 * The stream to go on with.  An address that names a stream of somebody else's is a link they
 * shared: it is watched, not steered, unless the link carries the director's token (`#id/token`).
 *
 * @returns {{stream: string|null, token: string|null}}
 */
export function rememberedStream() {
  const named = /^#([\w.:-]{1,64})(?:\/([\w-]{1,128}))?$/.exec(location.hash);
  const stream = named?.[1] ?? sessionStorage.getItem(KEY);
  if (stream === null) return { stream, token: null };
  return { stream, token: named?.[2] ?? new Map(tokens()).get(stream) ?? null };
}

/**
 * A link that others open.
 *
 * @param {string} stream
 * @param {string|null} token   makes whoever has the link a director
 * @param {boolean} isClean     the video alone
 */
export function shareLink(stream, token, isClean) {
  const address = new URL(location.href);
  address.search = isClean ? "?clean=1" : "";
  address.hash = token === null ? stream : `${stream}/${token}`;
  return address.href;
}

/** @param {string} stream @param {string|null} token  null: what was kept of it steers no longer */
export function rememberStream(stream, token) {
  const others = tokens().filter(([id]) => id !== stream);
  const kept = token === null ? others : [...others, [stream, token]].slice(-TOKENS_KEPT);
  localStorage.setItem(TOKENS, JSON.stringify(kept));
  if (token !== null) sessionStorage.setItem(KEY, stream);
  if (location.hash.slice(1) !== stream) history.replaceState(null, "", `#${stream}`);
}

/** The stream is over, or was left. */
export function forgetStream() {
  sessionStorage.removeItem(KEY);
  history.replaceState(null, "", location.pathname + location.search);
}

/** What others in the audience are shown. */
export function rememberedName() {
  return localStorage.getItem(NAME) ?? "";
}

/** @param {string} name */
export function rememberName(name) {
  localStorage.setItem(NAME, name);
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
