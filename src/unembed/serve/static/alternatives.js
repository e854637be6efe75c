// The card beside a token: what the network also considered there. One card serves the whole page; it comes by pointer
// and by focus, stays while the pointer is on it, and leaves with Escape.

import { $, el } from "./dom.js";
import { surface } from "./frames.js";
import { t } from "./strings.js";

let owner = null;
let leaving = 0;

const card = () => $("alternatives");

/** Show the card of a token's button. */
export function show(button, cell) {
  clearTimeout(leaving);
  if (owner && owner !== button) owner.removeAttribute("aria-describedby");
  owner = button;
  button.setAttribute("aria-describedby", "alternatives");
  const known = cell.alternatives ?? [];
  const empty = cell.kind === "token" ? "token.alternatives.none" : "token.alternatives.mask";
  card().replaceChildren(
    ...(known.length
      ? [el("p", { class: "card-title" }, t("token.alternatives")), el("ol", { class: "odds" }, ...known.map(row))]
      : [el("p", { class: "card-title" }, t(empty))]),
  );
  card().hidden = false;
  place(button);
}

/** Take the card away, at once or when the pointer has had time to reach it. */
export function hide(soon = false) {
  clearTimeout(leaving);
  if (soon) {
    leaving = setTimeout(() => hide(), 160);
    return;
  }
  owner?.removeAttribute("aria-describedby");
  owner = null;
  card().hidden = true;
}

/** Renew the card when its token has changed under it. */
export function refresh(button, cell) {
  if (owner === button) show(button, cell);
}

/** Listen on the card itself and for Escape. */
export function setUp() {
  card().addEventListener("pointerenter", () => clearTimeout(leaving));
  card().addEventListener("pointerleave", () => hide(true));
  addEventListener("keydown", (event) => event.key === "Escape" && hide());
  addEventListener("scroll", () => owner && place(owner), { passive: true });
}

function row({ text, probability }) {
  const bar = el("span", { class: "odds-bar", "aria-hidden": "true" });
  bar.style.setProperty("--share", probability);
  const percent = probability < 0.005 ? "<1 %" : `${Math.round(100 * probability)} %`;
  return el("li", {}, el("span", { class: "odds-text" }, surface(text).text), bar, el("span", {}, percent));
}

function place(button) {
  const at = button.getBoundingClientRect();
  const size = card().getBoundingClientRect();
  const left = Math.min(Math.max(8, at.left + at.width / 2 - size.width / 2), innerWidth - size.width - 8);
  const below = at.bottom + 6 + size.height < innerHeight || at.top < size.height + 12;
  card().style.setProperty("left", `${left}px`);
  card().style.setProperty("top", `${below ? at.bottom + 6 : at.top - size.height - 6}px`);
}
