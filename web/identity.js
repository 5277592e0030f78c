/**
 * Which stream this tab has: the address names it, the tab's storage holds the director's token.
 */

const KEY = "streamer.stream";

/**
 * The stream to go on with.  An address that names another stream than the stored one is a link
 * somebody shared: it is watched, not steered.
 *
 * @returns {{stream: string|null, token: string|null}}
 */
export function rememberedStream() {
  const stored = read();
  const named = location.hash.slice(1);
  if (!/^[\w.:-]{1,64}$/.test(named)) return stored;
  return named === stored.stream ? stored : { stream: named, token: null };
}

/** @param {string} stream @param {string|null} token */
export function rememberStream(stream, token) {
  if (token !== null) sessionStorage.setItem(KEY, JSON.stringify({ stream, token }));
  if (location.hash.slice(1) !== stream) history.replaceState(null, "", `#${stream}`);
}

/** The stream is over, or was left. */
export function forgetStream() {
  sessionStorage.removeItem(KEY);
  history.replaceState(null, "", location.pathname + location.search);
}

/** @returns {{stream: string|null, token: string|null}} */
function read() {
  try {
    const { stream, token } = JSON.parse(sessionStorage.getItem(KEY) ?? "{}");
    if (typeof stream === "string" && typeof token === "string") return { stream, token };
  } catch {
    // What cannot be read was not written by this page.
  }
  return { stream: null, token: null };
}
