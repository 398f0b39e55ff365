/** One layer: the line of its units, its values, its sparsity, and its moments over time. */

import { axisOf, asked, change, course, href, lasting } from "../address.js";
import { ask } from "../api.js";
import { choice, el, figures, moment, number, panel, share, signed, table } from "../dom.js";
import { GAUSSIAN, indices } from "../indices.js";
import { drawCourse } from "../plots.js";
import { drawHistogram } from "./histogram.js";
import { SERIES, drawLine } from "./line.js";
import { filled, nameOf, tapChoice, tapOf } from "./parts.js";

const MOMENTS = ["mean", "rms", "kurtosis", "hoyer", "near_zero_share", "absmax"];
const FILTERS = [["all", "all"], ["dead", "dead"], ["always_on", "always on"], ["massive", "massive"]];
const ORDERS = {
  absmax: "largest magnitude", rms: "rms", mean: "mean", fire_rate: "fire rate", outliers: "values of at least 6", shift: "shift", channel: "number",
};

export function layer(content) {
  const title = el("h1", {});
  const controls = el("div", { class: "controls" });
  const line = panel("Units", el("div", { class: "controls" }));
  const values = panel("Values");
  const sparse = panel("How alike the units are");
  const units = panel("Units by", el("div", { class: "controls" }));
  const moments = panel("Over time");
  content.replaceChildren(el("div", { class: "title" }, title, controls), line.section, el("div", { class: "two" }, values.section, sparse.section), moments.section, units.section);
  return async ({ at, taps, model }) => {
    const tap = tapOf(at, model);
    title.textContent = `Layer ${nameOf(tap)}`;
    if (!controls.contains(document.activeElement)) controls.replaceChildren(tapChoice(model, tap));
    const where = { model: model.model, version: model.version, layer: tap.layer, site: tap.site };
    const range = asked(at, model);
    moments.heading.textContent = axisOf(at, model) === "time" ? "Over time" : "Over training steps";
    await Promise.all([
      filled(line.body, (body) => units_(body, line, sparse, at, taps, where, range)),
      filled(values.body, async (body) => drawHistogram(body, [await ask("histogram", { ...where, ...range, per_octave: 4 })], tap)),
      filled(units.body, (body) => listUnits(body, units, at, where, range)),
      filled(moments.body, (body) => drawMoments(body, at, taps, model, tap)),
    ]);
  };
}

async function units_(body, line, sparse, at, taps, where, range) {
  const answer = await ask("layer", { ...where, ...range, spikes: 40 }).catch((error) => {
    sparse.body.replaceChildren(el("p", { class: "quiet" }, "Nothing to tell."));
    throw error;
  });
  const series = SERIES[at.series] ? at.series : "mean";
  const controls = line.section.querySelector(".controls");
  if (!controls.contains(document.activeElement))
    controls.replaceChildren(choice("Shown", Object.entries(SERIES).map(([key, one]) => [key, one.title]), series, (value) => change({ series: value })));
  const open = (channel) => { location.hash = href({ ...lasting(at), view: "neuron", layer: where.layer, site: where.site, channel }); };
  if (!body.querySelector(".note")) body.replaceChildren(el("div", {}), el("p", { class: "note" }), el("div", { class: "spikes" }));
  body.children[1].textContent = coveredWords(answer);
  await drawLine(body.firstChild, [answer], series, open);
  body.lastChild.replaceChildren(spikeList(answer, at));
  sparseness(sparse.body, answer, series, taps);
}

function coveredWords({ covered, tap, positions }) {
  const when = covered.step === null ? `${moment(covered.begin)} to ${moment(covered.end)}` : `Step ${covered.step.toLocaleString("en")}`;
  return `${when}: ${covered.requests.toLocaleString("en")} requests, ${positions.toLocaleString("en")} positions of ${tap.channels.toLocaleString("en")} units, module ${tap.module}.`;
}

function neuronLink(at, channel, text = channel.toLocaleString("en")) {
  return el("a", { href: href({ ...lasting(at), view: "neuron", channel }) }, text);
}

function spikeList(answer, at) {
  if (!answer.spikes.length) return el("p", { class: "quiet" }, "No unit's mean stands out by six sigmas.");
  const where = { ...at, layer: answer.tap.layer, site: answer.tap.site };
  const list = answer.spikes.map((one) => el("li", {}, neuronLink(where, one.channel), el("b", {}, signed(one.mean)), el("small", {}, `${signed(one.sigmas, 3)} σ`)));
  return el("details", {}, el("summary", {}, `${answer.spikes.length}${answer.spikes.length === 40 ? " largest" : ""} spikes: units whose mean lies six sigmas or more from the others'`), el("ol", { class: "chips" }, list));
}

const INDICES = [
  ["kurtosis", "Kurtosis", "tails; 3 if Gaussian"], ["hoyer", "Hoyer", "0 all alike, 1 one alone"], ["gini", "Gini", "inequality of magnitudes"],
  ["trevesRolls", "Treves-Rolls", "lifetime sparsity over units"], ["participation", "Participation ratio / N", "share of units that carry the energy"],
  ["crest", "Crest", "largest over rms"], ["ratio", "Largest over median", "of magnitudes"],
];

