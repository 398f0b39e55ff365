/** The values of a layer on an axis that is linear about zero and logarithmic beyond, of both signs. */

import { number, share } from "../dom.js";
import { draw, room } from "../plots.js";

const DECADES = 4;

/** answers: one of GetHistogram, drawn beside its reference if it has one; or two, drawn beside each other. */
export function drawHistogram(place, answers, tap, { name = `layer-${tap.layer}-${tap.site}-values`, height = 460 } = {}) {
  const [ours, other] = answers;
  const most = Math.max(...answers.flatMap((one) => [...one.lower, ...one.upper].map(Math.abs).filter(Number.isFinite)), 1e-30);
  const linear = 10 ** (Math.ceil(Math.log10(most)) - DECADES);
  const at = (value) => (Math.abs(value) <= linear ? value / linear : Math.sign(value) * (1 + Math.log10(Math.abs(value) / linear)));
  const mine = binned(ours.lower, ours.upper, ours.count, ours.total, linear, at);
  const theirs = other ? binned(other.lower, other.upper, other.count, other.total, linear, at)
    : ours.reference_count && ours.reference_total ? binned(ours.lower, ours.upper, ours.reference_count, ours.reference_total, linear, at) : null;
  const against = other ? "right" : "reference";
  const extent = 1.08 * Math.max(...[...mine, ...(theirs ?? [])].filter((one) => one.count).map((one) => Math.max(Math.abs(at(one.lower)), Math.abs(at(one.upper)))), 1);
  const ticks = [0];
  const [nearest, step] = room(place, 42) > 2 * DECADES ? [0, 1] : [2, 2];
  for (let power = nearest; power <= DECADES; power += step) ticks.push(linear * 10 ** power, -linear * 10 ** power);
  const shown = ticks.filter((value) => Math.abs(at(value)) <= extent).sort((a, b) => a - b);
  const shares = [...mine, ...(theirs ?? [])].map((one) => one.share).filter((one) => one > 0);
  const decades = Math.log10(Math.max(...shares) / Math.min(...shares));
  const quantiles = ours.quantiles;
  return draw(place, {
    name,
    told: `Histogram of ${number(ours.total, 6)} values; median ${number(quantiles.p50)}, 98% between ${number(quantiles.p01)} and ${number(quantiles.p99)}`,
    traces: (look) => [
      { type: "bar", name: other ? "left" : "now", x: mine.map((one) => one.x), width: mine.map((one) => one.width), y: mine.map((one) => one.share || null),
        customdata: mine.map((one) => [number(one.lower), number(one.upper), one.count.toLocaleString("en"), share(one.share)]),
        marker: { color: look.accent, opacity: 0.75, line: { width: 0 } }, hovertemplate: "%{customdata[0]} to %{customdata[1]}<br><b>%{customdata[3]}</b> · %{customdata[2]} values<extra></extra>" },
      ...(theirs ? [{ type: "scatter", mode: "lines", name: against, ...outline(theirs), line: { color: look.ink, width: 1.4 }, connectgaps: false,
        customdata: theirs.flatMap((one) => Array(3).fill([number(one.lower), number(one.upper), share(one.share)])), hovertemplate: `${against}<br>%{customdata[0]} to %{customdata[1]}<br><b>%{customdata[2]}</b><extra></extra>` }] : []),
    ],
    layout: () => ({
      height, bargap: 0, showlegend: Boolean(theirs),
      x: { title: "value, logarithmic away from zero", tickmode: "array", tickvals: shown.map(at), ticktext: shown.map((one) => number(one, 2)), showgrid: true, range: [-extent, extent] },
      y: { title: "share of the values", type: "log", tickformat: "~%", dtick: decades < 2 ? "D2" : Math.ceil(decades / 5) },
    }),
    data: () => (other ? bothSides(ours, other) : { heads: ["lower", "upper", "count", ...(ours.reference_count ? ["reference_count"] : [])], rows: ours.lower.map((low, i) => [low, ours.upper[i], ours.count[i], ...(ours.reference_count ? [ours.reference_count[i]] : [])]) }),
  });
}

/** Each side in cells of its own, because a cell reaches no further than what it counts. */
function bothSides(ours, other) {
  const rows = [["left", ours], ["right", other]].flatMap(([side, one]) => one.lower.map((low, i) => [side, low, one.upper[i], one.count[i]]));
  return { heads: ["side", "lower", "upper", "count"], rows };
}

/** The upper edge of bars as a line, with a gap where there is none. */
function outline(cells) {
  return {
    x: cells.flatMap(({ x, width }) => [x - width / 2, x, x + width / 2]),
    y: cells.flatMap((one) => Array(3).fill(one.share || null)),
  };
}

/** Cells as bars; those about zero, which the axis cannot part, in one. */
function binned(lower, upper, count, total, linear, at) {
  const centre = { lower: -linear, upper: linear, count: 0 };
  const cells = [];
  lower.forEach((low, i) => {
    if (Math.max(Math.abs(low), Math.abs(upper[i])) <= linear) centre.count += count[i];
    else cells.push({ lower: low, upper: upper[i], count: count[i] });
  });
  return [...cells.filter((one) => one.upper <= 0), centre, ...cells.filter((one) => one.upper > 0)].map((one) => {
    const [left, right] = [at(Number.isFinite(one.lower) ? one.lower : -3e38), at(Number.isFinite(one.upper) ? one.upper : 3e38)];
    return { ...one, x: (left + right) / 2, width: right - left, share: one.count / total };
  });
}
