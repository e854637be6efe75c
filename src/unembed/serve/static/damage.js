// Sliders that damage the vector: noise, bits, dimensions, with what is still recovered, and what search still finds.
// Each move asks the server anew; a request that a later move made stale is aborted.

import { fates, line } from "./align.js";
import { slider } from "./controls.js";
import { byChance, lost, searchLeft } from "./cost.js";
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

  #chance = null;

  /**
   * @param dimension of the model's vectors
   * @param measured what damage costs search, for vectors of this encoder; or null
   */
  constructor(dimension, measured) {
    this.dimension = dimension;
    this.measured = measured;
    this.#kept = dimension;
    this.strip = new Strip();
    const ask = debounced(() => this.ask(), WAIT);
    const change = (name, action) => (value) => {
      action(value);
      this.#search();
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
    this.meter = meter(el("span", { class: "scale-floor" }));
    this.found = el("p", { class: "damage-left" });
    this.finds = meter();
    const search = measured
      ? [el("h3", { class: "row-label" }, t("damage.search")), this.finds, this.found]
      : [el("p", { class: "damage-left" }, t("damage.search.none"))];
    this.trouble = el("div", {});
    const reset = el("button", { type: "button", class: "quiet" }, t("damage.reset"));
    reset.addEventListener("click", () => this.reset());
    const noisy = measured ? t("damage.trained.measured", lost(measured.trained, "noise of its length")) : "";
    this.node = el(
      "div",
      { class: "damage" },
      el("div", { class: "damage-sliders" }, this.noise.node, this.bits.node, this.kept.node, reset),
      el(
        "div",
        { class: "damage-result" },
        el("h3", { class: "row-label" }, t("damage.text")),
        this.text,
        this.meter,
        this.left,
        this.trouble,
        el("div", { class: "damage-search" }, ...search),
        this.strip.node,
      ),
      el("p", { class: "damage-note" }, `${t("damage.trained")} ${noisy}`.trim()),
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
    this.#chance = this.measured && run.tokens ? byChance(this.measured.chance, run.tokens) : null;
    this.strip.show(run.vector);
    this.#result(run.recovered);
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
      this.#result(this.#base.recovered);
      return;
    }
    const run = new Run(this.#base.source, { options: this.#base.options, transform });
    this.#run = run;
    this.node.classList.add("is-working");
    try {
      await run.go((name) => name === "start" && this.#run === run && this.strip.show(run.vector, this.#base.vector));
      if (this.#run === run) this.#result(run.recovered);
    } catch (error) {
      if (this.#run === run) notice(this.trouble, error, () => this.ask());
    } finally {
      if (this.#run === run) this.node.classList.remove("is-working");
    }
  }

  #result(recovered) {
    const target = this.#base.tokens ?? this.#base.recovered;
    const { same, moved, recovered: kinds } = fates(target, recovered);
    const values = { left: same + moved, n: target.length, chance: number(this.#chance ?? 0, 1) };
    this.text.replaceChildren(line(recovered, kinds));
    this.left.textContent = t(this.#chance === null ? "damage.left" : "damage.left.chance", values);
    const [bar, tick] = this.meter.children;
    bar.style.setProperty("--share", target.length ? values.left / target.length : 0);
    tick.style.setProperty("--share", target.length ? (this.#chance ?? 0) / target.length : 0);
    tick.hidden = this.#chance === null;
    this.#search();
  }

  #search() {
    if (!this.measured) return;
    const { search } = this.measured;
    const share = searchLeft(search, { noise: this.#noise, bits: BITS[this.#bits], dimensions: this.#kept });
    this.finds.firstChild.style.setProperty("--share", share);
    const documents = search.documents.toLocaleString(document.documentElement.lang);
    this.found.textContent = t("damage.found", { percent: Math.round(100 * share), documents });
  }

  #paint() {
    this.noise.set(this.#noise);
    this.bits.set(this.#bits);
    this.kept.set(this.#kept);
    this.#search();
  }
}

const meter = (...more) =>
  el("span", { class: "scale", "aria-hidden": "true" }, el("span", { class: "scale-bar" }), ...more);
