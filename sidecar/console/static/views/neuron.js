/** One unit over time or training steps. */

import { axisOf, asked, change, course, href } from "../address.js";
import { ask, inReport } from "../api.js";
import { choice, el, figures, number, panel, share, signed, table } from "../dom.js";
import { drawCourse } from "../plots.js";
import { replayed, strongest, together } from "./inputs.js";
import { filled, nameOf, tapChoice, tapOf } from "./parts.js";

const COURSES = [["mean", "Mean"], ["rms", "Rms"], ["absmax", "Largest magnitude"], ["fire_rate", "Fire rate"]];

export function neuron(content) {
  const title = el("h1", {});
  const controls = el("div", { class: "controls" });
  const now = panel("In this range");
  const history = panel("Over time");
  const spread = panel("Spread over panes");
  const driven = panel("What drives it");
  const others = panel("Units that rise and fall with it");
  const inputs = panel("Inputs that are kept");
  const written = panel("Units in this report");
  const ofRequests = inReport ? [written.section] : [driven.section, others.section, inputs.section];
  let shown = "";
  content.replaceChildren(el("div", { class: "title" }, title, controls), now.section, history.section, ...ofRequests, spread.section);
  return async ({ at, model }) => {
    const tap = tapOf(at, model);
    const where = { model: model.model, version: model.version, layer: tap.layer, site: tap.site };
    const units = inReport ? (await ask("units", { layer: tap.layer, site: tap.site })).units : [];
    const channel = at.channel !== undefined ? Number(at.channel) : units[0]?.channel ?? await hottest(where, asked(at, model));
    const kind = axisOf(at, model);
    title.textContent = `Unit ${channel.toLocaleString("en")} of layer ${nameOf(tap)}`;
    if (!controls.contains(document.activeElement)) controls.replaceChildren(tapChoice(model, tap), inReport ? unitChoice(channel, units) : unitField(channel, tap));
    history.heading.textContent = kind === "time" ? "Over time" : "Over training steps";
    if (shown !== `${tap.layer} ${tap.site} ${channel}`) inputs.body.replaceChildren(el("p", { class: "quiet" }, "Running inputs again."));
    shown = `${tap.layer} ${tap.site} ${channel}`;
    const unit = { ...where, channel };
    const { begin, end } = course(at, model);
    const during = { begin, end };
    await Promise.all([
      ...(inReport ? [filled(written.body, (body) => listWritten(body, units, at, where, asked(at, model)))] : [
        filled(driven.body, async (body) => strongest(body, await ask("drivers", unit), at)),
        filled(others.body, async (body) => together(body, await ask("cofiring", { ...where, ...during, channels: channel }), at)),
        filled(inputs.body, async (body) => replayed(body, await ask("inputs", unit), at)),
      ]),
      filled(now.body, (body) => standing(body, where, asked(at, model), channel)),
      filled(history.body, async (body) => {
        spread.body.replaceChildren(el("p", { class: "quiet" }, "Nothing to tell."));
        const answer = await ask("neuron", { ...where, ...course(at, model), channel, points: 300 });
        await courses(body, answer, kind, tap, channel);
        quartiles(spread.body, answer);
      }),
    ]);
  };
}

/** The unit with the largest magnitude; the first where the range tells nothing. */
async function hottest(where, range) {
  try {
    const { channels } = await ask("layer", { ...where, ...range, spikes: 40 });
    return channels.absmax.indexOf(Math.max(...channels.absmax));
  } catch (error) {
    if (error.status === 403) return 0;
    throw error;
  }
}

function unitField(channel, tap) {
  const field = el("input", { type: "number", min: 0, max: tap.channels - 1, value: channel, onchange: (event) => change({ channel: event.target.value }) });
  return el("label", {}, el("span", {}, "Unit"), field);
}

/** Of a report: only the courses of some units are in it. */
function unitChoice(channel, units) {
  const there = units.map((one) => [one.channel, `${one.channel.toLocaleString("en")} · ${one.reasons.join(", ")}`]);
  const other = units.some((one) => one.channel === channel) ? [] : [[channel, `${channel.toLocaleString("en")} · no course`]];
  return choice("Unit", [...other, ...there], channel, (value) => change({ channel: value }));
}

