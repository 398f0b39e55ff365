/** Evidence against the alarm level, effect sizes, where it begins and in which units. */

import { axisOf, course, href, lasting } from "../address.js";
import { ask, inReport } from "../api.js";
import { effect, el, figures, moment, number, panel, share, signed, table } from "../dom.js";
import { drawCourse } from "../plots.js";
import { nameOf, filled } from "./parts.js";
import { troubles } from "./troubles.js";

export function drift(content) {
  const sentence = el("div", { class: "verdict", role: "status" });
  const state = panel("Evidence now");
  const course_ = panel("Evidence over time");
  const layers = panel("Layers");
  const cause = panel("Cause");
  const base = panel("What it is compared with");
  content.replaceChildren(el("h1", {}, "Drift"), sentence, state.section, cause.section, course_.section, layers.section, base.section);
  return async ({ at, model }) => {
    const which = { model: model.model, version: model.version };
    const { state: found } = await ask("drift", which);
    say(sentence, found);
    cause.section.hidden = !found?.cause;
    if (!found?.cause) cause.body.replaceChildren();
    await Promise.all([
      filled(state.body, (body) => standingOf(body, found)),
      filled(course_.body, (body) => drawEvidence(body, at, model, found)),
      found?.cause && filled(cause.body, (body) => why(body, at, found.cause)),
      filled(layers.body, (body) => listLayers(body, at, found)),
      filled(base.body, async (body) => compared(body, (await ask("baselines")).baselines, which)),
    ]);
  };
}

function say(sentence, found) {
  const wrong = troubles(null, undefined, found, null);
  sentence.className = `verdict ${wrong.length ? "bad" : "good"}`;
  const calm = !found ? "Nothing is observed of this version now." : found.reference_ready ? "No drift: no evidence is above its alarm level." : `The reference is being recorded: ${number(found.reference_requests)} requests so far.`;
  sentence.replaceChildren(...(wrong.length ? wrong.map((one) => el("p", {}, one.text)) : [el("p", {}, calm)]));
}

function standingOf(body, found) {
  if (!found) {
    body.replaceChildren(el("p", { class: "quiet" }, "Drift is told of versions that are served."));
    return;
  }
  body.replaceChildren(figures([
    ["Evidence of the model", `${number(found.model_evidence, 3)} nats`, `alarm at ${number(found.alarm_level, 3)}`],
    ["Most of a layer", `${number(Math.max(...found.layers.map((one) => one.evidence)), 3)} nats`, `alarm at ${number(found.layer_alarm_level, 3)}`],
    ["Requests judged", number(found.judged_requests, 6)], ["Alarms of the model", number(found.model_alarms)],
    ["Reference", `${number(found.reference_requests, 6)} requests`, found.reference_small ? "fewer than 5,000: small drift takes longer" : null],
  ]));
}

const KINDS = {
  numeric: "there are NaN or infinite values", mix: "another mix of requests explains it", covariate: "more than another mix of requests",
};

function why(body, at, { kind, tap, statistic, shift, remaining, channels, groups, requests }) {
  const unit = ([channel]) => el("a", { href: href({ ...lasting(at), view: "neuron", layer: tap.layer, site: tap.site, channel }) }, channel.toLocaleString("en"));
  const begins = ["Begins in layer", nameOf(tap)];
  const moved = el("div", {}, el("h3", {}, "Units that moved most"), table("Units", [{ head: "Unit", left: true, cell: unit }, { head: "Shift, σ", cell: ([, shifted]) => signed(shifted) }], channels));
  // Of a report's range no single request is known, and so neither a kind nor what another mix of them would explain.
  if (inReport) {
    body.replaceChildren(figures(kind === "numeric" ? [["Kind", kind, KINDS[kind]], begins] : [begins]), el("div", { class: "grid" }, moved));
    return;
  }
  body.replaceChildren(
    figures([["Kind", kind, KINDS[kind]], begins, ["Moved most", statistic.replaceAll("_", " ") || "—", statistic && `${signed(shift)} σ`], ["Left with the reference's mix", remaining === null ? "—" : `${signed(remaining)} σ`]]),
    el("div", { class: "grid" },
      el("div", {}, el("h3", {}, "Classes and routes whose share changed"), table("Mix of requests", [
        { head: "Group", left: true, cell: (one) => one.group }, { head: "Reference", cell: (one) => share(one.expected) }, { head: "Now", cell: (one) => share(one.seen) }, { head: "z", cell: (one) => signed(one.z) },
      ], groups)),
      moved,
      el("div", {}, el("h3", {}, "Most extreme requests"), table("Requests", [{ head: "Request", left: true, cell: ([id]) => el("code", {}, id) }, { head: "Distance, σ", cell: ([, far]) => number(far ?? Infinity) }], requests, "Not kept: drift.keep_request_ids is none, or there is none."))),
  );
}

