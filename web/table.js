// The table of events. They are collected, and drawn once per animation frame.

import { page } from "./page.js";

/** @typedef {import("./messages.js").ServerObject} ServerObject */

const ROWS = 200;
const RATE_SECONDS = 5;

/** @type {ServerObject[]} */
let undrawn = [];
let received = 0;
/** @type {number[]} The number of events in each of the last seconds, the current one last. */
const seconds = [0];

/** @param {ServerObject} event */
export function show(event) {
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
  line.classList.toggle("alert", event.T === "alert");
  if (event.subs) line.title = `an alert for ${event.subs.join(", ")}`;
  const { confidence, data = {} } = event;
  const details = data.summary ?? data.message ?? data.bar_time ?? "";
  cell(line, "time", event.ts ? new Date(event.ts).toLocaleTimeString() : "");
  cell(line, "symbol", event.symbol ?? event.key ?? "");
  // The mark of an alert says its kind.
  const kind = event.T === "alert" && event.kind === "alert" ? "" : (event.kind ?? "");
  cell(line, "what", event.pattern ?? (event.regime ? `market: ${event.regime}` : kind));
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
