// The demo page: one connection to the gateway that served it, one subscription, and a table of what arrives.
// docs/protocol.md describes the messages.
//
// It is one file, because the gateway embeds it and serves it as it is: there is no build step, and a page without
// modules needs one request for its code.

/**
 * The server sends arrays of these objects. The page ignores types and fields that it does not know.
 * @typedef {object} ServerObject
 * @property {string} T
 * @property {string} [kind]
 * @property {string} [key]
 * @property {string} [symbol]
 * @property {string} [pattern]
 * @property {string} [tier]
 * @property {number} [confidence]
 * @property {string} [priority]
 * @property {string} [regime]
 * @property {string} [ts]
 * @property {Record<string, unknown>} [data]
 * @property {string} [user]
 * @property {string} [gateway]
 * @property {number} [heartbeat_ms]
 * @property {number} [id]
 * @property {string} [position]
 * @property {number | string} [code]
 * @property {string} [msg]
 * @property {number} [dropped]
 * @property {number} [conflated]
 * @property {string} [reason]
 * @property {number} [p]
 * @property {number} [seq]
 * @property {boolean} [resumed]
 * @property {number} [from]
 * @property {number} [to]
 * @property {number} [reconnect_ms]
 * @property {number} [expires_ms]
 * @property {number} [max_frame_bytes]
 */

const ROWS = 200;
const LOG_LINES = 5;
const RATE_SECONDS = 5;
const BACKOFF_FIRST_MS = 500;
const BACKOFF_MAX_MS = 15_000;
const TYPING_PAUSE_MS = 300;
const SUBSCRIPTION = "page";
/** The preset whose patterns the client names. */
const SPECIFIC = "specific";
/** The page remembers this many early events, which the server may send again after a break. */
const EARLY_MAX = 4096;
/**
 * Whether to connect again after a close, by its code. A test compares this table with that of docs/protocol.md. Other
 * codes come from proxies on the way, and mean "yes".
 * @type {Record<number, "yes" | "no" | "after" | "new token">}
 */
const RECONNECT = {
  1002: "no",
  1007: "no",
  1009: "after",
  1012: "after",
  4001: "no",
  4002: "after",
  4003: "no",
  4007: "after",
  4008: "yes",
  4009: "new token",
  4010: "yes",
  4012: "after",
  4013: "after",
  4014: "no",
};
const FRAME_TOO_LARGE = 417;
const MESSAGE_TOO_BIG = 1009;
const UNAVAILABLE = 503;

/**
 * @template {HTMLElement} [E=HTMLElement]
 * @param {string} id
 * @returns {E}
 */
function element(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`the page has no #${id}`);
  return /** @type {E} */ (found);
}

const page = {
  status: element("status"),
  gateway: element("gateway"),
  rate: element("rate"),
  count: element("count"),
  position: element("position"),
  filter: /** @type {HTMLFormElement} */ (element("filter")),
  preset: /** @type {HTMLSelectElement} */ (element("preset")),
  patterns: /** @type {HTMLInputElement} */ (element("patterns")),
  patternsField: element("patterns-field"),
  symbols: /** @type {HTMLInputElement} */ (element("symbols")),
  confidence: /** @type {HTMLInputElement} */ (element("confidence")),
  minimum: element("minimum"),
  answer: element("answer"),
  log: element("log"),
  events: element("events"),
  empty: element("empty"),
};

// The table. Events are collected, and drawn once per animation frame.

/** @type {ServerObject[]} */
let undrawn = [];
let received = 0;
/** @type {number[]} The number of events in each of the last seconds, the current one last. */
const seconds = [0];

/** @param {ServerObject} event */
function show(event) {
  received += 1;
  seconds[seconds.length - 1] += 1;
  if (undrawn.push(event) === 1) requestAnimationFrame(draw);
  // The browser draws nothing while the page is hidden, and the table shows ROWS events at most.
  if (undrawn.length > ROWS) undrawn.splice(0, undrawn.length - ROWS);
}

function draw() {
  page.events.prepend(...undrawn.map(row).reverse());
  undrawn = [];
  while (page.events.childElementCount > ROWS) page.events.lastElementChild?.remove();
  page.empty.hidden = true;
  page.count.textContent = received.toLocaleString("en");
}

