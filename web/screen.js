/**
 * Where the picture is shown: in the page, over the whole screen, or in a window of its own.
 */

/** @param {HTMLElement} app */
export function toggleFullscreen(app) {
  if (!document.fullscreenEnabled) return;
  const change =
    document.fullscreenElement === null ? app.requestFullscreen() : document.exitFullscreen();
  change.catch((error) => console.warn("fullscreen was not granted:", error));
}

/**
 * Why there is no window of its own for the picture, in a few words; empty when there is one.
 *
 * @param {HTMLVideoElement} video
 */
export function insetFault(video) {
  if (!("requestPictureInPicture" in HTMLVideoElement.prototype)) return "not in this browser";
  if (!document.pictureInPictureEnabled) return "this browser forbids it here";
  return video.readyState === HTMLMediaElement.HAVE_NOTHING ? "no picture yet" : "";
}

/**
 * @param {HTMLVideoElement} video
 * @param {(reason: string) => void} onRefused
 */
export function toggleInset(video, onRefused) {
  const fault = insetFault(video);
  if (fault !== "") return onRefused(`Picture in picture: ${fault}.`);
  const change =
    document.pictureInPictureElement === null
      ? video.requestPictureInPicture()
      : document.exitPictureInPicture();
  change.catch((error) => onRefused(`Picture in picture was refused: ${error.message}`));
}

/** Close every panel that is open over the picture. */
export function closePanels() {
  for (const panel of document.querySelectorAll(":popover-open")) {
    if (panel instanceof HTMLElement) panel.hidePopover();
  }
}
