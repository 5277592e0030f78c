/**
 * How long received pictures are held back, so that packets which got lost can be sent again in
 * time.  Pure.
 *
 * A browser plays as soon as it can, and a server that it only receives from tells it nothing of
 * the round trip.  So every lost packet stops the picture for as long as it takes to notice the
 * loss (a picture later, since a picture is few packets) and to send it again.  Who loses packets
 * again and again sees an even picture a little later instead; nobody else waits.
 */

/** So many looks with a loss, of the newest LOOKS, mean a way that loses packets. */
const LOSSY = 2;
const LOOKS = 10;
/** A way that lost nothing for so many looks is a good one again. */
const CALM = 30;
/** Until the next picture shows that something is missing, and for good measure another. */
const PICTURES = 2;
const MOST_MS = 600;

/**
 * @typedef {object} Patience
 * @property {boolean[]} looks    whether packets were missing, newest last
 * @property {number} targetMs    how long pictures are held back at least; 0: as short as possible
 */

/** @returns {Patience} */
export function noPatience() {
  return { looks: [], targetMs: 0 };
}

/**
 * Look at what was received since the last look, a second or so ago.
 *
 * @param {Patience} patience
 * @param {number} numMissing          packets that were asked for again since then
 * @param {number|null} roundTripMs    null: not known
 * @param {number} pictureMs           time of a picture
 * @returns {Patience}
 */
export function looked(patience, numMissing, roundTripMs, pictureMs) {
  const looks = [...patience.looks, numMissing > 0].slice(-CALM);
  const numLossy = looks.slice(-LOOKS).filter(Boolean).length;
  const isCalm = looks.length === CALM && !looks.includes(true);
  if (isCalm || roundTripMs === null) return { looks, targetMs: isCalm ? 0 : patience.targetMs };
  if (patience.targetMs === 0 && numLossy < LOSSY) return { looks, targetMs: 0 };
  const wantedMs = roundTripMs + PICTURES * pictureMs;
  // Every change is seen as a slower or faster picture: it grows at once and never shrinks a bit.
  return { looks, targetMs: Math.min(MOST_MS, Math.max(patience.targetMs, Math.round(wantedMs))) };
}
