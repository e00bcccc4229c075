// The elements of the page, and the short texts in them.

const LOG_LINES = 5;

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

export const page = {
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
  asAlerts: /** @type {HTMLInputElement} */ (element("as-alerts")),
  saved: element("saved"),
  alerts: element("alerts"),
  answer: element("answer"),
  log: element("log"),
  events: element("events"),
  empty: element("empty"),
};

/**
 * @param {"connecting" | "connected" | "over"} state
 * @param {string} text
 */
export function setStatus(state, text) {
  page.status.dataset.state = state;
  page.status.textContent = text;
}

/** @param {string} text */
export function note(text) {
  const line = document.createElement("li");
  line.textContent = `${new Date().toLocaleTimeString()}  ${text}`;
  page.log.prepend(line);
  while (page.log.childElementCount > LOG_LINES) page.log.lastElementChild?.remove();
}

/**
 * @param {string} text
 * @param {boolean} wrong
 */
export function answer(text, wrong = false) {
  page.answer.textContent = text;
  page.answer.classList.toggle("wrong", wrong);
}