async function drawEvidence(body, at, model, found) {
  const answer = await ask("matrix", { model: model.model, version: model.version, statistic: "evidence", columns: 240, ...course(at, model) });
  const known = answer.values.some((row) => row.some((one) => one !== null));
  if (!known) {
    body.replaceChildren(el("p", { class: "quiet" }, "No evidence is kept of this range."));
    return;
  }
  const level = found?.layer_alarm_level;
  const named = answer.rows.map((tap, row) => ({ tap, values: answer.values[row], most: Math.max(...answer.values[row].filter((one) => one !== null)) })).sort((a, b) => a.most - b.most);
  if (!body.querySelector("figure")) body.replaceChildren(el("div", {}), el("p", { class: "note" }));
  await drawCourse(body.firstChild, {
    name: `${model.model}-evidence`, axis: axisOf(at, model), start: answer.start, height: 320,
    told: `Evidence of ${named.length} layers in nats; the most is ${number(named.at(-1).most, 3)} in layer ${nameOf(named.at(-1).tap)}${level ? `, the alarm level ${number(level, 3)}` : ""}`,
    series: named.map(({ tap, values, most }, place) => ({ name: `layer ${nameOf(tap)}`, values, width: place >= named.length - 3 ? 2 : 1, colour: level && most >= level ? undefined : "#8a93a3" })),
    levels: level ? [{ value: level, name: `alarm of a layer, ${number(level, 3)}`, colour: getComputedStyle(document.documentElement).getPropertyValue("--alarm") }] : [], unit: " nats", legend: false,
  });
  body.lastChild.textContent = "One line a layer; those that reached the alarm level are coloured. Hover tells which.";
}

function listLayers(body, at, found) {
  if (!found) {
    body.replaceChildren(el("p", { class: "quiet" }, "Nothing to tell."));
    return;
  }
  const first = found.layers.find((one) => one.active);
  const link = (tap, more, text) => el("a", { href: href({ ...lasting(at), layer: tap.layer, site: tap.site, ...more }) }, text);
  body.replaceChildren(
    table("Drift of each layer", [
      { head: "Layer", left: true, cell: (one) => link(one.tap, { view: "layer" }, nameOf(one.tap)) },
      { head: "Evidence", cell: (one) => el("span", { class: one.active && "hot" }, number(one.evidence, 3)) },
      { head: "State", left: true, cell: (one) => (one === first ? "drift begins here" : one.active ? "drifts" : "quiet") },
      { head: "PSI", cell: (one) => effect(one.effects.psi) }, { head: "Jensen-Shannon", cell: (one) => effect(one.effects.jensen_shannon) },
      { head: "Kolmogorov-Smirnov", cell: (one) => effect(one.effects.kolmogorov_smirnov) }, { head: "Wasserstein, σ", cell: (one) => effect(one.effects.wasserstein) },
      ...(inReport ? [] : [{ head: "Frechet", cell: (one) => effect(one.effects.frechet) }]), { head: "Over its\u00a0level", cell: (one) => number(one.effects.times_level, 3) },
      ...(inReport ? [] : [{ head: "Shift, σ", left: true, cell: (one) => [signed(one.effects.mean_shift), el("small", {}, one.shifted_statistic.replaceAll("_", " "))] }]),
      { head: "Units moved most, σ", left: true, cell: (one) => one.worst_channels.slice(0, 2).map(([unit, moved]) => el("div", {}, link(one.tap, { view: "neuron", channel: unit }, String(unit)), ` ${signed(moved)}`)) },
      { head: "Alarms", cell: (one) => number(one.alarms) },
    ], found.layers),
    el("p", { class: "note" }, `Effect sizes are of ${inReport ? "the range of this report" : `the last ${number(found.window_seconds)} seconds, ${number(found.window_requests, 6)} requests`}, and have their value without drift subtracted; shifts are in standard deviations of the reference. Over its level: the largest effect over what 99.9% of windows without drift stay under. An alert needs evidence and an effect.`),
  );
}

function compared(body, baselines, which) {
  const mine = baselines.filter((one) => one.model === which.model);
  body.replaceChildren(table("Baselines", [
    { head: "Version", left: true, cell: (one) => one.version }, { head: "State", left: true, cell: (one) => (one.complete ? "complete" : "being recorded") },
    { head: "Requests", cell: (one) => number(one.requests, 6) }, { head: "From version", left: true, cell: (one) => one.recorded_from ?? "—" }, { head: "Recorded", left: true, cell: (one) => moment(one.created_at) },
  ], mine, "Nothing: this version is not observed now."));
}
