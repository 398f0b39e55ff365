/** What is wrong with a model version right now, the worst first. */

import { number } from "../dom.js";
import { nameOf } from "./parts.js";

/** [{text, tap, view}]; an empty list if nothing is.
 *
 * served: of the status, undefined for one that is not served. state: of drift, or null. store: or null.
 */
export function troubles(model, served, state, store) {
  const found = [];
  if (served && !served.ready) found.push({ text: "It does not take requests." });
  if (served && !served.instrumented) found.push({ text: `It is served without telemetry: ${served.detail || "nothing is observed"}.` });
  const wild = served?.layers.filter((one) => one.nonfinite_now) ?? [];
  if (wild.length) found.push({ tap: wild[0], text: `Layer ${nameOf(wild[0])} has had ${number(wild[0].nonfinite_now)} NaN or infinite values just now, ${number(wild[0].nonfinite)} since the start${others(wild)}.` });
  found.push(...drifting(state));
  const silent = served?.layers.filter((one) => one.silent) ?? [];
  if (silent.length) found.push({ tap: silent[0], text: `The tap of layer ${nameOf(silent[0])} reports nothing${others(silent)}.` });
  if (served) {
    const failures = Object.values(served.telemetry_failures).reduce((sum, one) => sum + one, 0);
    if (failures) found.push({ text: `Telemetry failed ${number(failures)} times since the start; requests were served all the same.` });
  }
  if (store?.detail) found.push({ text: `The store: ${store.detail}.` });
  return found;
}

function drifting(state) {
  if (!state) return [];
  if (state.cause) return [{ view: "drift", tap: state.cause.tap, text: `${state.cause.sentence[0].toUpperCase()}${state.cause.sentence.slice(1)}.` }];
  const active = state.layers.filter((one) => one.active);
  if (!active.length) return state.model_active ? [{ view: "drift", tap: state.layers[0].tap, text: "The model as a whole drifts, and no layer alone does." }] : [];
  return [{ view: "drift", tap: active[0].tap, text: `Drift begins in layer ${nameOf(active[0].tap)}; ${active.length} of ${state.layers.length} layers drift.` }];
}

function others(list) {
  return list.length > 1 ? `, and ${list.length - 1} more do` : "";
}
