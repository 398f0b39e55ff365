/** Puts the page together: where one is, who one is, what is drawn and when it is drawn again. */

import { USUAL, address, change, href, lasting, ranges } from "./address.js";
import { ask, inReport, keepToken } from "./api.js";
import { choice, el, moment } from "./dom.js";
import { compare } from "./views/compare.js";
import { drift } from "./views/drift.js";
import { layer } from "./views/layer.js";
import { neuron } from "./views/neuron.js";
import { overview } from "./views/overview.js";

const VIEWS = { overview: ["Overview", overview], layer: ["Layer", layer], neuron: ["Neuron", neuron], drift: ["Drift", drift], compare: ["Compare", compare] };
const REFRESH_SECONDS = 10;
const THEME = "sidecar-theme";

let drawing = 0;
let shown = null;

/** The model that the address means, as ListTaps tells of it: what is served comes first. */
function chosen(taps, at) {
  const fitting = taps.models.filter((one) => (!at.model || one.model === at.model) && (!at.version || one.version === at.version));
  return fitting.find((one) => one.served) ?? fitting[0] ?? null;
}

function applyTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
}

function dark() {
  return document.documentElement.dataset.theme
    ? document.documentElement.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
}

function themeButton() {
  return el("button", { type: "button", class: "theme", "aria-pressed": String(dark()), onclick: () => {
    const next = dark() ? "light" : "dark";
    localStorage.setItem(THEME, next);
    applyTheme(next);
    render();
  } }, dark() ? "Light" : "Dark");
}

function header(at, taps, model) {
  const nav = el("nav", { "aria-label": "Views" }, Object.entries(VIEWS).map(([key, [title]]) =>
    el("a", { href: href({ ...lasting(at), view: key }), "aria-current": key === at.view ? "page" : null }, title),
  ));
  const controls = model ? el("form", { class: "controls", onsubmit: (event) => event.preventDefault() },
    choice("Model", taps.models.map((one) => [`${one.model}\n${one.version}`, `${one.model} · ${one.version}${one.served || inReport ? "" : " (not served)"}`]),
      `${model.model}\n${model.version}`, (value) => {
        const [name, version] = value.split("\n");
        change({ model: name, version, step: null, begin: null, end: null, axis: null, layer: null, site: null });
      }),
    inReport ? null : rangeChoice(at, model),
  ) : null;
  return [el("a", { class: "brand", href: href({ view: "overview" }) }, "Activation sidecar"), nav, controls, themeButton()];
}

function rangeChoice(at, model) {
  const fixed = at.begin || at.end ? [["fixed", `${moment(Number(at.begin ?? model.first))} to ${at.end ? moment(Number(at.end)) : "now"}`]] : [];
  const given = at.range && !ranges.some(([value]) => value === at.range) ? [[at.range, `${at.range} seconds`]] : [];
  const times = model.last === null ? [] : [...given, ...ranges].map(([value, text]) => [value, `Last ${text}`]);
  const steps = model.steps.toReversed().slice(0, 200).map((step) => [`step ${step}`, `Step ${step.toLocaleString("en")}`]);
  const current = at.step ? `step ${at.step}` : fixed.length ? "fixed" : model.last === null && steps.length ? steps[0][0] : at.range ?? String(USUAL);
  return choice("Range", [...fixed, ...times, ...steps], current, (value) => {
    if (value.startsWith("step ")) change({ step: value.slice(5), axis: "step", range: null, begin: null, end: null });
    else if (value !== "fixed") change({ range: value, axis: null, step: null, begin: null, end: null });
  });
}

function login(wrong) {
  const field = el("input", { type: "password", autocomplete: "off", id: "token", required: true });
  return el("form", { class: "login panel", onsubmit: (event) => {
    event.preventDefault();
    keepToken(field.value.trim());
    render();
  } }, el("h1", {}, "Who is there?"),
  el("label", { for: "token" }, "The token of this sidecar, the content of its server.token_file. It is kept until this tab is closed."),
  field, wrong ? el("p", { class: "wrong", role: "alert" }, "That token is not valid.") : null, el("button", {}, "Open"));
}

/** Draw the address. again: the same once more, with what is new; what is on the page stays until then. */
async function render(again = false) {
  const turn = ++drawing;
  const content = document.getElementById("content");
  const at = address();
  const view = VIEWS[at.view] ? at.view : "overview";
  if (!again) document.getElementById("bottom").textContent = "";
  try {
    const taps = await ask("taps");
    if (turn !== drawing) return;
    const model = chosen(taps, at);
    const focused = document.activeElement?.closest("#top") ? document.activeElement.textContent : null;
    if (!again || !document.getElementById("top").contains(document.activeElement)) {
      document.getElementById("top").replaceChildren(...header({ ...at, view }, taps, model));
      if (focused) [...document.querySelectorAll("#top a, #top button")].find((one) => one.textContent === focused)?.focus();
    }
    document.title = `${VIEWS[view][0]} · ${model ? model.model : "no model"} · Activation sidecar`;
    if (!model) {
      content.replaceChildren(el("h1", {}, "Nothing has been seen yet"), el("p", {}, "No model is served and the store holds none."));
      return;
    }
    const key = `${location.hash} ${dark()}`;
    // A view that is drawn again fills the sections it has, so that nothing jumps.
    if (shown?.key !== key) shown = { key, view: VIEWS[view][1](content) };
    await shown.view({ at, taps, model });
    if (turn === drawing) document.getElementById("bottom").textContent = inReport ? "A report of what was kept; it asks nobody." : `As of ${moment(Date.now() / 1000)}`;
    // Whoever takes a picture of a report reads from it how tall the view is.
    if (inReport) document.documentElement.dataset.height = document.body.offsetHeight;
  } catch (error) {
    if (turn !== drawing) return;
    if (error.status === 401) {
      if (content.querySelector(".login") && again) return;
      const tried = sessionStorage.length > 0;
      keepToken("");
      shown = null;
      content.replaceChildren(login(tried));
    } else if (error.status !== undefined) {
      document.getElementById("bottom").textContent = error.message;
      if (!shown) content.replaceChildren(el("p", { class: "wrong", role: "status" }, error.message));
    } else throw error;
  }
}

applyTheme(localStorage.getItem(THEME));
addEventListener("hashchange", () => {
  render().then(() => document.getElementById("content").focus({ preventScroll: true }));
  scrollTo(0, 0);
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => render());
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  document.getElementById("content").focus();
});
render();
if (!inReport) setInterval(() => document.hidden || render(true), REFRESH_SECONDS * 1000);
