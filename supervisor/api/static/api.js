// Calls of the supervisor: JSON, problems, the token, and streams that are resumed.

const TOKEN = "bot-supervisor token";
const READ_MS = 15_000;
const COMMAND_MS = 90_000;
const SILENCE_MS = 45_000; // A stream says something every 15 s, be it a comment.
const RETRY_MS = [500, 1000, 2000, 4000];

/** Why a call was not done, as the supervisor puts it. */
export class Problem extends Error {
  constructor(status, { title = "", detail = "", errors = [] } = {}) {
    super(detail || title || `the supervisor answered ${status}`);
    this.status = status;
    this.errors = errors;
  }
}

export const token = {
  get: () => sessionStorage.getItem(TOKEN),
  set: (value) => sessionStorage.setItem(TOKEN, value),
  /** Asks the viewer for one; set by the page. Resolves once there is another. */
  ask: async () => {},
};

let asking = null;

async function anotherThan(refused) {
  if (token.get() !== refused) return;
  asking ??= token.ask().finally(() => (asking = null));
  await asking;
}

/** The response, if it is good. Raises Problem for an answer that says no, TypeError or DOMException where none came. */
async function request(path, { method = "GET", body, headers = {}, signal, ms } = {}) {
  for (;;) {
    signal?.throwIfAborted();
    const sent = token.get();
    const response = await fetch(path, {
      method,
      // The time that the viewer takes to find a token does not count.
      signal: AbortSignal.any([signal, ms && AbortSignal.timeout(ms)].filter(Boolean)),
      cache: "no-store",
      headers: {
        ...(sent && { Authorization: `Bearer ${sent}` }),
        ...(body !== undefined && { "Content-Type": "application/json" }),
        ...headers,
      },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
    if (response.ok) return response;
    const problem = new Problem(response.status, await response.json().catch(() => ({})));
    if (response.status !== 401) throw problem;
    await anotherThan(sent);
  }
}

export async function get(path, signal) {
  return (await request(path, { signal, ms: READ_MS })).json();
}

export async function command(method, path, body) {
  const response = await request(path, { method, body, ms: COMMAND_MS });
  return response.status === 204 ? null : response.json();
}

/** All items of a bare list, which says in a Link header where its next page is. */
export async function list(path) {
  const items = [];
  for (let next = path; next;) {
    const response = await request(next, { ms: READ_MS });
    items.push(...(await response.json()));
    next = /<([^>]*)>; rel="next"/.exec(response.headers.get("Link") ?? "")?.[1];
  }
  return items;
}

/** Why a call failed, in words for the viewer. */
export function reason(error) {
  return error instanceof Problem ? error.message : "the supervisor does not answer";
}

export function sleep(ms, signal) {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    signal.addEventListener("abort", done);
  });
}

/** Resolves once somebody can see the page, or the signal says that it no longer matters. */
export function visible(signal) {
  if (document.visibilityState === "visible") return Promise.resolve();
  return new Promise((resolve) => {
    const done = () => {
      if (document.visibilityState !== "visible" && !signal.aborted) return;
      document.removeEventListener("visibilitychange", done);
      resolve();
    };
    document.addEventListener("visibilitychange", done);
    signal.addEventListener("abort", done, { once: true });
  });
}

/**
 * Follows a stream of server-sent events until the signal aborts; `take` gets lists of {id, event, data}. It is
 * EventSource with a token. While nobody sees the page no stream is held: a browser has six connections for all its
 * pages of one server.
 * Raises Problem when the supervisor refuses for good.
 */
export async function follow(path, signal, take) {
  const stream = { path, lastId: null };
  for (let failures = 0; !signal.aborted;) {
    await visible(signal);
    if (signal.aborted) return;
    try {
      await readOnce(stream, signal, (messages) => {
        failures = 0;
        take(messages);
      });
    } catch (error) {
      if (error instanceof Problem && error.status < 500 && error.status !== 429) throw error;
    }
    if (document.visibilityState === "visible")
      await sleep(RETRY_MS[Math.min(failures++, RETRY_MS.length - 1)], signal);
  }
}

async function readOnce(stream, signal, take) {
  const cut = new AbortController();
  let silence = setTimeout(() => cut.abort(), SILENCE_MS);
  const hide = () => document.visibilityState === "visible" || cut.abort();
  document.addEventListener("visibilitychange", hide);
  try {
    const headers = { Accept: "text/event-stream", ...(stream.lastId !== null && { "Last-Event-ID": stream.lastId }) };
    const response = await request(stream.path, { headers, signal: AbortSignal.any([signal, cut.signal]) });
    if (!response.headers.get("Content-Type")?.startsWith("text/event-stream")) throw new Problem(406);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    const parse = parser();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      clearTimeout(silence);
      silence = setTimeout(() => cut.abort(), SILENCE_MS);
      const messages = parse(value);
      if (messages.length === 0) continue;
      stream.lastId = messages.at(-1).id;
      take(messages);
    }
  } finally {
    clearTimeout(silence);
    document.removeEventListener("visibilitychange", hide);
  }
}

/** A function from pieces of text, cut anywhere, to the messages that are complete. */
function parser() {
  let rest = "";
  let id = null;
  let event = "message";
  let data = [];
  return (text) => {
    rest += text;
    const messages = [];
    // A CR at the end may be half of a CRLF.
    const lines = rest.split(/\r\n|\n|\r(?!$)/);
    rest = lines.pop();
    for (const line of lines) {
      if (line === "") {
        if (data.length) messages.push({ id, event, data: data.join("\n") });
        event = "message";
        data = [];
        continue;
      }
      const [, field, value] = /^([^:]*):? ?(.*)$/s.exec(line);
      if (field === "data") data.push(value);
      else if (field === "event") event = value;
      else if (field === "id") id = value;
    }
    return messages;
  };
}
