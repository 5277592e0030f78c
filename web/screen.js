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
 * @param {HTMLVideoElement} video
 * @param {(reason: string) => void} onRefused
 */
export function toggleInset(video, onRefused) {
  if (!document.pictureInPictureEnabled || video.readyState === 0) return;
  const change =
    document.pictureInPictureElement === null
      ? video.requestPictureInPicture()
      : document.exitPictureInPicture();
  change.catch((error) => onRefused(`no picture in picture: ${error.message}`));
}

/** Close every panel that is open over the picture. */
export function closePanels() {
  for (const panel of document.querySelectorAll(":popover-open")) {
    if (panel instanceof HTMLElement) panel.hidePopover();
  }
}
