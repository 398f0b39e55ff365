/** Questions to the API, with the token if one is needed; or the answers that a report brings along. */

const KEY = "sidecar-token";

export class Refused extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

/** In a report: what was asked of it -> the answer. */
const kept = document.getElementById("answers") ? JSON.parse(document.getElementById("answers").textContent) : null;
export const inReport = kept !== null;

const OF_RANGE = new Set(["begin", "end", "step", "source", "model", "version", "columns", "points", "per_octave", "spikes", "limit", "offset", "other_model", "other_version", "other_begin", "other_end", "other_step", "other_source"]);

function keyOf(path, fields, side) {
  const told = Object.entries(fields).filter(([key]) => !OF_RANGE.has(key)).map(([key, value]) => `${key}=${value}`);
  return [path, ...told.sort(), ...(side ? [side] : [])].join(" ");
}

function given(fields) {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined && value !== null && value !== ""));
}

async function fetched(path) {
  const token = sessionStorage.getItem(KEY);
  const headers = token ? { authorization: `Bearer ${token}` } : {};
  let reply;
  try {
    reply = await fetch(new URL(path, document.baseURI), { headers, cache: "no-store" });
  } catch {
    throw new Refused(0, "The sidecar does not answer. The page tries again every few seconds.");
  }
  if (reply.ok) return reply.json();
  const text = await reply.text();
  let told = text;
  try {
    told = JSON.parse(text).error ?? text;
  } catch { /* Refusals of the guard are plain text. */ }
  throw new Refused(reply.status, told);
}

/** The answer of /api/v1/<path>. Throws Refused; status 0 where nobody answers.
 *
 * side: "right" for what a comparison has there, which a report keeps apart.
 */
export async function ask(path, fields = {}, side = "") {
  const wanted = given(fields);
  if (kept) {
    const answer = kept[keyOf(path, wanted, side)];
    if (answer === undefined) throw new Refused(404, "This was not written into the report.");
    if (answer.refused) throw new Refused(403, answer.refused);
    return answer;
  }
  return fetched(`api/v1/${path}?${new URLSearchParams(wanted)}`);
}

export function keepToken(token) {
  if (token) sessionStorage.setItem(KEY, token);
  else sessionStorage.removeItem(KEY);
}
