/** What is wrong now, in a sentence; the traffic; and all layers against time or training steps. */

import { axisOf, change, course, href, lasting } from "../address.js";
import { ask, inReport } from "../api.js";
import { choice, el, figures, moment, number, panel, share } from "../dom.js";
import { plateau, quantile } from "../indices.js";
import { DIVERGING, SEQUENTIAL, draw, drawCourse, plain, room } from "../plots.js";
import { troubles } from "./troubles.js";
import { filled, nameOf } from "./parts.js";

const SIGNED = new Set(["mean", "skewness", "p50"]);

export function overview(content) {
  const title = el("h1", {});
  const sentence = el("div", { class: "verdict", role: "status" });
  const traffic = panel("Traffic");
  const heat = panel("Layers", el("div", { class: "controls" }));
  content.replaceChildren(title, sentence, heat.section, traffic.section);
  return async ({ at, taps, model }) => {
    title.textContent = `${model.model} · ${model.version}`;
    const [status, state] = await Promise.all([ask("status"), ask("drift", { model: model.model, version: model.version })]);
    const served = status.models.find((one) => one.model === model.model && one.version === model.version);
    const found = troubles(model, served, state.state, status.store);
    sentence.className = `verdict ${found.length ? "bad" : "good"}`;
    sentence.replaceChildren(...(found.length ? found.map((one) => spoken(one, at)) : [el("p", {}, healthy(model, served, state.state))]));
    await Promise.all([
      filled(heat.body, (body) => heatmap(body, heat, at, taps, model)),
      filled(traffic.body, (body) => drawTraffic(body, at, model, served, state.state)),
    ]);
  };
}

function spoken(trouble, at) {
  const link = trouble.tap && href({ ...lasting(at), view: trouble.view ?? "layer", layer: trouble.tap.layer, site: trouble.tap.site });
  return el("p", {}, trouble.text, " ", link ? el("a", { href: link }, "Look there") : null);
}

function healthy(model, served, state) {
  if (inReport) return model.last === null ? "A report of what was kept of this version." : `What was kept of this version from ${moment(model.first)} to ${moment(model.last)}.`;
  if (!served) {
    const until = model.last === null ? "" : `, until ${moment(model.last)}`;
    return `This version is not served now. What is shown is what was kept of it${until}.`;
  }
  if (state && !state.reference_ready)
    return `Nothing is wrong that can be told yet: the reference is being recorded, ${number(state.reference_requests)} requests so far.`;
  return "Nothing is wrong: no layer drifts, all values are finite, every tap reports.";
}

async function heatmap(body, heat, at, taps, model) {
  const kind = axisOf(at, model);
  const name = at.statistic ?? "kurtosis";
  const answer = await ask("matrix", { model: model.model, version: model.version, statistic: name, columns: 240, ...course(at, model) });
  const about = taps.statistics.find((one) => one.name === name);
  const each = at.scale === "layer";
  heat.heading.textContent = kind === "time" ? "Layers over time" : "Layers over training steps";
  const sites = [...new Set(model.taps.map((tap) => tap.site))];
  const controls = heat.section.querySelector(".controls");
  if (!controls.contains(document.activeElement)) controls.replaceChildren(...[
    choice("Statistic", taps.statistics.map((one) => [one.name, one.name.replaceAll("_", " ")]), name, (statistic) => change({ statistic })),
    sites.length > 1 ? choice("Site", [["", "all"], ...sites.map((one) => [one, one])], at.heat ?? "", (site) => change({ heat: site })) : null,
    choice("Colours", [["", "one scale for all"], ["layer", "each layer its own"]], at.scale ?? "", (scale) => change({ scale })),
    model.steps.length && model.last !== null ? choice("Axis", [["time", "time"], ["step", "step"]], kind, (axis) => change({ axis })) : null,
  ].filter(Boolean));
  const places = answer.rows.map((_, row) => row).filter((row) => !at.heat || answer.rows[row].site === at.heat);
  if (!answer.start.length || !places.length) {
    body.replaceChildren(el("p", { class: "quiet" }, "Nothing is kept of this range."));
    return;
  }
  const rows = places.map((row) => answer.rows[row]);
  const values = places.map((row) => answer.values[row]);
  let note = body.querySelector(".note");
  if (!note) body.replaceChildren(el("div", {}), (note = el("p", { class: "note" })));
  const mark = peakOf(values);
  await draw(body.firstChild, picture({ answer, rows, values, kind, name, each, mark, at, most: room(body.firstChild, 85) }));
  note.replaceChildren(el("span", {}, about?.help ?? ""), " ", mark ? el("strong", {}, wordsOf(mark, rows, answer, kind)) : "");
}

function peakOf(values) {
  let best = null;
  values.forEach((row, y) => row.forEach((value, x) => {
    if (value !== null && (!best || value > best.value)) best = { row: y, column: x, value };
  }));
  return best && { ...best, plateau: plateau(values[best.row], best.column) };
}

function wordsOf({ row, column, value, plateau: [first, last] }, rows, answer, kind) {
  const told = (place) => (kind === "time" ? moment(answer.start[place]) : `step ${answer.start[place].toLocaleString("en")}`);
  const high = first === last ? "" : `; it stays within a twentieth of that from ${told(first)} to ${told(last)}`;
  return `Peak ${number(value)} in layer ${nameOf(rows[row])} at ${told(column)}${high}.`;
}

