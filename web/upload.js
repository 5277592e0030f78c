/**
 * Sends a file for a stream to begin with.  `fetch` does not tell how much has left, so this is an
 * XMLHttpRequest.
 */

import { ApiError, addressOf } from "./api.js";

/**
 * @typedef {object} Wish
 * @property {string} prompt
 * @property {{stream: string, token: string}|null} insteadOf   the own stream that ends for it
 *
 * @typedef {object} Upload
 * @property {Promise<import("./protocol.js").StreamInfo>} made   rejects with ApiError
 * @property {() => void} cancel   `made` then rejects with code "cancelled"
 */

/**
 * @param {Blob} file
 * @param {string} type   its media type
 * @param {Wish} wish
 * @param {(part: number) => void} onSent   how much of it has left, 0..1
 * @returns {Upload}
 */
export function startFromFile(file, type, { prompt, insteadOf }, onSent) {
  const query = new URLSearchParams({ prompt });
  if (insteadOf !== null) query.set("instead_of", insteadOf.stream);
  const request = new XMLHttpRequest();
  request.open("POST", addressOf(`api/streams/from-file?${query}`));
  request.responseType = "json";
  request.setRequestHeader("Content-Type", type);
  if (insteadOf !== null) request.setRequestHeader("Authorization", `Bearer ${insteadOf.token}`);
  request.upload.onprogress = ({ loaded, total }) => onSent(total > 0 ? loaded / total : 0);
  request.upload.onload = () => onSent(1);
  /** @type {Upload["made"]} */
  const made = new Promise((resolve, reject) => {
    request.onload = () => {
      if (request.status === 201) resolve(request.response);
      else reject(refusal(request));
    };
    request.onerror = () =>
      reject(new ApiError("unreachable", "The server does not answer. Try again.", 0));
    request.onabort = () => reject(new ApiError("cancelled", "", 0));
  });
  request.send(file);
  return { made, cancel: () => request.abort() };
}

/** @param {XMLHttpRequest} request */
function refusal({ status, response }) {
  const { code, message } = response ?? {};
  return new ApiError(
    String(code ?? "internal"),
    String(message ?? `the server answered ${status}`),
    status,
  );
}
