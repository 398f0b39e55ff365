/** Elements and numbers. Text only ever becomes a text node, so nothing that a model is called is read as HTML. */

/** el("p", {class: "quiet", onclick: f}, "text", child): an element; children that are null or false are left out. */
export function el(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value === true) made.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== false && child !== undefined));
  return made;
}

/** Four significant digits, with thousands apart; an em dash for what is not known. */
export function number(value, digits = 4) {
  if (value === null || value === undefined || Number.isNaN(value)) return "—";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  const size = Math.abs(value);
  const options = size !== 0 && (size >= 1e7 || size < 1e-3)
    ? { notation: "scientific", maximumSignificantDigits: digits }
    : size >= 10 ** digits ? { maximumFractionDigits: 0 } : { maximumSignificantDigits: digits };
  return new Intl.NumberFormat("en", options).format(value).replace(/E(-?\d+)/, power).replaceAll("-", "−");
}

function power(_, digits) {
  return `×10${[...digits].map((one) => (one === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[one])).join("")}`;
}

export function share(value) {
  return value === null || value === undefined ? "—" : `${number(value * 100, 3)}%`;
}

export function signed(value, digits = 3) {
  return value > 0 ? `+${number(value, digits)}` : number(value, digits);
}

/** An effect size to three decimals; the rest, which is noise, stands in its title. */
export function effect(value, aside = "") {
  if (value === null || value === undefined || !Number.isFinite(value)) return number(value);
  const shown = Math.abs(value) >= 10 ? number(value) : (Math.round(value * 1000) / 1000 || 0).toFixed(3).replace("-", "−");
  return el("span", { title: `${number(value, 6)}${aside}`, class: aside && "quiet" }, shown);
}

/** Local time of seconds since the epoch. */
export function moment(seconds) {
  if (seconds === null || seconds === undefined) return "—";
  const pad = (part) => String(part).padStart(2, "0");
  const at = new Date(seconds * 1000);
  const day = `${at.getFullYear()}-${pad(at.getMonth() + 1)}-${pad(at.getDate())}`;
  return `${day} ${pad(at.getHours())}:${pad(at.getMinutes())}:${pad(at.getSeconds())}`;
}

/** columns: [{head, cell(row), left}]; cells may be elements. */
export function table(caption, columns, rows, nothing = "None.") {
  if (!rows.length) return el("p", { class: "quiet" }, nothing);
  const head = columns.map((one) => el("th", { scope: "col", class: one.left && "left" }, one.head));
  const body = rows.map((row) =>
    el("tr", {}, columns.map((one) => el("td", { class: one.left && "left" }, one.cell(row)))),
  );
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    el("table", {}, el("caption", { class: "unseen" }, caption), el("thead", {}, el("tr", {}, head)), el("tbody", {}, body)),
  );
}

/** A labelled group of figures: [[name, value, aside]]. */
export function figures(list) {
  return el("dl", { class: "figures" }, list.map(([name, value, aside]) =>
    el("div", {}, el("dt", {}, name), el("dd", {}, value, aside ? el("small", {}, aside) : null)),
  ));
}

/** A section with a heading, whose content is filled in when it has come. */
export function panel(title, aside = null) {
  const body = el("div", { class: "body" }, el("p", { class: "quiet" }, "Loading."));
  const heading = el("h2", {}, title);
  const section = el("section", { class: "panel" }, el("div", { class: "head" }, heading, aside), body);
  return { section, body, heading };
}

/** A labelled list to choose from; choices: [[value, text]]. */
export function choice(label, choices, chosen, onchange) {
  const select = el("select", { onchange: (event) => onchange(event.target.value) },
    choices.map(([value, text]) => el("option", { value, selected: String(value) === String(chosen) }, text)),
  );
  return el("label", {}, el("span", {}, label), select);
}