/**
 * @param {ServerObject} event
 * @returns {HTMLTableRowElement}
 */
function row(event) {
  const line = document.createElement("tr");
  line.dataset.priority = event.priority ?? "low";
  const { confidence, data = {} } = event;
  const details = data.summary ?? data.message ?? data.bar_time ?? "";
  cell(line, "time", event.ts ? new Date(event.ts).toLocaleTimeString() : "");
  cell(line, "symbol", event.symbol ?? event.key ?? "");
  cell(line, "what", event.pattern ?? (event.regime ? `market: ${event.regime}` : (event.kind ?? "")));
  cell(line, "tier", event.tier ?? "");
  const certainty = cell(line, "confidence", confidence === undefined ? "" : confidence.toFixed(2));
  if (confidence !== undefined) {
    const meter = document.createElement("meter");
    meter.value = confidence;
    certainty.prepend(meter);
  }
  const badge = document.createElement("span");
  badge.textContent = event.priority ?? "";
  cell(line, "priority", "").append(badge);
  cell(line, "details", String(details)).title = String(details);
  return line;
}

/**
 * @param {HTMLTableRowElement} line
 * @param {string} name
 * @param {string} text
 */
function cell(line, name, text) {
  const made = line.insertCell();
  made.className = name;
  made.textContent = text;
  return made;
}

setInterval(() => {
  const full = seconds.slice(0, RATE_SECONDS);
  page.rate.textContent = (full.reduce((sum, count) => sum + count, 0) / full.length).toFixed(1);
  seconds.push(0);
  if (seconds.length > RATE_SECONDS) seconds.shift();
}, 1000);

/**
 * @param {"connecting" | "connected" | "over"} state
 * @param {string} text
 */
function setStatus(state, text) {
  page.status.dataset.state = state;
  page.status.textContent = text;
}

/** @param {string} text */
function note(text) {
  const line = document.createElement("li");
  line.textContent = `${new Date().toLocaleTimeString()}  ${text}`;
  page.log.prepend(line);
  while (page.log.childElementCount > LOG_LINES) page.log.lastElementChild?.remove();
}

/**
 * @param {string} text
 * @param {boolean} wrong
 */
function answer(text, wrong = false) {
  page.answer.textContent = text;
  page.answer.classList.toggle("wrong", wrong);
}

// The filter or preset. Subscribing again under the same name replaces it, and events continue to arrive meanwhile.

/**
 * The fields of the subscription that say what it wants.
 * @returns {object | undefined} Nothing while the preset lacks its patterns: the gateway would refuse it.
 */
function wanted() {
  const symbols = words(page.symbols).map((symbol) => symbol.toUpperCase());
  const someSymbols = symbols.length > 0 && { symbols };
  const preset = page.preset.value;
  if (preset === SPECIFIC) {
    const patterns = words(page.patterns);
    return patterns.length > 0 ? { preset, patterns, ...someSymbols } : undefined;
  }
  if (preset) return { preset, ...someSymbols };
  const minimum = Number(page.confidence.value);
  return { filter: { kinds: ["pattern", "market"], ...someSymbols, ...(minimum > 0 && { min_confidence: minimum }) } };
}

/** @param {HTMLInputElement} input */
function words(input) {
  return input.value.split(/[\s,;]+/).filter(Boolean);
}

/** Shows the fields that the chosen preset leaves to the user. Every preset has its own confidence. */
function showFields() {
  const preset = page.preset.value;
  page.patternsField.hidden = preset !== SPECIFIC;
  page.confidence.disabled = preset !== "";
  const minimum = Number(page.confidence.value) > 0 ? page.confidence.value : "any";
  page.minimum.textContent = preset ? "that of the preset" : minimum;
}

let typing = 0;
page.filter.addEventListener("input", () => {
  showFields();
  clearTimeout(typing);
  typing = setTimeout(subscribe, TYPING_PAUSE_MS);
});
page.filter.addEventListener("submit", (event) => {
  event.preventDefault();
  clearTimeout(typing);
  subscribe();
});

// The connection.

