// Speaks with the server: JSON both ways, a stream of server-sent events for a run, and one kind of error.

/** What went wrong. kind: "offline", "busy", "token", "refused" (the request was wrong), "server". */
export class ApiError extends Error {
  constructor(kind, message = "", hint = "", after = 0) {
    super(message || kind);
    Object.assign(this, { kind, said: message, hint, after });
  }
}

let token = sessionStorage.getItem("unembed-token") ?? "";

/** Remember the server's token for this tab. */
export function setToken(value) {
  token = value.trim();
  sessionStorage.setItem("unembed-token", token);
}

const KINDS = { 401: "token", 429: "busy", 503: "busy" };

async function failure(response) {
  let body = {};
  try {
    body = (await response.json()).error ?? {};
  } catch {
    // not JSON: the status says enough
  }
  const kind = KINDS[response.status] ?? (response.status >= 500 ? "server" : "refused");
  return new ApiError(kind, body.message, body.hint, Number(response.headers.get("Retry-After")) || 0);
}

async function send(path, body, signal) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const request = { headers, signal, cache: "no-store" };
  if (body !== undefined) {
    request.method = "POST";
    request.body = JSON.stringify(body);
    headers["Content-Type"] = "application/json";
  }
  let response;
  try {
    response = await fetch(path, request);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("offline");
  }
  if (!response.ok) throw await failure(response);
  return response;
}

/** The models that the server holds, and its limits. */
export const models = async (signal) => (await send("v1/models", undefined, signal)).json();

/** What damage costs search, and what is shared by chance, as benchmarks/robustness/damage.py measured it. */
export const measured = async () => (await send("damage.json")).json();

/** Vectors of texts. */
export const embed = async (texts, signal) => (await send("v1/embed", { texts }, signal)).json();

/** The trace of a run as an animated SVG document. */
export const drawing = async (trace) => (await send("v1/trace.svg", trace)).text();

/** Split a stream of bytes into events: {event, data}, the data parsed. */
export async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let ended = false;
  try {
    for (;;) {
      const { value, done } = await reader.read().catch((error) => {
        throw error.name === "AbortError" ? error : new ApiError("offline");
      });
      ended = done;
      if (done) return;
      rest += value;
      const parts = rest.split(/\r?\n\r?\n/);
      rest = parts.pop();
      for (const part of parts) {
        const lines = part.split(/\r?\n/);
        const pick = (name) =>
          lines.filter((line) => line.startsWith(`${name}:`)).map((line) => line.slice(name.length + 1).trim());
        const data = pick("data").join("\n");
        if (data) yield { event: pick("event")[0] ?? "message", data: JSON.parse(data) };
      }
    }
  } finally {
    if (!ended) reader.cancel().catch(() => {});
  }
}

/**
 * Run one entry and hand over each event as it comes.
 *
 * @param body as POST /v1/invert/stream takes it
 * @param handle called with (name, data) for start, step, refine and done
 * @param signal aborts the run; the server then frees its place
 */
export async function stream(body, handle, signal) {
  const response = await send("v1/invert/stream", body, signal);
  let finished = false;
  for await (const { event, data } of events(response.body)) {
    if (event === "error") throw new ApiError("refused", data.message, data.hint);
    handle(event, data);
    finished ||= event === "done";
  }
  if (!finished) throw new ApiError("offline"); // it broke off
}
