// Draws a vector as a strip of bars, above and below zero. A damaged vector is drawn over the outline of the one
// before.

import { el, reducedMotion } from "./dom.js";
import { number, t } from "./strings.js";

const HEIGHT = 88;
const GROW = 500; // milliseconds

/** A strip. Its element is `node`. */
export class Strip {
  #vector = null;
  #before = null;
  #drawn = 1;

  constructor() {
    this.canvas = el("canvas", { role: "img", "aria-label": t("strip.empty") });
    this.caption = el("p", { class: "strip-caption" }, t("strip.empty"));
    this.node = el("div", { class: "strip is-empty" }, this.canvas, this.caption);
    new ResizeObserver(() => this.#paint()).observe(this.canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#paint());
    this.canvas.addEventListener("pointermove", (event) => this.#point(event));
    this.canvas.addEventListener("pointerleave", () => this.#say());
  }

  /** Show a vector; `before` is what it was without damage. */
  show(vector, before = null) {
    const fresh = !before && this.#vector !== vector;
    this.#vector = vector;
    this.#before = before;
    this.node.classList.remove("is-empty");
    const facts = this.#facts();
    this.canvas.setAttribute("aria-label", t("strip.label", facts));
    this.#say();
    if (fresh && !reducedMotion()) this.#grow(performance.now());
    else {
      this.#drawn = 1;
      this.#paint();
    }
  }

  #facts() {
    const v = this.#vector;
    const norm = Math.hypot(...v);
    return { n: v.length, low: number(Math.min(...v)), high: number(Math.max(...v)), norm: number(norm) };
  }

  #say() {
    if (!this.#vector) return;
    const damaged = this.#before ? ` · ${t("strip.damaged")}` : "";
    this.caption.textContent = t("strip.caption", this.#facts()) + damaged;
  }

  #point(event) {
    if (!this.#vector) return;
    const box = this.canvas.getBoundingClientRect();
    const at = Math.floor(((event.clientX - box.left) / box.width) * this.#vector.length);
    if (at < 0 || at >= this.#vector.length) return;
    this.caption.textContent = t("strip.value", { index: at + 1, value: number(this.#vector[at], 4) });
  }

  #grow(began) {
    requestAnimationFrame((now) => {
      this.#drawn = Math.min(1, (now - began) / GROW);
      this.#paint();
      if (this.#drawn < 1) this.#grow(began);
    });
  }

  #paint() {
    const width = this.canvas.clientWidth;
    if (!width) return;
    const scale = devicePixelRatio || 1;
    this.canvas.width = Math.round(width * scale);
    this.canvas.height = Math.round(HEIGHT * scale);
    const pen = this.canvas.getContext("2d");
    pen.scale(scale, scale);
    const style = getComputedStyle(this.canvas);
    const colour = (name) => style.getPropertyValue(name).trim();
    pen.fillStyle = colour("--line");
    pen.fillRect(0, HEIGHT / 2 - 0.5, width, 1);
    if (!this.#vector) {
      pen.fillStyle = colour("--mask");
      for (let i = 0; i < width / 4; i += 1) {
        const tall = 3 + 14 * Math.abs(Math.sin(i * 12.9898) * Math.sin(i * 0.37));
        pen.fillRect(i * 4, i % 2 ? HEIGHT / 2 : HEIGHT / 2 - tall, 3, tall);
      }
      return;
    }
    const all = [...this.#vector, ...(this.#before ?? [])].map(Math.abs);
    const most = Math.max(...all) || 1;
    const bars = (vector, up, down) => {
      const columns = Math.min(vector.length, Math.floor(width / 2));
      const room = width / columns;
      const upto = Math.ceil(columns * this.#drawn);
      for (let i = 0; i < upto; i += 1) {
        const part = vector.slice(Math.floor((i * vector.length) / columns), Math.floor(((i + 1) * vector.length) / columns));
        const value = part.reduce((a, b) => (Math.abs(b) > Math.abs(a) ? b : a), 0);
        const tall = (Math.sqrt(Math.abs(value) / most) * (HEIGHT - 6)) / 2;
        pen.fillStyle = value < 0 ? down : up;
        const thick = Math.max(1, room - (room > 2.4 ? 0.8 : 0.25));
        pen.fillRect(i * room, value < 0 ? HEIGHT / 2 : HEIGHT / 2 - tall, thick, tall);
      }
    };
    if (this.#before) bars(this.#before, colour("--ghost"), colour("--ghost"));
    bars(this.#vector, colour("--up"), colour("--down"));
  }
}
