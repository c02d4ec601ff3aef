// The one door to the server: every request carries the token, every error comes back with its four parts.

const KEY = "samtune-token";

/** Take the token out of the address bar; it stays in this tab only. */
export function takeToken() {
  const address = new URL(location.href);
  const token = address.searchParams.get("token");
  if (token === null) return;
  sessionStorage.setItem(KEY, token);
  address.searchParams.delete("token");
  history.replaceState(null, "", address.pathname + address.search + address.hash);
}

export class ServerError extends Error {
  constructor(status, parts, revision) {
    super(parts.found ?? `HTTP ${status}`);
    this.status = status;
    this.parts = parts;
    this.revision = revision;
  }
}

async function request(path, options = {}) {
  const headers = { "X-Samtune-Token": sessionStorage.getItem(KEY) ?? "", ...options.headers };
  let answer;
  try {
    answer = await fetch(path, { ...options, headers, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError(0, {
      expected: "an answer from the studio's server",
      found: "no connection",
      where: location.origin,
      do: "see whether samtune studio still runs in its terminal; nothing is lost that the page called saved",
    });
  }
  if (answer.ok) return answer;
  const body = await answer.json().catch(() => ({}));
  const parts = body.error ?? { expected: "an answer", found: `HTTP ${answer.status}`, where: path };
  throw new ServerError(answer.status, parts, body.revision ?? parts.revision);
}

export const get = async (path, signal) => (await request(path, { signal })).json();
export const getBlob = async (path, signal) => (await request(path, { signal })).blob();

export async function post(path, body = {}, signal = undefined) {
  const headers = { "Content-Type": "application/json" };
  return (await request(path, { method: "POST", headers, body: JSON.stringify(body), signal })).json();
}

/**
 * Answers may come in another order than the questions. `const ask = lastOnly()` is kept for each kind of question;
 * `const isLast = ask()` before a question says afterwards whether a later one has been asked, whose answer counts.
 */
export function lastOnly() {
  let asked = 0;
  return () => {
    const turn = ++asked;
    return () => turn === asked;
  };
}

export const imagePath = (id, rest) => `/api/images/${encodeURIComponent(id)}/${rest}`;
