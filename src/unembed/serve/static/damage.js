// Sliders that damage the vector: noise, bits, dimensions. Each move asks the server anew; a request that a later move
// made stale is aborted.

import { line, pairs } from "./align.js";
import { slider } from "./controls.js";
import { debounced, el } from "./dom.js";
import { notice } from "./notice.js";
import { Run } from "./run.js";
import { number, t } from "./strings.js";
import { Strip } from "./strip.js";

const WAIT = 120; // milliseconds after the last move
const MOST_NOISE = 1.5; // length of the noise over that of the vector
const BITS = [32, 16, 8, 6, 5, 4, 3, 2, 1];

/** The section of sliders, with the text that is still recovered. Its element is `node`. */
export class Damage {
  #base = null;
  #run = null;
  #noise = 0;
  #bits = 0; // index into BITS
  #kept = 0;

  /** @param dimension of the model's vectors */
  constructor(dimension) {
    this.dimension = dimension;
    this.#kept = dimension;
    this.strip = new Strip();
    const ask = debounced(() => this.ask(), WAIT);
    const change = (name, action) => (value) => {
      action(value);
      ask();
    };
    this.noise = slider(t("damage.noise"), { least: 0, most: MOST_NOISE, step: 0.02 }, 0, {
      say: (v) => (v ? t("damage.noise.value", { n: number(v) }) : "0"),
      act: change("noise", (v) => (this.#noise = v)),
    });
    this.bits = slider(t("damage.bits"), { least: 0, most: BITS.length - 1, step: 1 }, 0, {
      say: (v) => String(BITS[v]),
      act: change("bits", (v) => (this.#bits = v)),
    });
    const step = Math.max(1, Math.round(dimension / 48));
    const least = dimension - step * Math.floor((dimension - 1) / step);
    this.kept = slider(t("damage.dimensions"), { least, most: dimension, step }, dimension, {
      act: change("kept", (v) => (this.#kept = v)),
    });
    this.text = el("div", { class: "damage-text" });
    this.left = el("p", { class: "damage-left" }, t("damage.idle"));
    this.meter = el("span", { class: "scale", "aria-hidden": "true" }, el("span", { class: "scale-bar" }));
    this.trouble = el("div", {});
    const reset = el("button", { type: "button", class: "quiet" }, t("damage.reset"));
    reset.addEventListener("click", () => this.reset());
    this.node = el(
      "div",
      { class: "damage" },
      el("div", { class: "damage-sliders" }, this.noise.node, this.bits.node, this.kept.node, reset),
      el("div", { class: "damage-result" }, el("h3", { class: "row-label" }, t("damage.text")), this.text, this.meter, this.left, this.trouble, this.strip.node),
    );
  }

  /** The damage in the sliders' own units, without what is off; for a link. */
  get chosen() {
    const wanted = {};
    if (this.#noise > 0) wanted.noise = this.#noise;
    if (this.#bits > 0) wanted.bits = BITS[this.#bits];
    if (this.#kept < this.dimension) wanted.dimensions = this.#kept;
    return wanted;
  }

  /** The damage as the API takes it, or null where there is none. The API's noise is that of each component. */
  get transform() {
    const wanted = this.chosen;
    if (!Object.keys(wanted).length) return null;
    if (wanted.noise) wanted.noise /= Math.sqrt(wanted.dimensions ?? this.dimension);
    return { ...wanted, seed: 0 };
  }

  /** Take a damage over from a link. */
  apply({ noise, bits, dimensions }) {
    if (noise >= 0 && noise <= MOST_NOISE) this.#noise = noise;
    if (BITS.includes(bits)) this.#bits = BITS.indexOf(bits);
    if (dimensions >= 1 && dimensions <= this.dimension) this.#kept = dimensions;
    this.#paint();
  }

  /** A run is done: its text is what the damage is compared with. */
  base(run) {
    this.#base = run;
    this.strip.show(run.vector);
    this.#result(run.recovered, null);
    if (this.transform) this.ask();
  }

  /** Undo the damage. */
  reset() {
    [this.#noise, this.#bits, this.#kept] = [0, 0, this.dimension];
    this.#paint();
    this.ask();
  }

  /** Ask for the text behind the vector as it is damaged now. */
  async ask() {
    this.#run?.stop();
    if (!this.#base) return;
    this.trouble.replaceChildren();
    const transform = this.transform;
    if (!transform) {
      this.#run = null;
      this.node.classList.remove("is-working");
      this.strip.show(this.#base.vector);
      this.#result(this.#base.recovered, null);
      return;
    }
    const run = new Run(this.#base.source, { options: this.#base.options, transform });
    this.#run = run;
    this.node.classList.add("is-working");
    try {
      await run.go((name) => name === "start" && this.#run === run && this.strip.show(run.vector, this.#base.vector));
      if (this.#run === run) this.#result(run.recovered, run.done);
    } catch (error) {
      if (this.#run === run) notice(this.trouble, error, () => this.ask());
    } finally {
      if (this.#run === run) this.node.classList.remove("is-working");
    }
  }

  #result(recovered, done) {
    const target = this.#base.tokens ?? this.#base.recovered;
    const found = (done && this.#base.tokens && done.aligned) || pairs(target, recovered);
    this.text.replaceChildren(line(recovered, found.map(([, j]) => j), "extra"));
    this.left.textContent = t("damage.left", { same: found.length, n: target.length });
    this.meter.firstChild.style.setProperty("--share", target.length ? found.length / target.length : 0);
  }

  #paint() {
    this.noise.set(this.#noise);
    this.bits.set(this.#bits);
    this.kept.set(this.#kept);
  }
}
