// The objects of the server, and what some of them say in words.

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
 * @property {number | string} [id]
 * @property {string} [position]
 * @property {Record<string, unknown>} [subscriptions]
 * @property {string[]} [subs]
 * @property {boolean} [again]
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

/** @param {ServerObject} notice */
export function noticeText({ code, msg, expires_ms = 0, dropped = 0, conflated = 0 }) {
  if (code === "token_expiring") {
    return `the token expires in ${Math.round(expires_ms / 1000)} s: open the page with a new ?token=…`;
  }
  if (String(code).startsWith("upstream_")) return msg ? `${code}: ${msg}` : String(code);
  return `${msg ?? code}: ${dropped} dropped, ${conflated} conflated`;
}

/** @param {ServerObject} gap */
export function gapText({ reason, p, from = 0, to = 0 }) {
  return `gap (${reason}): events among ${to - from} sequences of partition ${p} may be missing`;
}
