/**
 * What a visitor brings for a stream to begin with: which files are taken, and what is said of
 * them.  Pure.
 */

/**
 * @typedef {import("./protocol.js").Opening} Opening
 * @typedef {{name: string, type: string, size: number}} Brought   a file, as browsers describe it
 */

/** Types that some systems do not know by themselves, by the ending of the name. */
const TYPES = new Map([
  ["avi", "video/x-msvideo"],
  ["avif", "image/avif"],
  ["heic", "image/heic"],
  ["mkv", "video/x-matroska"],
  ["mov", "video/quicktime"],
  ["mp4", "video/mp4"],
  ["tif", "image/tiff"],
  ["tiff", "image/tiff"],
  ["webm", "video/webm"],
  ["webp", "image/webp"],
]);

/** Drawings and texts that call themselves pictures, and that the server cannot read. */
const UNREADABLE = new Set(["image/svg+xml"]);

/** What is said where a model has no way to begin with a picture. */
export const NO_PICTURES = "This model cannot begin with a picture.";

/**
 * The media type to send; empty when it is neither picture nor clip.
 *
 * @param {Brought} file
 */
export function typeOf({ name, type }) {
  const ending = name.slice(name.lastIndexOf(".") + 1).toLowerCase();
  const known = type === "" ? TYPES.get(ending) ?? "" : type;
  return /^(image|video)\/./.test(known) && !UNREADABLE.has(known) ? known : "";
}

/** @param {Brought} file */
export const isClip = (file) => typeOf(file).startsWith("video/");

/**
 * Why a file is not taken, as a sentence; empty when it is.
 *
 * @param {Brought} file
 * @param {Opening|null} opening   what the server takes; null: nothing
 */
export function faultOf(file, opening) {
  if (opening === null) return NO_PICTURES;
  const name = shortName(file.name);
  if (typeOf(file) === "") {
    return `${name} is neither a picture nor a clip. Choose a PNG, JPEG, WebP, MP4 or WebM.`;
  }
  if (file.size === 0) return `${name} is empty. Choose another file.`;
  if (file.size > opening.bytes) {
    const way = isClip(file) ? "Cut it shorter: only its end is used." : "Make it smaller.";
    return `${name} is too big: ${sizeWords(file.size)}, at most ${sizeWords(opening.bytes)} are taken. ${way}`;
  }
  return "";
}

/**
 * What happens when it is sent.
 *
 * @param {Brought} file
 * @param {Opening} opening
 * @param {"none"|"own"|"watched"} present   the stream on screen
 */
export function aboutWords(file, { width, height }, present) {
  const what = isClip(file) ? "goes on from the end of this clip" : "begins with this picture";
  const then = { none: "", own: " This one ends.", watched: " You leave this one." }[present];
  return `A new stream ${what}, cut to ${width}x${height}.${then}`;
}

/** @param {number} bytes */
export function sizeWords(bytes) {
  if (bytes < 1000) return `${bytes} bytes`;
  if (bytes < 999_500) return `${Math.round(bytes / 1000)} KB`;
  const megabytes = bytes / 1e6;
  return `${megabytes < 9.95 ? megabytes.toFixed(1) : Math.round(megabytes)} MB`;
}

/** A name that fits into a line, with its ending. @param {string} name */
export function shortName(name) {
  return name.length <= 40 ? name : `${name.slice(0, 26)}…${name.slice(-12)}`;
}
