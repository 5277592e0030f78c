/**
 * What the address of the page asks for:
 *
 *   clean=1                  the video alone, for OBS
 *   prompt=TEXT              stands in the prompt line already
 *   video=webrtc|websocket   the video comes this way always (default: WebRTC where it gets through)
 *   upscale=on|off           enlarge with the GPU filter always or never (default: where there is a GPU)
 */

/**
 * @typedef {object} Wishes
 * @property {boolean} isClean
 * @property {string} prompt
 * @property {"webrtc"|"websocket"|null} route   null: what gets through
 * @property {"auto"|"on"|"off"} upscaling
 */

/** @param {string} search  the address's part after "?" @returns {Wishes} */
export function readWishes(search) {
  const given = new URLSearchParams(search);
  return {
    isClean: given.get("clean") === "1",
    prompt: given.get("prompt") ?? "",
    route: oneOf(given.get("video"), "webrtc", "websocket"),
    upscaling: oneOf(given.get("upscale"), "on", "off") ?? "auto",
  };
}

/**
 * @template {string} T
 * @param {string|null} value
 * @param {...T} allowed
 * @returns {T|null}
 */
function oneOf(value, ...allowed) {
  return allowed.find((each) => each === value) ?? null;
}
