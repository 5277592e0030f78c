/**
 * What the page asks of the server over HTTP: pictures, recordings, the vocabulary.
 */

/** The page may lie below a path of a larger site. */
const BASE = new URL(".", location.href);

/** @typedef {{stream: string, token: string|null}} Identity */

/** The server said no, or said nothing. */
export class ApiError extends Error {
  /** @param {string} code @param {string} message @param {number} status  0: no answer */
  constructor(code, message, status) {
    super(message);
    this.code = code;
    this.status = status;
  }
}

/**
 * An address of the server, which writes them from its root.
 *
 * @param {string} path
 */
export function addressOf(path) {
  return new URL(path.replace(/^\//, ""), BASE).href;
}

/**
 * A WebSocket of the server.
 *
 * @param {string} path
 */
export function socketOf(path) {
  return addressOf(path).replace(/^http/, "ws");
}

/** @param {string} stream */
export const scriptPath = (stream) => `api/streams/${encodeURIComponent(stream)}/script`;

/** @param {string} stream @returns {Promise<Blob>} PNG, with its recipe in a text chunk */
export async function screenshot(stream) {
  return (await ask("GET", `${pathOf(stream)}/screenshot.png`)).blob();
}

/** @param {Identity} of @returns {Promise<import("./protocol.js").Recording>} */
export async function startRecording(of) {
  return (await ask("POST", `${pathOf(of.stream)}/recordings`, of.token)).json();
}

/** @param {Identity} of @returns {Promise<import("./protocol.js").Recording>} */
export async function stopRecording(of) {
  return (await ask("POST", `${pathOf(of.stream)}/recordings/stop`, of.token)).json();
}

/** @param {Identity} of @param {number} seconds @returns {Promise<import("./protocol.js").Recording>} */
export async function saveLast(of, seconds) {
  return (await ask("POST", `${pathOf(of.stream)}/clips`, of.token, { seconds })).json();
}

/** @param {string} stream @returns {Promise<import("./protocol.js").Recording[]>} oldest first */
export async function recordings(stream) {
  return (await ask("GET", `${pathOf(stream)}/recordings`)).json();
}

/** @param {Identity} of @returns {Promise<import("./protocol.js").Publication[]>} */
export async function publications(of) {
  return (await ask("GET", `${pathOf(of.stream)}/publications`, of.token)).json();
}

/** What the model knows to draw; null when the server has no list. @returns {Promise<unknown>} */
export async function vocabulary() {
  try {
    return await (await ask("GET", "api/vocabulary")).json();
  } catch (error) {
    if (error instanceof ApiError && error.status === 404) return null;
    throw error;
  }
}

/** @param {string} stream */
const pathOf = (stream) => `api/streams/${encodeURIComponent(stream)}`;

/**
 * @param {string} method
 * @param {string} path
 * @param {string|null} token
 * @param {object} [body]
 * @returns {Promise<Response>}
 * @throws {ApiError}
 */
async function ask(method, path, token = null, body) {
  /** @type {Record<string, string>} */
  const headers = token === null ? {} : { Authorization: `Bearer ${token}` };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let answer;
  try {
    answer = await fetch(addressOf(path), { method, headers, body: body && JSON.stringify(body) });
  } catch {
    throw new ApiError("unreachable", "the server does not answer", 0);
  }
  if (answer.ok) return answer;
  const { code, message } = await answer.json().catch(() => ({}));
  throw new ApiError(
    String(code ?? "internal"),
    String(message ?? `the server answered ${answer.status}`),
    answer.status,
  );
}