async function listWritten(body, units, at, where, range) {
  const { channels } = await ask("layer", { ...where, ...range, spikes: 40 });
  const of = (name) => ({ channel }) => number(channels[name][channel]);
  body.replaceChildren(
    table("Units in this report", [
      { head: "Unit", cell: ({ channel }) => el("a", { href: href({ ...at, layer: where.layer, site: where.site, channel }) }, channel.toLocaleString("en")) },
      { head: "Why", left: true, cell: (one) => one.reasons.join(", ") },
      { head: "Mean", cell: of("mean") }, { head: "Rms", cell: of("rms") }, { head: "Largest", cell: of("absmax") }, { head: "Fires", cell: ({ channel }) => share(channels.fire_rate[channel]) },
    ], units),
    el("p", { class: "note" }, "Of these units of the layer the course is in this report; of all others, what they were in its range."),
  );
}

async function standing(body, where, range, channel) {
  const answer = await ask("layer", { ...where, ...range, spikes: 40 });
  const of = (name) => answer.channels[name][channel];
  const reference = answer.reference && { mean: answer.reference.mean[channel], stddev: answer.reference.stddev[channel] };
  const moved = reference?.stddev ? (of("mean") - reference.mean) / reference.stddev : null;
  const spike = answer.spikes.find((one) => one.channel === channel);
  const higher = answer.channels.absmax.filter((one) => one > of("absmax")).length;
  body.replaceChildren(figures([
    ["Mean", number(of("mean")), reference ? `reference ${number(reference.mean)} ± ${number(reference.stddev)}` : null],
    ["Shift", moved === null ? "—" : `${signed(moved)} σ`], ["Rms", number(of("rms"))], ["Largest magnitude", number(of("absmax")), `rank ${(higher + 1).toLocaleString("en")} of ${answer.tap.channels.toLocaleString("en")}`],
    ["Fires", share(of("fire_rate")), of("fire_rate") === 0 ? "dead in this range" : of("fire_rate") >= 0.999 ? "always on" : null],
    ["Values of at least 6", number(of("outliers"))], ["Among the others", spike ? `${signed(spike.sigmas)} σ` : "no spike"],
  ]));
}

async function courses(body, answer, kind, tap, channel) {
  if (!answer.start.length) {
    body.replaceChildren(el("p", { class: "quiet" }, "Nothing is kept of this range."));
    return;
  }
  if (!body.querySelector(".small")) body.replaceChildren(el("div", { class: "grid wide" }, COURSES.map(([, title]) => el("div", { class: "small" }, el("h3", {}, title), el("div", {})))));
  const { reference_mean: mean, reference_stddev: sigma } = answer;
  await Promise.all(COURSES.map(([key, title], place) => drawCourse(body.querySelectorAll(".small")[place].lastChild, {
    name: `layer-${tap.layer}-unit-${channel}-${key}`, told: `${title} of unit ${channel} over ${answer.start.length} panes, the last ${number(answer[key].findLast((one) => one !== null))}`,
    axis: kind, start: answer.start, height: 200, series: [{ name: title, values: answer[key] }],
    band: key === "mean" && mean !== null ? [mean - sigma, mean + sigma] : null,
    levels: key === "mean" && mean !== null ? [{ value: mean, name: "reference ± σ" }] : [],
  })));
}

function quartiles(body, answer) {
  const rows = Object.entries(answer.distribution);
  const { near_zero: low, between, at_least_6: high } = answer.magnitudes;
  const all = low + between + high || NaN;
  body.replaceChildren(
    figures([["Positions near 0", share(low / all)], ["Above that, below 6", share(between / all)], ["At least 6", share(high / all)]]),
    table("Of the panes", [{ head: "Of the panes", left: true, cell: ([name]) => name }, ...["Least", "A quarter below", "Median", "Three quarters below", "Largest"].map((head, place) => ({ head, cell: ([, five]) => number(five[place]) }))], rows),
    el("p", { class: "note" }, "Of one unit five numbers a pane are kept, and not its values one by one: shares of positions are exact, and how its means are spread is over panes."),
  );
}