/** @type {WebSocket | undefined} */
let socket;
let ready = false;
let failures = 0;
let requests = 0;
let silence = 0;
let heartbeatMs = 15_000;
let welcomed = false;
/** @type {{ reason: string, ms: number } | undefined} Why the server asked us to reconnect, and after what pause. */
let away;
/** The largest frame that the gateway takes, in bytes. */
let maxFrameBytes = Infinity;

/** The address of the gateway that served the page, with the `?token=` or `?user=` of the page's own address. */
function address() {
  const query = new URLSearchParams(location.search);
  const chosen = new URLSearchParams();
  const token = query.get("token");
  if (token) {
    chosen.set("token", token);
  } else {
    const random = crypto.getRandomValues(new Uint32Array(1))[0];
    const name = query.get("user") ?? sessionStorage.getItem("user") ?? `demo-${random}`;
    sessionStorage.setItem("user", name);
    chosen.set("user", name);
  }
  return `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/v1/stream?${chosen}`;
}

function connect() {
  setStatus("connecting", "connecting");
  const opened = new WebSocket(address(), "tickwire.v1.json");
  socket = opened;
  listen();
  opened.addEventListener("message", (message) => {
    if (socket !== opened) return;
    listen();
    /** @type {ServerObject[]} */
    const objects = JSON.parse(message.data);
    early = objects[0]?.T === "early";
    objects.forEach(handle);
  });
  opened.addEventListener("close", (close) => {
    if (socket === opened) lost(close.code, close.reason);
  });
}

/** Gives the connection up when nothing arrives for 2.5 heartbeats: the browser may never report its close. */
function listen() {
  clearTimeout(silence);
  silence = setTimeout(() => {
    socket?.close();
    lost(1006, "no sign of life");
  }, Math.max(heartbeatMs * 2.5, 1000));
}

/**
 * @param {number} code
 * @param {string} reason
 */
function lost(code, reason) {
  socket = undefined;
  clearTimeout(silence);
  const why = away?.reason ?? (reason || (ready ? "the connection was lost" : "no connection"));
  const wasReady = ready;
  ready = false;
  page.gateway.textContent = "–";
  const reconnect = RECONNECT[code] ?? "yes";
  if (reconnect === "no" || reconnect === "new token") {
    setStatus("over", why);
    const advice = reconnect === "no" ? "Reload the page to try again." : "Open the page with a new ?token=….";
    answer(advice, true);
    return;
  }
  if (wasReady) note(`${why}; the gateway sends the missed events after the reconnect`);
  // While a resume waits for its answer, it is the frame that was too large.
  if (code === MESSAGE_TOO_BIG && resumePending) forget();
  // Full jitter: clients that were cut off together must not reconnect together.
  const max = Math.min(BACKOFF_FIRST_MS * 2 ** failures, BACKOFF_MAX_MS);
  const backoff = reconnect === "after" ? BACKOFF_MAX_MS * (0.5 + Math.random() / 2) : Math.random() * max;
  const pause = away?.ms ?? backoff;
  away = undefined;
  failures += 1;
  setStatus("connecting", `${why}, trying again in ${(pause / 1000).toFixed(1)} s`);
  if (failures > 3 && !welcomed) answer("If this gateway requires a token, open the page with ?token=….", true);
  setTimeout(connect, pause);
}

function subscribe() {
  if (!socket || !ready) return;
  const chosen = wanted();
  if (!chosen) return answer("Name one or more patterns.", true);
  requests += 1;
  answer("subscribing…");
  requested = chosen;
  const frame = { action: "subscribe", id: requests, name: SUBSCRIPTION, ...requested };
  socket.send(JSON.stringify(frame));
}

// The resume. It carries the last position, and for each partition the highest sequence that arrived after it. So any
// gateway continues exactly there. Only events that arrived early may be sent again.

let lastPosition = "";
/** @type {Map<number, number>} */
const seen = new Map();
/** @type {Set<string>} */
const earlyEvents = new Set();
let early = false;
/** @type {object | undefined} The filter or preset that the gateway confirmed last. */
let confirmed;
/** @type {object} */
let requested = {};
let resuming = 0;
/** Whether the page waits for the answer to a resume. */
let resumePending = false;

