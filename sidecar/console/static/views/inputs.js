/** What drives a unit: requests of largest magnitude, and inputs that are kept, with the unit's value at each position. */

import { href, lasting } from "../address.js";
import { el, moment, number, share, signed, table } from "../dom.js";
import { drawHistogram } from "./histogram.js";

const LISTED_NUMBERS = 64;

function unitLink(at, tap, channel) {
  return el("a", { href: href({ ...lasting(at), layer: tap.layer, site: tap.site, view: "neuron", channel }) }, channel.toLocaleString("en"));
}

/** answer: of GetDrivers. */
export function strongest(body, answer, at) {
  if (answer.detail) {
    body.replaceChildren(el("p", { class: "quiet" }, `Not told: ${answer.detail}.`));
    return;
  }
  const { requests, alike, tap } = answer;
  body.replaceChildren(
    el("div", { class: "two" },
      el("div", {}, el("h3", {}, "Strongest requests"), table("Strongest requests", [
        { head: "Request", left: true, cell: (one) => (one.id === null ? "—" : el("code", {}, one.id)) },
        { head: "Value", cell: (one) => signed(one.value, 4) }, { head: "Seen", cell: (one) => moment(one.at) },
      ], requests, "The unit was 0 in all requests.")),
      el("div", {}, el("h3", {}, "Units with the same strongest requests"), table("Units with the same strongest requests", [
        { head: "Unit", cell: (one) => unitLink(at, tap, one.channel) },
        { head: "Shared", cell: (one) => `${one.shared} of ${requests.length}` },
      ], alike, "No unit shares one."))),
    el("p", { class: "note" }, `Of each second that request in which the unit was largest; of these the strongest, each request once, among the ${answer.observed.toLocaleString("en")} that were observed since the start.`),
  );
}

/** answer: of GetCofiring about one unit. */
export function together(body, answer, at) {
  if (answer.detail) {
    body.replaceChildren(el("p", { class: "quiet" }, `Not told: ${answer.detail}.`));
    return;
  }
  body.replaceChildren(
    table("Units that rise and fall with it", [
      { head: "Unit", cell: (one) => unitLink(at, answer.tap, one.channel) },
      { head: "Correlation of means", cell: (one) => signed(one.correlation) }, { head: "Of fire rates", cell: (one) => signed(one.firing) },
    ], answer.others, "None by more than chance."),
    el("p", { class: "note" }, `From one pane to the next, over ${answer.panes.toLocaleString("en")} panes of all ${answer.requests.toLocaleString("en")} requests that were observed in them. By chance the largest correlation is above ${number(answer.level, 2)} once in a hundred times, and only larger ones are listed.`),
  );
}

/** answer: of GetInputs. */
export async function replayed(body, answer, at) {
  if (answer.detail) {
    body.replaceChildren(el("p", { class: "quiet" }, `Not told: ${answer.detail}.`));
    return;
  }
  const { tap, channel, histogram } = answer;
  if (!body.querySelector(".drawn")) {
    body.replaceChildren(el("div", { class: "two" },
      el("div", {}, el("h3", {}, "Values at all positions"), el("div", { class: "drawn" })),
      el("div", {}, el("h3", {}, "Units that fire with it"), el("div", { class: "together" }))),
    el("h3", {}, "Inputs that drive it most"), el("ol", { class: "inputs" }), el("p", { class: "note about" }));
  }
  body.querySelector(".together").replaceChildren(table("Units that fire with it", [
    { head: "Unit", cell: (one) => unitLink(at, tap, one.channel) },
    { head: "Correlation", cell: (one) => signed(one.correlation) }, { head: "Fires", cell: (one) => share(one.fires) },
    { head: "Both", cell: (one) => share(one.both) }, { head: "Lift", cell: (one) => number(one.lift, 3) },
  ], answer.together, "No other unit varies with it."));
  const most = Math.max(...answer.inputs.flatMap((one) => one.positions.map((value) => Math.abs(value ?? 0))), 1e-30);
  body.querySelector(".inputs").replaceChildren(...answer.inputs.map((one) => inputCard(one, most)));
  body.querySelector(".about").textContent = [
    `${answer.rerun.toLocaleString("en")} of ${answer.kept.toLocaleString("en")} inputs that are kept, chosen at random, were run again for this.`,
    "Correlation is over positions; fires, both and lift are over inputs, in which a unit fires at any position.",
    "Shades go from blue, below zero, to orange, above, and are the same in all inputs.",
    answer.passed_over ? `${answer.passed_over.toLocaleString("en")} inputs were too large to be kept.` : "",
  ].join(" ");
  await drawHistogram(body.querySelector(".drawn"), [histogram], tap, { name: `layer-${tap.layer}-unit-${channel}-values`, height: 330 });
}