function picture({ answer, rows, values, kind, name, each, mark, at, most: labelled }) {
  const shown = each ? values.map(ranked) : values;
  const flat = shown.flat().filter((one) => one !== null);
  const signed = !each && SIGNED.has(name) && flat.some((one) => one < 0);
  const most = signed ? quantile(flat.map(Math.abs), 0.995) : quantile(flat, 0.995);
  const least = signed ? -most : Math.min(...flat);
  // By place and not by moment: panes of several spans would leave cells of all widths.
  const x = answer.start.map((_, place) => place);
  const brief = answer.start.at(-1) - answer.start[0] < 7200;
  const ticks = pick(x, Math.min(labelled, x.length <= 12 ? 12 : 8));
  const told = (place) => (kind === "time" ? moment(answer.start[place]).slice(...(brief ? [11] : [5, 16])) : answer.start[place].toLocaleString("en"));
  const labels = rows.map(nameOf);
  return {
    name: `${answer.model}-layers-${name}`,
    told: `Heatmap of ${name} of ${rows.length} layers in ${x.length} columns; ${mark ? wordsOf(mark, rows, answer, kind) : "no values"}`,
    traces: () => [{
      type: "heatmap", x, y: rows.map((_, row) => row), z: shown, zmin: least, zmax: most > least ? most : least + 1e-12, hoverongaps: false,
      colorscale: signed ? DIVERGING : SEQUENTIAL, ygap: rows.length < 40 ? 1 : 0, customdata: values.map((row, y) => row.map((value, place) => [plain(`${labels[y]} · ${rows[y].module}`), kind === "time" ? moment(answer.start[place]) : `step ${told(place)}`, answer.requests[place], value])),
      hovertemplate: "layer %{customdata[0]}<br>%{customdata[1]}<br><b>%{customdata[3]:.6g}</b><br>%{customdata[2]} requests<extra></extra>",
      colorbar: { thickness: 10, outlinewidth: 0, len: 1, nticks: 5, x: 1.01, xpad: 4, tickfont: { size: 11 }, showticklabels: !each },
    }],
    layout: (look) => ({
      height: Math.min(760, Math.max(260, 70 + rows.length * (rows.length < 20 ? 26 : 12))),
      x: { tickmode: "array", tickvals: ticks, ticktext: ticks.map(told), showgrid: false, zeroline: false, title: kind === "time" ? "" : "training step" },
      y: { tickmode: "array", tickvals: pick(rows.map((_, row) => row), 32), ticktext: pick(labels, 32).map(plain), showgrid: false, zeroline: false, title: "layer" },
      margin: { l: 60, r: 10, t: 18, b: 44 },
      shapes: mark ? [{ type: "rect", x0: mark.plateau[0] - 0.5, x1: mark.plateau[1] + 0.5, y0: -0.5, y1: rows.length - 0.5, line: { color: look.alarm, width: 1.5, dash: "dot" } },
        { type: "rect", x0: mark.column - 0.5, x1: mark.column + 0.5, y0: mark.row - 0.5, y1: mark.row + 0.5, line: { color: look.alarm, width: 2.5 } }] : [],
    }),
    data: () => ({ heads: [kind === "time" ? "seconds" : "step", "requests", ...labels], rows: answer.start.map((start, place) => [start, answer.requests[place], ...values.map((row) => row[place])]) }),
    onclick: ({ y, pointIndex }) => {
      const [start, span] = [answer.start[pointIndex[1]], answer.seconds[pointIndex[1]]];
      const range = kind === "time" ? { begin: start, end: start + span } : { step: start };
      location.hash = href({ ...lasting(at), range: null, ...range, view: "layer", layer: rows[y].layer, site: rows[y].site });
    },
  };
}

/** A row between its own least and largest value, 0 to 1. */
function ranked(row) {
  const known = row.filter((one) => one !== null);
  const [least, most] = [Math.min(...known), Math.max(...known)];
  return row.map((one) => (one === null ? null : most > least ? (one - least) / (most - least) : 0.5));
}

function pick(list, most) {
  const every = Math.ceil(list.length / most);
  return list.filter((_, place) => place % every === 0);
}

async function drawTraffic(body, at, model, served, state) {
  const answer = await ask("matrix", { model: model.model, version: model.version, statistic: "requests", columns: 240, ...course(at, model) });
  if (!body.querySelector(".course")) body.replaceChildren(el("div", {}), el("h3", {}), el("div", { class: "course" }));
  const telemetry = served && served.inference_seconds ? served.telemetry_seconds / served.inference_seconds : null;
  const observed = answer.requests.reduce((sum, one) => sum + one, 0);
  body.firstChild.replaceChildren(figures(inReport ? [["Requests observed", number(observed, 6)], ["Layers tapped", number(model.taps.length)]] : [
    ["Ready", served ? (served.ready ? "yes" : "no") : "not served"],
    ["Requests observed", number(served ? served.sampled_requests : observed, 6)],
    ["Sample rate", served ? share(served.sample_rate) : "—"],
    ["Telemetry beside inference", telemetry === null ? "—" : share(telemetry)],
    ["Judged by drift", state ? number(state.judged_requests, 6) : "—"],
    ["Layers tapped", number(model.taps.length)],
    ...(served?.layers.some((one) => one.nonfinite) ? [["NaN or infinite since the start", number(Math.max(...served.layers.map((one) => one.nonfinite))), "most in a layer"]] : []),
  ]));
  const kind = axisOf(at, model);
  // A pane that is still open has not had its time yet.
  const open = (place) => answer.start[place] + answer.seconds[place] > Date.now() / 1000;
  const values = answer.requests.map((one, place) => (kind === "step" ? one : open(place) ? null : one / answer.seconds[place]));
  const named = kind === "time" ? "Observed requests a second" : "Observed requests";
  body.children[1].textContent = named;
  await drawCourse(body.lastChild, {
    name: `${model.model}-requests`, told: `Observed requests, ${values.length} points, the last ${number(values.findLast((one) => one !== null))}`, axis: kind, start: answer.start,
    series: [{ name: named, values }], height: 170,
  });
}
