/** Two versions, ranges, steps, baselines or replicas side by side: every layer in a table, one of them in full. */

import { asked, change, href } from "../address.js";
import { ask, inReport } from "../api.js";
import { choice, effect, el, moment, number, panel, share, table } from "../dom.js";
import { drawHistogram } from "./histogram.js";
import { SERIES, drawLine } from "./line.js";
import { filled, nameOf, tapChoice, tapOf } from "./parts.js";

export function compare(content) {
  const controls = el("div", { class: "controls" });
  const said = el("p", { class: "note" });
  const layers = panel("Layers");
  const line = panel("Units, both sides", el("div", { class: "controls" }));
  const values = panel("Values, both sides");
  content.replaceChildren(el("div", { class: "title" }, el("h1", {}, "Compare"), controls), said, layers.section, line.section, values.section);
  return async ({ at, taps, model }) => {
    const left = asked(at, model);
    const sides = choices(taps, model, left);
    const chosen = sides.find(([key]) => key === at.other) ?? sides[0];
    if (!controls.contains(document.activeElement) && !inReport) controls.replaceChildren(choice("With", sides.map(([key, text]) => [key, text]), chosen?.[0], (other) => change({ other })));
    if (!chosen) {
      said.textContent = "There is one version and one range only; nothing to compare it with.";
      return;
    }
    const right = chosen[2]();
    const tap = tapOf(at, model);
    const mine = { model: model.model, version: model.version, ...left };
    const other = { model: right.model ?? model.model, version: right.version ?? model.version, ...right };
    await Promise.all([
      filled(layers.body, (body) => sideBySide(body, said, at, mine, other)),
      filled(line.body, (body) => bothLines(body, line, at, model, tap, mine, other)),
      filled(values.body, async (body) => {
        const answers = await Promise.all([[mine, ""], [other, "right"]].map(([range, side]) => ask("histogram", { ...range, layer: tap.layer, site: tap.site, per_octave: 4 }, side)));
        await drawHistogram(body, answers, tap);
      }),
    ]);
  };
}

/** What the range on the left can be compared with: [key, text, () => the fields of the right]. */
function choices(taps, model, left) {
  const earlier = [["before", "the range before it"], ["hour", "the same, an hour before"], ["day", "the same, a day before"]]
    .map(([key, text]) => [key, text, () => moved(left, key)])
    .filter(([, , right]) => right().end > model.first);
  const oldest = ["oldest", "the oldest that was kept", () => ({ begin: model.first, end: model.first + Math.min(600, (model.last - model.first) / 2) })];
  const steps = model.steps.toReversed().filter((step) => String(step) !== String(left.step)).slice(0, 200).map((step) => [`step ${step}`, `step ${step.toLocaleString("en")}`, () => ({ step: String(step) })]);
  const versions = taps.models.filter((one) => one.model !== model.model || one.version !== model.version)
    .map((one) => [`version ${one.model}\n${one.version}`, `${one.model} · ${one.version}`, () => ({ ...(has(one, left) ? left : asked({}, one)), model: one.model, version: one.version })])
    .sort(([, , a], [, , b]) => Number(b().model === model.model) - Number(a().model === model.model));
  const sources = [...(model.served ? ["reference"] : []), ...taps.sources].map((source) => [source, named(source), () => ({ source })]);
  return [...(left.step ? [] : [...earlier, oldest]), ...(left.step ? steps : []), ...versions, ...sources, ...(left.step ? [] : steps)];
}

function named(source) {
  return source === "reference" ? "the reference it is judged by" : source.replace(":", " ");
}

function has(model, range) {
  return range.step ? model.steps.includes(Number(range.step)) : model.last !== null && model.last >= range.begin;
}

function moved(left, key) {
  const begin = Number(left.begin);
  const end = Number(left.end ?? Math.floor(Date.now() / 1000));
  const back = { before: end - begin, hour: 3600, day: 86400 }[key];
  return { begin: begin - back, end: end - back };
}

async function sideBySide(body, said, at, mine, other) {
  const there = Object.fromEntries(Object.entries(other).map(([key, value]) => [`other_${key}`, value]));
  const answer = await ask("compare", { ...mine, ...there });
  const words = (side) => `${side.model} ${side.version}, ${when(side)} (${side.requests.toLocaleString("en")} requests)`;
  said.textContent = `Left: ${words(answer.left)}. Right: ${words(answer.right)}.`;
  const pair = (name, digits = 4) => (one) => `${number(one.left[name], digits)} → ${number(one.right[name], digits)}`;
  const size = (name) => (one) => effect(one[name], name in one.no_drift ? "" : ", nothing subtracted");
  body.replaceChildren(table("Layers of both sides", [
    { head: "Layer", left: true, cell: (one) => el("a", { href: href({ ...at, layer: one.tap.layer, site: one.tap.site }) }, nameOf(one.tap)) },
    { head: "PSI", cell: size("psi") }, { head: "Jensen-Shannon", cell: size("jensen_shannon") }, { head: "Kolmogorov-Smirnov", cell: size("kolmogorov_smirnov") }, { head: "Wasserstein, σ", cell: size("wasserstein") },
    { head: "Over its\u00a0level", cell: (one) => number(one.times_level, 3) }, { head: "Shift, σ", cell: (one) => effect(one.shift) },
    { head: "Mean", cell: pair("mean", 3) }, { head: "Rms", cell: pair("rms", 3) }, { head: "Kurtosis", cell: pair("kurtosis", 3) }, { head: "Near zero", cell: (one) => `${share(one.left.near_zero_share)} → ${share(one.right.near_zero_share)}` },
  ], answer.layers, "The sides have no layer in common."), el("p", { class: "note" }, withoutDrift(answer.layers)));
}

const MEASURED = {
  reference: "between samples of so many requests of the reference", left: "between halves of the panes on the left, for so many requests",
  right: "between halves of the panes on the right, for so many requests",
};

function withoutDrift(layers) {
  const known = [...new Set(layers.map((one) => one.no_drift_from))].filter(Boolean);
  if (!known.length) return "Nothing is subtracted from the effect sizes, because what they are without drift is not known of these sides: chance alone keeps them above 0.";
  const all = layers.every((one) => one.no_drift_from);
  return [
    `Effect sizes have their value without drift subtracted: what they average ${known.map((one) => MEASURED[one]).join(", or ")}${all ? "" : "; grey ones have nothing subtracted, because that is not known"}.`,
    known.includes("reference") ? "Over its level: the largest effect over what 99.9% of such samples stay under." : "",
    "A shift of the mean averages 0 without drift.",
  ].join(" ");
}

function when({ source, step, begin, end }) {
  if (source) return `${named(source)}, as of ${moment(end)}`;
  return step === null ? `${moment(begin)} to ${moment(end)}` : `step ${step.toLocaleString("en")}`;
}

async function bothLines(body, line, at, model, tap, mine, other) {
  const series = SERIES[at.series] ? at.series : "mean";
  const controls = line.section.querySelector(".controls");
  if (!controls.contains(document.activeElement)) controls.replaceChildren(tapChoice(model, tap), choice("Shown", Object.entries(SERIES).map(([key, one]) => [key, one.title]), series, (value) => change({ series: value })));
  const answers = await Promise.all([[mine, ""], [other, "right"]].map(([range, side]) => ask("layer", { ...range, layer: tap.layer, site: tap.site, spikes: 40 }, side)));
  line.heading.textContent = `Units of layer ${nameOf(tap)}, both sides`;
  await drawLine(body, answers, series, (channel) => { location.hash = href({ ...at, view: "neuron", layer: tap.layer, site: tap.site, channel }); });
}
