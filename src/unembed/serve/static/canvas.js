// The canvas of a draft: one chip a position. A mask, a token with its confidence as colour and number, or a position
// that was opened again. One chip is in the tab order; arrow keys move among them.

import * as alternatives from "./alternatives.js";
import { el } from "./dom.js";
import { surface } from "./frames.js";
import { t } from "./strings.js";

/** A list of tokens that is rendered frame by frame. Its element is `node`. */
export class TokenCanvas {
  #chips = [];
  #cells = [];
  #current = 0;

  /** @param label what a screen reader calls the list */
  constructor(label) {
    this.node = el("ol", { class: "canvas", "aria-label": label });
    this.node.addEventListener("keydown", (event) => this.#move(event));
  }

  /** Show a frame; chips are kept, so that focus and card stay where they are. */
  render(frame) {
    this.#cells = frame.cells;
    while (this.#chips.length > frame.cells.length) this.#chips.pop().item.remove();
    while (this.#chips.length < frame.cells.length) this.#add(this.#chips.length);
    frame.cells.forEach((cell, at) => paint(this.#chips[at], cell));
    this.#current = Math.min(this.#current, Math.max(0, frame.cells.length - 1));
    this.#chips.forEach(({ button }, at) => button.setAttribute("tabindex", at === this.#current ? "0" : "-1"));
    this.#chips.forEach(({ button }, at) => alternatives.refresh(button, this.#cells[at]));
  }

  #add(at) {
    const word = el("span", { class: "chip-text" });
    const share = el("span", { class: "chip-number" });
    const state = el("span", { class: "unseen" });
    const button = el("button", { type: "button", class: "chip" }, word, " ", share, " ", state);
    const show = () => alternatives.show(button, this.#cells[at]);
    button.addEventListener("pointerenter", show);
    button.addEventListener("pointerleave", () => alternatives.hide(true));
    button.addEventListener("click", show);
    button.addEventListener("focus", () => {
      this.#current = at;
      this.#chips.forEach((chip, i) => chip.button.setAttribute("tabindex", i === at ? "0" : "-1"));
      show();
    });
    button.addEventListener("blur", () => alternatives.hide());
    const item = el("li", {}, button);
    this.#chips.push({ item, button, word, share, state });
    this.node.append(item);
  }

  #move(event) {
    const last = this.#chips.length - 1;
    const to = { ArrowLeft: this.#current - 1, ArrowRight: this.#current + 1, Home: 0, End: last }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    this.#chips[Math.min(Math.max(to, 0), last)]?.button.focus();
  }
}

function paint({ item, button, word, share, state }, cell) {
  const known = cell.confidence !== undefined && cell.confidence !== null;
  const percent = known ? Math.round(100 * cell.confidence) : null;
  const { text, joined } = surface(cell.text ?? "");
  const was = surface(cell.was ?? "").text;
  item.className = cell.kind === "token" && joined ? "joined" : "";
  button.className = `chip chip-${cell.kind}${cell.fresh ? " chip-fresh" : ""}`;
  word.textContent = cell.kind === "open" ? was : text;
  share.textContent = cell.kind === "token" && known ? `${percent}%` : "";
  state.textContent = cell.kind === "mask" ? t("token.mask") : cell.kind === "open" ? t("token.open") : "";
  if (known) button.style.setProperty("--sure", cell.confidence);
  else button.style.removeProperty("--sure");
}