function sparseness(body, answer, series, taps) {
  const values = answer.channels[series].filter((one) => one !== null);
  const found = indices(values);
  const gaussian = new Map(taps.statistics.map((one) => [one.name, one.gaussian]));
  const beyond = values.filter((one) => Math.abs(one) > 6).length / values.length;
  const told = [["kurtosis", "Kurtosis"], ["near_zero_share", "Near zero", true], ["zero_share", "Zero", true], ["outlier_share", "At least 6", true], ["dead", "Dead units"], ["massive", "Massive units"], ["headroom", "Doublings to float16's end"], ["nonfinite", "NaN or infinite"]];
  body.replaceChildren(
    table(`Indices of the line of units (${SERIES[series].title})`, [
      { head: `Of the units' ${SERIES[series].title}`, left: true, cell: ([, title, help]) => el("span", { title: help }, title) },
      { head: "Here", cell: ([key]) => el("b", {}, number(found[key])) },
      { head: "Gaussian", cell: ([key]) => number(GAUSSIAN[key], 3) },
    ], INDICES),
    el("p", { class: "note" }, `${share(beyond)} of the units lie beyond ±6.`),
    el("h3", {}, "Of all values"),
    figures(told.map(([key, title, part]) => {
      const known = gaussian.get(key);
      return [title, (part ? share : number)(answer.statistics[key]), known === null || known === undefined ? null : `Gaussian ${number(known)}`];
    })),
  );
}

async function listUnits(body, units, at, where, range) {
  const filter = at.filter ?? "all";
  const order = at.order ?? "absmax";
  const controls = units.section.querySelector(".controls");
  if (!controls.contains(document.activeElement)) controls.replaceChildren(
    choice("Order", Object.entries(ORDERS), order, (value) => change({ order: value, offset: null })),
    choice("Only", FILTERS, filter, (value) => change({ filter: value, offset: null })),
  );
  units.heading.textContent = `Units by ${ORDERS[order] ?? order}`;
  const answer = await ask("neurons", { ...where, ...range, filter, order, limit: 20, offset: at.offset });
  const place = { ...at, layer: where.layer, site: where.site };
  const offset = Number(at.offset ?? 0);
  body.replaceChildren(
    table("Units of the layer", [
      { head: "Unit", cell: (one) => neuronLink(place, one.channel) },
      { head: "Mean", cell: (one) => number(one.mean) }, { head: "Rms", cell: (one) => number(one.rms) },
      { head: "Largest", cell: (one) => number(one.absmax) }, { head: "Fires", cell: (one) => share(one.fire_rate) },
      { head: "At least 6", cell: (one) => number(one.outliers) }, { head: "Shift, σ", cell: (one) => (one.shift === null ? "—" : signed(one.shift)) },
    ], answer.neurons, filter === "dead" ? "No unit is dead in this range." : "No unit passes this filter."),
    el("p", { class: "note" },
      `${answer.total.toLocaleString("en")} units. `,
      filter === "dead" ? `A dead unit may still fire at up to ${share(answer.rate_bound)} of the positions. ` : null,
      offset ? el("a", { href: href({ ...at, offset: Math.max(0, offset - 20) }) }, "Back") : null, " ",
      answer.next_offset !== null ? el("a", { href: href({ ...at, offset: answer.next_offset }) }, "More") : null),
  );
}

async function drawMoments(body, at, taps, model, tap) {
  const kind = axisOf(at, model);
  const answers = await Promise.all(MOMENTS.map((statistic) =>
    ask("matrix", { model: model.model, version: model.version, statistic, columns: 120, ...course(at, model) })));
  if (!answers[0].start.length) {
    body.replaceChildren(el("p", { class: "quiet" }, "Nothing is kept of this range."));
    return;
  }
  if (!body.querySelector(".small")) body.replaceChildren(el("div", { class: "grid" }, MOMENTS.map((name) => el("div", { class: "small" }, el("h3", { title: taps.statistics.find((one) => one.name === name)?.help }, name.replaceAll("_", " ")), el("div", {})))));
  await Promise.all(answers.map((answer, place) => {
    const row = answer.rows.findIndex((one) => one.layer === tap.layer && one.site === tap.site);
    const known = taps.statistics.find((one) => one.name === answer.statistic)?.gaussian ?? null;
    const last = answer.values[row].findLast((one) => one !== null);
    return drawCourse(body.querySelectorAll(".small")[place].lastChild, {
      name: `layer-${tap.layer}-${answer.statistic}`, axis: kind, start: answer.start, height: 150,
      told: `${answer.statistic} of layer ${nameOf(tap)} over ${answer.start.length} panes, the last ${number(last)}`,
      series: [{ name: answer.statistic.replaceAll("_", " "), values: answer.values[row] }],
      levels: known === null ? [] : [{ value: known, name: `Gaussian ${number(known, 3)}` }],
    });
  }));
}