/** Resumes at the last position. Without a position it subscribes. */
function begin() {
  if (!lastPosition || !confirmed || !socket) return subscribe();
  requests += 1;
  resuming = requests;
  const subscriptions = { [SUBSCRIPTION]: confirmed };
  const place = { position: lastPosition, seen: Object.fromEntries(seen) };
  const text = JSON.stringify({ action: "resume", id: requests, ...place, subscriptions });
  if (new TextEncoder().encode(text).length > maxFrameBytes) return startOver();
  answer("catching up…");
  resumePending = true;
  socket.send(text);
}

/** Subscribes like a new client. */
function startOver() {
  note("the gateway cannot resume at our position; events since the break may be missing");
  resumePending = false;
  forget();
  subscribe();
}

/** Forgets the position and all events after it. */
function forget() {
  lastPosition = "";
  forgetSeen();
}

function forgetSeen() {
  seen.clear();
  earlyEvents.clear();
}

/**
 * Whether an event is new.
 * @param {ServerObject} event
 */
function isNew({ p = 0, seq = 0 }) {
  const known = earlyEvents.delete(`${p}:${seq}`);
  if (!early) seen.set(p, Math.max(seen.get(p) ?? 0, seq));
  else earlyEvents.add(`${p}:${seq}`);
  // A set keeps the order of insertion, so the oldest is first.
  for (const oldest of earlyEvents) {
    if (earlyEvents.size <= EARLY_MAX) break;
    earlyEvents.delete(oldest);
  }
  return !known;
}

/** @param {ServerObject} message */
function handle(message) {
  switch (message.T) {
    case "welcome":
      ready = true;
      welcomed = true;
      failures = 0;
      heartbeatMs = message.heartbeat_ms ?? heartbeatMs;
      maxFrameBytes = message.max_frame_bytes ?? Infinity;
      resumePending = false;
      setStatus("connected", `connected as ${message.user}`);
      page.gateway.textContent = message.gateway ?? "";
      begin();
      break;
    case "subscribed":
      if (message.id === resuming) resumePending = false;
      else confirmed = requested;
      if (message.id === requests) answer("Subscribed. The gateway reports every matching event that it cannot send.");
      setPosition(message.position);
      break;
    case "event":
      if (isNew(message)) show(message);
      break;
    case "caught_up":
      note(message.resumed ? "all missed events have arrived" : "the missed events have arrived, except in the gaps");
      setPosition(message.position);
      if (JSON.stringify(confirmed) !== JSON.stringify(wanted())) subscribe();
      break;
    case "heartbeat":
      setPosition(message.position);
      break;
    case "notice":
      note(noticeText(message));
      break;
    case "gap":
      // A new epoch of the stream begins: sequences of the former epoch may now name other events.
      if (message.reason === "reset") forgetSeen();
      note(gapText(message));
      break;
    case "goaway":
      away = { reason: `the gateway asked us to reconnect (${message.reason})`, ms: message.reconnect_ms ?? 0 };
      socket?.close();
      break;
    case "error":
      if (resumePending && isResumeError(message)) {
        if (message.code === UNAVAILABLE) socket?.close();
        else startOver();
        break;
      }
      answer(`${message.msg} (${message.code})`, true);
      break;
  }
}

/**
 * Whether an error answers the resume. The gateway answers a frame that it has skipped without an id.
 * @param {ServerObject} error
 */
function isResumeError({ id, code }) {
  return id === resuming || (id === undefined && code === FRAME_TOO_LARGE);
}

/** @param {ServerObject} notice */
function noticeText({ code, msg, expires_ms = 0, dropped = 0, conflated = 0 }) {
  if (code === "token_expiring") {
    return `the token expires in ${Math.round(expires_ms / 1000)} s: open the page with a new ?token=…`;
  }
  if (String(code).startsWith("upstream_")) return msg ? `${code}: ${msg}` : String(code);
  return `${msg ?? code}: ${dropped} dropped, ${conflated} conflated`;
}

/** @param {ServerObject} gap */
function gapText({ reason, p, from = 0, to = 0 }) {
  return `gap (${reason}): events among ${to - from} sequences of partition ${p} may be missing`;
}

/** @param {string | undefined} position */
function setPosition(position) {
  lastPosition = position ?? lastPosition;
  page.position.textContent = lastPosition || "–";
  page.position.title = lastPosition;
}

connect();