function inputCard(one, most) {
  const [first, ...others] = one.tensors;
  return el("li", {},
    el("div", { class: "seen" }, drawnInput(first, one.positions, most)),
    el("p", { class: "note" }, el("strong", {}, signed(one.peak, 4)), one.id === null ? null : [" ", el("code", {}, one.id)], el("br"), moment(one.at)),
    others.length ? el("details", {}, el("summary", {}, `${others.length} more inputs`), others.map((other) => el("p", { class: "note" }, `${other.name}: `, listed(other)))) : null,
  );
}

/** A picture where the input can be one, text where it has pieces, numbers else; shaded by the unit's value. */
function drawnInput(tensor, positions, most) {
  if (tensor.pieces.length) return shadedText(tensor.pieces, positions, most);
  const size = pictureSize(tensor);
  if (!size) return [el("p", { class: "tokens" }, listed(tensor)), shadedText(positions.map((value) => number(value, 2)), positions, most)];
  const side = Math.sqrt(positions.length);
  return [
    painted(size, greys(tensor, size), `${tensor.name}, ${size[0]} by ${size[1]}`),
    positions.length > 1 && Number.isInteger(side)
      ? painted([side, side], positions.map((value) => heat(value, most)), `The unit's value at ${side} by ${side} positions`)
      : shadedText(positions.map((value) => number(value, 2)), positions, most),
  ];
}

function listed(tensor) {
  const shown = (tensor.pieces.length ? tensor.pieces : tensor.numbers.map((value) => number(value))).slice(0, LISTED_NUMBERS);
  return `${shown.join(" ")}${tensor.shape.reduce((a, b) => a * b, 1) > shown.length ? " …" : ""}`;
}

function shadedText(pieces, positions, most) {
  const apart = pieces.length > 1 && pieces.some((piece) => piece.length > 1) && !pieces.some((piece) => /^\s|\s$/.test(piece));
  const aligned = pieces.length === positions.length;
  return el("p", { class: "tokens" }, pieces.flatMap((piece, place) => {
    const shown = el("span", aligned ? { title: `position ${place}: ${number(positions[place])}` } : {}, piece);
    if (aligned) shown.style.backgroundColor = heat(positions[place], most);
    return apart ? [shown, " "] : [shown];
  }));
}

/** [height, width] of a tensor that may be a picture: two sizes, or a square in one; with channels first or last. */
function pictureSize({ shape, numbers }) {
  const flat = shape.filter((size) => size !== 1);
  if (numbers.length < 16 || numbers.length !== flat.reduce((a, b) => a * b, 1)) return null;
  if (flat.length === 1) return Number.isInteger(Math.sqrt(flat[0])) ? [Math.sqrt(flat[0]), Math.sqrt(flat[0])] : null;
  if (flat.length === 2) return flat;
  if (flat.length === 3 && flat[2] === 3) return flat.slice(0, 2);
  return flat.length === 3 && flat[0] === 3 ? flat.slice(1) : null;
}

/** Of several channels the mean, from white, the least, to black. */
function greys({ numbers, shape }, [height, width]) {
  const pixels = height * width;
  const channels = numbers.length / pixels;
  const last = shape.at(-1) === channels;
  const values = Array.from({ length: pixels }, (_, place) => {
    let sum = 0;
    for (let part = 0; part < channels; part += 1) sum += numbers[last ? place * channels + part : place + part * pixels] ?? 0;
    return sum / channels;
  });
  const low = Math.min(...values);
  const span = Math.max(...values) - low || 1;
  return values.map((value) => `rgb(${Array(3).fill(Math.round(255 - (255 * (value - low)) / span)).join(" ")})`);
}

function heat(value, most) {
  const part = Math.min(Math.abs(value ?? 0) / most, 1);
  return `rgb(${value > 0 ? "232 119 34" : "44 123 210"} / ${(0.75 * part).toFixed(3)})`;
}

function painted([height, width], colours, told) {
  const canvas = el("canvas", { class: "picture", width, height, role: "img", "aria-label": told });
  const context = canvas.getContext("2d");
  colours.forEach((colour, place) => {
    context.fillStyle = colour;
    context.fillRect(place % width, Math.floor(place / width), 1, 1);
  });
  return canvas;
}
