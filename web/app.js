// The demo page: one connection to the gateway that served it, one subscription, and a table of what arrives.
// docs/protocol.md tells what is said on the wire.

/**
 * What the server sends: an array of these. Types and fields that are not known here are passed over.
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
const BACKOFF_MOST_MS = 15_000;
const TYPING_PAUSE_MS = 300;
const SUBSCRIPTION = "page";
/** So many early events are known again if they come once more after a break. */
const EARLY_MOST = 4096;
/**
 * Whether to connect again after a close, as docs/protocol.md says; a test compares. Other codes are not the gateway's:
 * they mean "yes".
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
  symbols: /** @type {HTMLInputElement} */ (element("symbols")),
  confidence: /** @type {HTMLInputElement} */ (element("confidence")),
  least: element("least"),
  answer: element("answer"),
  log: element("log"),
  events: element("events"),
  empty: element("empty"),
};

// The table. Events are gathered and drawn once per frame, however many arrive.

/** @type {ServerObject[]} */
let undrawn = [];
let received = 0;
/** @type {number[]} Events in each of the last seconds, the present one last. */
const seconds = [0];

/** @param {ServerObject} event */
function show(event) {
  received += 1;
  seconds[seconds.length - 1] += 1;
  if (undrawn.push(event) === 1) requestAnimationFrame(draw);
  // Frames stop while the page is hidden, and only so many rows will be seen.
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
  const sure = cell(line, "confidence", confidence === undefined ? "" : confidence.toFixed(2));
  if (confidence !== undefined) {
    const meter = document.createElement("meter");
    meter.value = confidence;
    sure.prepend(meter);
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

// The filter. Subscribing again under the same name replaces it while events flow.

function filter() {
  const symbols = page.symbols.value.split(/[\s,;]+/).filter(Boolean).map((symbol) => symbol.toUpperCase());
  const least = Number(page.confidence.value);
  return {
    kinds: ["pattern", "market"],
    ...(symbols.length > 0 && { symbols }),
    ...(least > 0 && { min_confidence: least }),
  };
}

let typing = 0;
page.filter.addEventListener("input", () => {
  page.least.textContent = Number(page.confidence.value) > 0 ? page.confidence.value : "any";
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
/** @type {{ reason: string, ms: number } | undefined} Why and how long the server asked us to stay away, if it did. */
let away;
/** The largest frame that the gateway takes, in bytes. */
let maxFrameBytes = Infinity;

/** Where to connect: the gateway that served the page, as `?token=` or `?user=` of the page's own address says. */
function address() {
  const query = new URLSearchParams(location.search);
  const chosen = new URLSearchParams();
  const token = query.get("token");
  if (token) {
    chosen.set("token", token);
  } else {
    const name = query.get("user") ?? sessionStorage.getItem("user") ?? `demo-${crypto.getRandomValues(new Uint32Array(1))[0]}`;
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
    objects.forEach(take);
  });
  opened.addEventListener("close", (close) => {
    if (socket === opened) lost(close.code, close.reason);
  });
}

/** A connection that says nothing for 2.5 heartbeats is given up; a close of it may never come. */
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
  if (ready) note(`${why}; what happens until we are back will be given then`);
  ready = false;
  page.gateway.textContent = "–";
  const reconnect = RECONNECT[code] ?? "yes";
  if (reconnect === "no" || reconnect === "new token") {
    setStatus("over", why);
    answer(reconnect === "no" ? "Reload the page to try again." : "Open the page with a new ?token=… to go on.", true);
    return;
  }
  // The frame that was too large cannot have been another.
  if (code === MESSAGE_TOO_BIG && resumePending) forget();
  // Full jitter: clients that were cut off together must not come back together.
  const most = Math.min(BACKOFF_FIRST_MS * 2 ** failures, BACKOFF_MOST_MS);
  const drawn = reconnect === "after" ? BACKOFF_MOST_MS * (0.5 + Math.random() / 2) : Math.random() * most;
  const pause = away?.ms ?? drawn;
  away = undefined;
  failures += 1;
  setStatus("connecting", `${why}, trying again in ${(pause / 1000).toFixed(1)} s`);
  if (failures > 3 && !welcomed) answer("If this gateway takes tokens only, open the page with ?token=…", true);
  setTimeout(connect, pause);
}

function subscribe() {
  if (!socket || !ready) return;
  requests += 1;
  answer("subscribing…");
  asked = filter();
  const frame = { action: "subscribe", id: requests, name: SUBSCRIPTION, filter: asked };
  socket.send(JSON.stringify(frame));
}

// How far we are: the last position told, and in each partition what came since. With both, any gateway goes on exactly
// there; only what came early may come again.

let reached = "";
/** @type {Map<number, number>} */
const seen = new Map();
/** @type {Set<string>} */
const earlyOnes = new Set();
let early = false;
/** @type {object | undefined} The filter that was in force last. */
let held;
let asked = {};
let resuming = 0;
/** Whether the resume has not been answered. */
let resumePending = false;

/** Goes on where we were, or begins. */
function begin() {
  if (!reached || !held || !socket) return subscribe();
  requests += 1;
  resuming = requests;
  const subscriptions = { [SUBSCRIPTION]: { filter: held } };
  const frame = { action: "resume", id: requests, position: reached, seen: Object.fromEntries(seen), subscriptions };
  const text = JSON.stringify(frame);
  if (new TextEncoder().encode(text).length > maxFrameBytes) return beginAnew();
  answer("catching up…");
  resumePending = true;
  socket.send(text);
}

/** Subscribes as if we were new. */
function beginAnew() {
  note("we cannot go on where we were; what happened meanwhile may be missing");
  resumePending = false;
  forget();
  subscribe();
}

/** What was told of the past means nothing any more. */
function forget() {
  reached = "";
  forgetSeen();
}

function forgetSeen() {
  seen.clear();
  earlyOnes.clear();
}

/**
 * Whether an event is new.
 * @param {ServerObject} event
 */
function isNew({ p = 0, seq = 0 }) {
  const known = earlyOnes.delete(`${p}:${seq}`);
  if (!early) seen.set(p, Math.max(seen.get(p) ?? 0, seq));
  else earlyOnes.add(`${p}:${seq}`);
  // A set keeps the order of coming.
  for (const oldest of earlyOnes) {
    if (earlyOnes.size <= EARLY_MOST) break;
    earlyOnes.delete(oldest);
  }
  return !known;
}

/** @param {ServerObject} said */
function take(said) {
  switch (said.T) {
    case "welcome":
      ready = true;
      welcomed = true;
      failures = 0;
      heartbeatMs = said.heartbeat_ms ?? heartbeatMs;
      maxFrameBytes = said.max_frame_bytes ?? Infinity;
      resumePending = false;
      setStatus("connected", `connected as ${said.user}`);
      page.gateway.textContent = said.gateway ?? "";
      begin();
      break;
    case "subscribed":
      if (said.id === resuming) resumePending = false;
      else held = asked;
      if (said.id === requests) answer("The filter is in force: from here on nothing that matches is missed without being told.");
      position(said.position);
      break;
    case "event":
      if (isNew(said)) show(said);
      break;
    case "caught_up":
      note(said.resumed ? "caught up with what was missed" : "caught up, but for the gaps above");
      position(said.position);
      if (JSON.stringify(held) !== JSON.stringify(filter())) subscribe();
      break;
    case "heartbeat":
      position(said.position);
      break;
    case "notice":
      if (said.code === "token_expiring") {
        note(`the token expires in ${Math.round((said.expires_ms ?? 0) / 1000)} s: open the page with a new ?token=… to go on`);
        break;
      }
      if (String(said.code).startsWith("upstream_")) note(said.msg ? `${said.code}: ${said.msg}` : said.code);
      else note(`${said.msg ?? said.code}: ${said.dropped ?? 0} dropped, ${said.conflated ?? 0} conflated`);
      break;
    case "gap":
      // The stream was made anew: what we have seen of the former one means nothing.
      if (said.reason === "reset") forgetSeen();
      note(`gap (${said.reason}): ${(said.to ?? 0) - (said.from ?? 0)} sequences of partition ${said.p} may be missing`);
      break;
    case "goaway":
      away = { reason: `the gateway asked us to leave (${said.reason})`, ms: said.reconnect_ms ?? 0 };
      socket?.close();
      break;
    case "error":
      // A frame that was passed over is answered without its id.
      if (resumePending && (said.id === resuming || (said.id === undefined && said.code === FRAME_TOO_LARGE))) {
        if (said.code === UNAVAILABLE) socket?.close();
        else beginAnew();
        break;
      }
      answer(`${said.msg} (${said.code})`, true);
      break;
  }
}

/** @param {string | undefined} told */
function position(told) {
  reached = told ?? reached;
  page.position.textContent = reached || "–";
  page.position.title = reached;
}

connect();
