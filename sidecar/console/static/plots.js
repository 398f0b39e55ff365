/** Plots: one look for all, exact values on hover, PNG and CSV of each. */

import { Refused } from "./api.js";
import { el } from "./dom.js";

/** Whether plotly.js is there. It takes a second to read, in which the page asks its questions. */
const read = new Promise((resolve) => {
  if (globalThis.Plotly) resolve(true);
  for (const [event, there] of [["load", true], ["error", false]])
    document.getElementById("plotly")?.addEventListener(event, () => resolve(there));
});

let last = read;

/** Draw when plotly.js is there and the plots before have been begun, so that each can be seen before the next. */
function inTurn(work) {
  last = last.then(() => new Promise((resolve) => { setTimeout(resolve); }));
  return last.then(work);
}

/** Colours that differ for every kind of colour blindness; from the style sheet, so that they follow the theme. */
export function colours() {
  const style = getComputedStyle(document.documentElement);
  const named = (name) => style.getPropertyValue(`--${name}`).trim();
  return {
    accent: named("accent"), alarm: named("alarm"), ink: named("ink"), quiet: named("quiet"),
    line: named("line"), paper: named("panel"), band: named("band"),
  };
}

/** Cividis: made for people with and without colour vision deficiency (Nunez, Anderton, Renslow, PLOS ONE 13(7), 2018). */
export const SEQUENTIAL = "Cividis";
export const DIVERGING = [[0, "#1f5fa8"], [0.25, "#86b3dc"], [0.5, "#f3f1ec"], [0.75, "#f0a574"], [1, "#b8470f"]];

/** Plotly reads a little HTML in labels. */
export function plain(text) {
  return String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

function axis(look, more = {}) {
  return {
    gridcolor: look.line, linecolor: look.line, zerolinecolor: look.quiet, zerolinewidth: 1, tickfont: { color: look.quiet },
    automargin: true, tickangle: 0, exponentformat: "power", ...more, title: { text: more.title ?? "", font: { size: 12, color: look.quiet }, standoff: 8 },
  };
}

function layoutOf(look, { x = {}, y = {}, height = 300, ...more }) {
  return {
    height, margin: { l: 52, r: 16, t: 14, b: 40 }, paper_bgcolor: look.paper, plot_bgcolor: look.paper,
    font: { family: "system-ui, sans-serif", size: 12, color: look.ink }, hovermode: "closest", showlegend: false,
    hoverlabel: { bgcolor: look.paper, bordercolor: look.quiet, font: { color: look.ink, size: 12 } },
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", font: { color: look.ink } },
    xaxis: axis(look, x), yaxis: axis(look, y), dragmode: "zoom", ...more,
  };
}

/** How many labels of so many pixels there is room for under a plot. */
export function room(place, pixels) {
  return Math.max(2, Math.floor((place.clientWidth - 70) / pixels));
}

/** rows: arrays of equal length under `heads`. */
function csv(heads, rows) {
  const cell = (value) => {
    const text = value === null || value === undefined ? "" : String(value);
    // A cell that starts like a formula would be one in a spreadsheet.
    const safe = typeof value === "string" && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
    return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  };
  return [heads, ...rows].map((row) => row.map(cell).join(",")).join("\n") + "\n";
}

function save(name, text) {
  const link = el("a", { download: `${name}.csv`, href: URL.createObjectURL(new Blob([text], { type: "text/csv" })) });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

/** Draw into `place`, which keeps its plot if it has one.
 *
 * told: what the plot shows, in a sentence, for who cannot see it. data(): {heads, rows} of the CSV.
 * onclick(point): what a click on a point does.
 */
export async function draw(place, { name, told, traces, layout, data, onclick }) {
  const look = colours();
  let figure = place.querySelector(":scope > figure");
  if (!figure) {
    const held = () => figure.held;
    const plot = el("div", { class: "plot", role: "img" });
    figure = el("figure", {}, plot, el("div", { class: "saves" },
      el("button", { type: "button", onclick: () => Plotly.downloadImage(plot, { format: "png", scale: 2, filename: held().name }) }, "PNG"),
      el("button", { type: "button", onclick: () => save(held().name, csv(held().data().heads, held().data().rows)) }, "CSV"),
    ));
    place.replaceChildren(figure);
  }
  const plot = figure.firstChild;
  figure.held = { name, data };
  plot.setAttribute("aria-label", told);
  for (const [button, format] of [[figure.lastChild.firstChild, "PNG"], [figure.lastChild.lastChild, "CSV"]])
    button.setAttribute("aria-label", `Download ${name} as ${format}`);
  const options = { displayModeBar: false, responsive: true, displaylogo: false };
  if (!(await read)) throw new Refused(502, "plotly.js did not come, without which nothing can be drawn. Load the page again.");
  await inTurn(() => Plotly.react(plot, traces(look), layoutOf(look, layout(look)), options));
  plot.removeAllListeners?.("plotly_click");
  if (onclick) plot.on("plotly_click", (event) => onclick(event.points[0]));
}

/** The course of one or several series over time or steps.
 *
 * series: [{name, values, colour, dash}]; levels: [{value, name, colour}]; band: [low, high].
 */
export function drawCourse(place, { name, told, axis: kind, start, series, levels = [], band = null, unit = "", height = 220, log = false, legend = true, onclick }) {
  const x = kind === "time" ? start.map((one) => new Date(one * 1000)) : start;
  return draw(place, {
    name, told, onclick,
    traces: (look) => [
      ...series.map((one) => ({
        x, y: one.values, name: plain(one.name), type: "scatter", mode: start.length < 60 ? "lines+markers" : "lines", marker: { size: 5 },
        line: { color: one.colour ?? look.accent, width: one.width ?? 1.8, dash: one.dash }, connectgaps: false, customdata: one.customdata,
        hovertemplate: `${plain(one.name)}<br>%{x}<br><b>%{y:.6g}</b>${plain(unit)}<extra></extra>`,
      })),
    ],
    layout: (look) => ({
      height, x: { type: kind === "time" ? "date" : "linear", showgrid: false, nticks: Math.min(6, room(place, 75)), ...(kind === "step" && start.length < 3 ? { tickvals: start } : {}), title: kind === "time" ? "" : "training step" },
      y: { nticks: 5, type: log ? "log" : "linear" }, margin: { l: 52, r: 16, t: 12, b: kind === "time" ? 30 : 40 },
      showlegend: legend && series.length > 1 && series.length <= 8,
      shapes: [
        ...(band ? [{ type: "rect", xref: "paper", x0: 0, x1: 1, y0: band[0], y1: band[1], fillcolor: look.band, line: { width: 0 }, layer: "below" }] : []),
        ...levels.map((one) => ({ type: "line", xref: "paper", x0: 0, x1: 1, y0: one.value, y1: one.value, line: { color: one.colour ?? look.quiet, width: 1.2, dash: "dash" } })),
      ],
      annotations: levels.map((one) => ({ text: plain(one.name), xref: "paper", x: 1, xanchor: "right", y: log ? Math.log10(one.value) : one.value, yanchor: "bottom", showarrow: false, font: { size: 11, color: one.colour ?? look.quiet } })),
    }),
    data: () => ({ heads: [kind === "time" ? "seconds" : "step", ...series.map((one) => one.name)], rows: start.map((at, i) => [at, ...series.map((one) => one.values[i])]) }),
  });
}
