// Events of kind alert. Each stays in a list until the gateway has recorded that the user has acknowledged it.

import { note, page } from "./page.js";

/** @typedef {import("./messages.js").ServerObject} ServerObject */

/** The page lists this many alerts that are not acknowledged. */
const ALERTS_MAX = 20;
/** The error after which the user may try again. */
const UNAVAILABLE = 503;

/** @type {Map<string, { p: number, seq: number, line: HTMLLIElement, button: HTMLButtonElement }>} */
const alerts = new Map();

/**
 * The frame that acknowledges an alert. Its id is the key of the alert.
 * @param {number} p
 * @param {number} seq
 */
function acknowledgement(p, seq) {
  return { action: "ack", id: `ack ${p}:${seq}`, p, seq };
}

/**
 * @param {ServerObject} alert
 * @param {(frame: object) => void} send Without a connection it does nothing.
 */
export function showAlert({ p = 0, seq = 0, ts, data = {}, ...alert }, send) {
  const frame = acknowledgement(p, seq);
  // One that comes again may be in the list.
  if (alerts.has(frame.id)) return;
  const line = document.createElement("li");
  line.dataset.priority = alert.priority ?? "low";
  const what = [alert.symbol, alert.pattern, data.message ?? data.type ?? "alert"].filter(Boolean).join(" ");
  line.textContent = `${ts ? new Date(ts).toLocaleTimeString() : ""}  ${what}`;
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Acknowledge";
  button.addEventListener("click", () => {
    button.disabled = true;
    send(frame);
  });
  line.append(button);
  alerts.set(frame.id, { p, seq, line, button });
  page.alerts.prepend(line);
  // A map keeps the order of insertion, so the oldest is first.
  for (const oldest of alerts.keys()) {
    if (alerts.size <= ALERTS_MAX) break;
    hideAlert(oldest);
  }
}

/** @param {string} key */
export function hideAlert(key) {
  alerts.get(key)?.line.remove();
  alerts.delete(key);
}

/**
 * Sends the acknowledgements that no former connection has got an answer to.
 * @param {(frame: object) => void} send
 */
export function repeatAcknowledgements(send) {
  for (const { p, seq, button } of alerts.values()) if (button.disabled) send(acknowledgement(p, seq));
}

/**
 * An acknowledgement was refused.
 * @param {string} key
 * @param {ServerObject} error
 */
export function acknowledgementRefused(key, { code, msg }) {
  note(`not acknowledged: ${msg}`);
  const alert = alerts.get(key);
  // The user may try again, unless there is no such alert any more.
  if (code === UNAVAILABLE && alert) alert.button.disabled = false;
  else hideAlert(key);
}
