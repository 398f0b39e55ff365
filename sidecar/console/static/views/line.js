/** The line of all units, with its spikes labelled and what is usual behind it. */

import { number, signed } from "../dom.js";
import { quantile } from "../indices.js";
import { draw } from "../plots.js";

export const SERIES = {
  mean: { title: "mean" }, rms: { title: "rms" }, absmax: { title: "largest magnitude" }, fire_rate: { title: "fire rate" },
};
const LABELLED = 12;

/** answers: one of GetLayer, or two that are compared. open(channel): what a click on a unit does. */
export function drawLine(place, answers, series, open) {
  const [first, second] = answers;
  const units = first.channels[series].map((_, unit) => unit);
  const reference = series === "mean" ? first.reference : null;
  const known = first.channels[series].filter((one) => one !== null);
  const usual = [quantile(known, 0.005), quantile(known, 0.995)];
  const labelled = series === "mean" ? apart(first.spikes, units.length / 40).slice(0, LABELLED).filter((one) => Math.abs(one.mean) > 0.25 * Math.abs(first.spikes[0].mean)) : [];
  const band = reference && {
    low: reference.mean.map((mean, unit) => mean - reference.stddev[unit]), high: reference.mean.map((mean, unit) => mean + reference.stddev[unit]),
  };
  const quiet = { type: "scatter", mode: "lines", hoverinfo: "skip", showlegend: false, line: { width: 0 } };
  const heads = ["unit", "mean", "rms", "absmax", "fire_rate"];
  return draw(place, {
    name: `layer-${first.tap.layer}-${first.tap.site}-units`,
    told: `Line of ${units.length} units of layer ${first.tap.layer}, ${SERIES[series].title}; 99% lie between ${number(usual[0], 3)} and ${number(usual[1], 3)}; ${labelled.length ? `spikes at ${labelled.map((one) => `${one.channel}: ${signed(one.mean)}`).join(", ")}` : "no spikes"}`,
    traces: (look) => [
      ...(band ? [{ ...quiet, x: units, y: band.low }, { ...quiet, x: units, y: band.high, fill: "tonexty", fillcolor: look.band }] : []),
      ...(second ? [trace(units, second.channels[series], "right", look.ink)] : []),
      trace(units, first.channels[series], second ? "left" : SERIES[series].title, look.accent),
    ],
    layout: (look) => ({
      height: 380, x: { title: "unit", showgrid: false, range: [-0.01 * units.length, 1.01 * units.length], zeroline: false }, y: { title: SERIES[series].title, nticks: 8 },
      shapes: band ? [] : [{ type: "rect", xref: "paper", x0: 0, x1: 1, y0: usual[0], y1: usual[1], fillcolor: look.band, line: { width: 0 }, layer: "below" }],
      annotations: [
        ...labelled.map((one) => ({
          x: one.channel, y: one.mean, text: `<b>${signed(one.mean)}</b> · ${one.channel}`, showarrow: false, yshift: one.mean > 0 ? 10 : -10,
          font: { size: 11, color: look.ink }, bgcolor: look.paper, borderpad: 1, opacity: 0.95,
        })),
        { xref: "paper", x: 1, xanchor: "right", y: 1, yref: "paper", yanchor: "bottom", showarrow: false, font: { size: 11, color: look.quiet },
          text: band ? (second ? "behind: reference ± σ" : "behind: values of the reference, mean ± σ") : `behind: 99% of the units, ${number(usual[0], 2)} to ${number(usual[1], 2)}` },
      ],
      showlegend: Boolean(second),
    }),
    data: () => ({ heads: second ? ["unit", "left", "right"] : heads, rows: units.map((unit) => [unit, ...(second ? [first.channels[series][unit], second.channels[series][unit]] : heads.slice(1).map((key) => first.channels[key][unit]))]) }),
    onclick: (point) => open(point.x),
  });
}

function trace(units, values, name, colour) {
  return { type: "scatter", mode: "lines", x: units, y: values, name, line: { width: 1, color: colour }, hovertemplate: `unit %{x}<br>${name} <b>%{y:.6g}</b><extra></extra>` };
}

/** Of spikes that stand close only the largest is labelled; `spikes` come largest first. */
function apart(spikes, distance) {
  const kept = [];
  for (const one of spikes)
    if (kept.every((other) => Math.abs(other.channel - one.channel) > distance || Math.sign(other.mean) !== Math.sign(one.mean))) kept.push(one);
  return kept;
}
