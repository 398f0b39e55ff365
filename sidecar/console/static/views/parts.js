/** What several views have in common. */

import { change } from "../address.js";
import { choice, el } from "../dom.js";

export function nameOf(tap) {
  return `${tap.layer} ${tap.site}`;
}

/** The tap that the address means; the first there is without one. */
export function tapOf(at, model) {
  const fitting = model.taps.filter((tap) => String(tap.layer) === at.layer && (!at.site || tap.site === at.site));
  return fitting[0] ?? model.taps[0];
}

export function tapChoice(model, tap) {
  const taps = model.taps.map((one) => [`${one.layer} ${one.site}`, `${nameOf(one)} · ${one.module}`]);
  return choice("Layer", taps, `${tap.layer} ${tap.site}`, (value) => {
    const [layer, ...site] = value.split(" ");
    change({ layer, site: site.join(" "), channel: null });
  });
}

/** Run `fill`, and say in `body` what was refused; everything else is a fault of the page and is thrown. */
export async function filled(body, fill) {
  try {
    await fill(body);
  } catch (error) {
    if (error.status === undefined || error.status === 401 || error.status === 0) throw error;
    body.replaceChildren(el("p", { class: "wrong", role: "status" }, error.message));
  }
}
