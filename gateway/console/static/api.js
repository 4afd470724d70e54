// The admin API: requests, and the stream of events. The token is kept in this module's memory and nowhere else.

let token = null;
let operator = "";
let onLocked = () => {};

// Without a token the one before stays; the empty text forgets it.
export function signIn(newToken, name) {
  if (newToken !== undefined) token = newToken || null;
  operator = name;
}

export function signedIn() {
  return { token: token !== null, name: operator };
}

export function whenLocked(call) {
  onLocked = call;
}

export class ApiError extends Error {
  constructor(status, kind, title, detail) {
    super(detail || title);
    Object.assign(this, { status, kind, title, detail });
  }
}

function headersWith(more) {
  const headers = new Headers(more);
  if (token !== null) headers.set("authorization", `Bearer ${token}`);
  // A field's value is printable ASCII of at most 64 characters; anything else stays out of it.
  const name = operator.replace(/[^\x21-\x7e]+/g, "-").slice(0, 64);
  if (name) headers.set("x-actor", name);
  return headers;
}

async function refusal(answer) {
  let problem = {};
  try {
    problem = await answer.json();
  } catch {
    // Not a problem document: something in between answered.
  }
  const kind = String(problem.type ?? "").split(":").pop();
  const error = new ApiError(answer.status, kind, problem.title ?? `status ${answer.status}`, problem.detail ?? "");
  if (answer.status === 401) onLocked(error);
  return error;
}

export async function send(method, path, { body, headers = {}, signal } = {}) {
  const more = body === undefined ? headers : { ...headers, "content-type": "application/json" };
  const answer = await fetch(path, {
    method,
    headers: headersWith(more),
    body: body === undefined ? undefined : JSON.stringify(body),
    signal,
    credentials: "omit",
    cache: "no-store",
  });
  if (!answer.ok) throw await refusal(answer);
  return answer;
}

export async function get(path, options) {
  return (await send("GET", path, options)).json();
}

// A change, once however often the request is repeated. `etag` is what the operator has seen.
export async function change(method, path, body, etag) {
  const key = Array.from(crypto.getRandomValues(new Uint8Array(16)), (n) => n.toString(16).padStart(2, "0")).join("");
  const headers = method === "POST" ? { "idempotency-key": key } : {};
  if (etag) headers["if-match"] = etag;
  return (await send(method, path, { body, headers })).json();
}

export function path(...parts) {
  return `/api/v1/${parts.map(encodeURIComponent).join("/")}`;
}

const SILENT_MS = 25_000;
const RETRY_MS = [500, 1000, 2000, 5000];

// Server-sent events by fetch, which can send a token where EventSource cannot. It reconnects for ever, goes on after
// the last event that it has seen, and says when it last heard anything (a heartbeat comes every ten seconds).
export class EventFeed {
  constructor(query, { onOpen, onEvent, onChange }) {
    this.query = query;
    this.onOpen = onOpen;
    this.onEvent = onEvent;
    this.onChange = onChange;
    this.connected = false;
    this.heardMs = Date.now();
    this.lastId = null;
    this.failures = 0;
    this.closed = false;
    this.wake = () => {
      // A laptop that slept has a dead connection that does not know it yet.
      if (document.visibilityState === "visible" && Date.now() - this.heardMs > 12_000) this.abort?.abort();
    };
    document.addEventListener("visibilitychange", this.wake);
    window.addEventListener("online", this.wake);
    this.run();
  }

  close() {
    this.closed = true;
    document.removeEventListener("visibilitychange", this.wake);
    window.removeEventListener("online", this.wake);
    this.abort?.abort();
    clearTimeout(this.pause);
    this.resume?.();
  }

  async run() {
    while (!this.closed) {
      try {
        await this.read();
      } catch (error) {
        if (error.status === 401 || error.status === 403) return;
      }
      if (this.closed) return;
      this.connected = false;
      this.onChange();
      const wait = RETRY_MS[Math.min(this.failures++, RETRY_MS.length - 1)];
      await new Promise((done) => {
        this.resume = done;
        this.pause = setTimeout(done, wait);
      });
    }
  }

  async read() {
    this.abort = new AbortController();
    const watch = setInterval(() => {
      if (Date.now() - this.heardMs > SILENT_MS) this.abort.abort();
    }, 5000);
    try {
      const headers = { accept: "text/event-stream" };
      if (this.lastId !== null) headers["last-event-id"] = this.lastId;
      const answer = await send("GET", `/api/v1/events${this.query}`, { headers, signal: this.abort.signal });
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) return;
        this.heard();
        const blocks = (rest + value).split("\n\n");
        rest = blocks.pop();
        for (const block of blocks) this.take(block);
      }
    } finally {
      clearInterval(watch);
    }
  }

  heard() {
    this.heardMs = Date.now();
    if (this.connected) return;
    this.connected = true;
    this.failures = 0;
    this.onChange();
    this.onOpen();
  }

  take(block) {
    let data = null;
    for (const line of block.split("\n")) {
      if (line.startsWith("id: ")) this.lastId = line.slice(4);
      else if (line.startsWith("data: ")) data = line.slice(6);
    }
    if (data !== null) this.onEvent(JSON.parse(data));
  }
}
