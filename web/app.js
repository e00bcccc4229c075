// The demo page: one connection to the gateway that served it, a subscription of the user's choice and one for alerts to
// the user, and a table of what arrives. docs/protocol.md describes the messages.
//
// The gateway embeds the page and serves it as it is: there is no build step. `messages` describes what the server sends,
// `page` has the elements, `table` shows the events, and `alerts` those that the user acknowledges.

import { acknowledgementRefused, hideAlert, repeatAcknowledgements, showAlert } from "./alerts.js";
import { gapText, noticeText } from "./messages.js";
import { answer, note, page, setStatus } from "./page.js";
import { show } from "./table.js";

/** @typedef {import("./messages.js").ServerObject} ServerObject */

const BACKOFF_FIRST_MS = 500;
const BACKOFF_MAX_MS = 15_000;
const TYPING_PAUSE_MS = 300;
const SUBSCRIPTION = "page";
const ALERTS = "alerts";
const ALERTS_WANTED = { filter: { kinds: ["alert"] }, alert: true };
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
  4015: "after",
};
const FRAME_TOO_LARGE = 417;
const MESSAGE_TOO_BIG = 1009;
const UNAVAILABLE = 503;

// The filter or preset. Subscribing again under the same name replaces it, and events continue to arrive meanwhile.

/**
 * The fields of the subscription that say what it wants.
 * @returns {object | undefined} Nothing while the preset lacks its patterns: the gateway would refuse it.
 */
function wanted() {
  const symbols = words(page.symbols).map((symbol) => symbol.toUpperCase());
  const someSymbols = symbols.length > 0 && { symbols };
  const asAlerts = page.asAlerts.checked && { alert: true };
  const preset = page.preset.value;
  if (preset === SPECIFIC) {
    const patterns = words(page.patterns);
    return patterns.length > 0 ? { preset, patterns, ...someSymbols, ...asAlerts } : undefined;
  }
  if (preset) return { preset, ...someSymbols, ...asAlerts };
  const minimum = Number(page.confidence.value);
  const certain = minimum > 0 && { min_confidence: minimum };
  return { filter: { kinds: ["pattern", "market"], ...someSymbols, ...certain }, ...asAlerts };
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
  unconfirmed.set(requests, chosen);
  send({ action: "subscribe", id: requests, name: SUBSCRIPTION, ...chosen });
}

function subscribeToAlerts() {
  requests += 1;
  send({ action: "subscribe", id: requests, name: ALERTS, ...ALERTS_WANTED });
}

/**
 * Sends a frame. Without a connection it does nothing.
 * @param {object} frame
 */
function send(frame) {
  if (socket && ready) socket.send(JSON.stringify(frame));
}

// The resume. It carries the last position, and for each partition the highest sequence that arrived after it. So any
// gateway continues exactly there. Only events that arrived early may be sent again. The gateway adds the saved
// subscriptions of the user.

let lastPosition = "";
/** @type {Map<number, number>} */
const seen = new Map();
/** @type {Set<string>} */
const earlyEvents = new Set();
let early = false;
/** @type {object | undefined} The filter or preset that the gateway confirmed last. */
let confirmed;
/** @type {Map<number, object>} The filters and presets that it has not confirmed yet, by the ids of their requests. */
const unconfirmed = new Map();
let resuming = 0;
/** Whether the page waits for the answer to a resume. */
let resumePending = false;

/** Resumes at the last position. Without a position it subscribes. */
function begin() {
  unconfirmed.clear();
  if (!lastPosition || !socket) return subscribeToAll();
  requests += 1;
  resuming = requests;
  const subscriptions = { [ALERTS]: ALERTS_WANTED, ...(confirmed && { [SUBSCRIPTION]: confirmed }) };
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
  subscribeToAll();
}

function subscribeToAll() {
  subscribeToAlerts();
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
      repeatAcknowledgements(send);
      break;
    case "subscribed":
      if (message.id === resuming) resumePending = false;
      takeList(message);
      if (message.id === requests) answer("Subscribed. The gateway reports every matching event that it cannot send.");
      break;
    case "subscriptions":
      takeList(message);
      break;
    case "event":
    case "alert":
      // An alert that comes again says nothing about the events before it.
      if (message.again || isNew(message)) show(message);
      if (message.kind === "alert") showAlert(message, send);
      break;
    case "acked":
      hideAlert(String(message.id));
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
      } else if (typeof message.id === "string") {
        acknowledgementRefused(message.id, message);
      } else if (message.id === undefined) {
        // It may be about a saved subscription, which the page has not asked for.
        note(`${message.msg} (${message.code})`);
      } else {
        answer(`${message.msg} (${message.code})`, true);
      }
      break;
  }
}

/**
 * Takes a list of all subscriptions. One without an id comes when the gateway has added or changed saved ones.
 * @param {ServerObject} list
 */
function takeList({ id, subscriptions = {}, position }) {
  const wanted = typeof id === "number" && unconfirmed.get(id);
  if (wanted) {
    unconfirmed.delete(id);
    confirmed = wanted;
  }
  const saved = Object.keys(subscriptions).filter((name) => name !== SUBSCRIPTION && name !== ALERTS);
  page.saved.textContent = page.saved.title = saved.join(", ") || "–";
  // While a resume waits for its answer, the position in another list is not ours, but the gateway's.
  if (!resumePending) setPosition(position);
}

/**
 * Whether an error answers the resume. The gateway answers a frame that it has skipped without an id.
 * @param {ServerObject} error
 */
function isResumeError({ id, code }) {
  return id === resuming || (id === undefined && code === FRAME_TOO_LARGE);
}

/** @param {string | undefined} position */
function setPosition(position) {
  lastPosition = position ?? lastPosition;
  page.position.textContent = lastPosition || "–";
  page.position.title = lastPosition;
}

connect();
