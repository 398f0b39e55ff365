/** The address after #: a view and what it shows. It is all of the page's state, so that it can be shared. */

/** {view: "layer", layer: "3", ...} */
export function address() {
  const [view, query] = location.hash.replace(/^#\/?/, "").split("?");
  return { ...Object.fromEntries(new URLSearchParams(query)), view: view || "overview" };
}

/** What is given as null or "" is left out. */
export function href(fields) {
  const { view, ...rest } = fields;
  const given = Object.entries(rest).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const query = new URLSearchParams(given).toString();
  return `#/${view}${query ? `?${query}` : ""}`;
}

/** Go to the address with some fields changed; the view is drawn by who listens for the change. */
export function change(fields) {
  location.hash = href({ ...address(), ...fields });
}

/** The fields that stay when one goes from one view to another. */
export function lasting(at) {
  const { model, version, range, begin, end, step, axis, layer, site } = at;
  return { model, version, range, begin, end, step, axis, layer, site };
}

/** Seconds that are shown of a model where the address does not say. */
export const USUAL = 3600;

const RANGES = [["600", "10 minutes"], ["3600", "1 hour"], ["21600", "6 hours"], ["86400", "1 day"], ["604800", "1 week"]];
export const ranges = RANGES;

/** The range asked for, as the API wants it: {step}, {begin, end} or {begin}.
 *
 * model: an answer of ListTaps. Of a model that is not watched any more the last panes are meant.
 */
export function asked(at, model, now = Date.now() / 1000) {
  if (at.step) return { step: at.step };
  if (at.begin || at.end) return { begin: at.begin, end: at.end };
  if (model.last === null && model.steps.length) return { step: String(model.steps.at(-1)) };
  const seconds = Number(at.range || USUAL);
  const stands = model.last !== null && model.last < now - 60;
  return stands ? { begin: model.last - seconds, end: model.last } : { begin: Math.floor(now - seconds) };
}

/** The axis of matrices and courses: that which there is, time where there are both. */
export function axisOf(at, model) {
  return at.axis || (model.last === null && model.steps.length ? "step" : "time");
}

export function course(at, model) {
  if (axisOf(at, model) === "step") return { axis: "step" };
  if (at.begin || at.end) return { axis: "time", begin: at.begin, end: at.end };
  const seconds = Number(at.range || USUAL);
  const last = model.last ?? Date.now() / 1000;
  return { axis: "time", begin: Math.max(0, Math.floor(last - seconds)) };
}
