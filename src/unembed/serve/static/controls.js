// The settings of a run: strategy, passes, temperature, guidance, query budget, seed. What a strategy does not use is
// switched off and says why.

import { $, el, freshId } from "./dom.js";
import { has, number, t } from "./strings.js";

/** What each number may be. `digits` after the point; the server has the last word. */
export const RANGES = {
  passes: { least: 1, most: 32, step: 1, digits: 0 },
  temperature: { least: 0, most: 1.5, step: 0.05, digits: 2 },
  guidance: { least: 0, most: 4, step: 0.1, digits: 1 },
  queries: { least: 0, most: 100, step: 5, digits: 0 },
};
const SEED = 2 ** 31 - 1;

/** A labelled slider with its value in words; returns {node, input, set, disable}. */
export function slider(label, range, value, { hint = "", say = (v) => number(v, range.digits ?? 0), act }) {
  const [id, hintId] = [freshId("slider"), freshId("hint")];
  const input = el("input", { type: "range", id, min: range.least, max: range.most, step: range.step, "aria-describedby": hintId });
  const output = el("output", { for: id });
  const note = el("small", { id: hintId }, hint);
  const paint = () => {
    output.textContent = say(Number(input.value));
    input.setAttribute("aria-valuetext", output.textContent);
    input.style.setProperty("--filled", (input.value - range.least) / (input.max - range.least || 1));
  };
  input.addEventListener("input", () => {
    paint();
    act(Number(input.value));
  });
  const set = (next) => {
    input.value = next;
    paint();
  };
  set(value);
  const node = el("div", { class: "field" }, el("label", { for: id }, label), output, input, note);
  const disable = (why) => {
    input.disabled = Boolean(why);
    note.textContent = why || hint;
    node.classList.toggle("is-off", input.disabled);
  };
  return { node, input, set, disable };
}

/** The form of settings. Call `settings()` for what is chosen now. */
export class Controls {
  #model;
  #chosen = {};
  #sliders = {};
  #changed;

  /**
   * @param models as GET /v1/models returns them
   * @param limits of the server; `queries` and `passes` bound the sliders where they are given
   * @param changed called after each change
   */
  constructor(models, limits, changed) {
    this.models = models;
    this.limits = limits ?? {};
    this.#changed = changed;
    this.node = el("div", { class: "controls" });
    this.choose(models[0].name);
  }

  /** The model in use. */
  get model() {
    return this.#model;
  }

  /** What is chosen: {model, strategy, passes, temperature, guidance, queries, seed}. */
  get settings() {
    return { ...this.#chosen };
  }

  /** Take settings over, as far as this model has them; returns what was taken. */
  apply(wanted) {
    if (wanted.model && wanted.model !== this.#model.name && this.models.some((m) => m.name === wanted.model)) {
      this.choose(wanted.model);
    }
    if (this.#model.strategies.some((s) => s.name === wanted.strategy)) this.#pick(wanted.strategy);
    for (const [name, range] of Object.entries(RANGES)) {
      const value = wanted[name];
      if (Number.isFinite(value) && name in this.#sliders) this.#chosen[name] = Math.min(Math.max(value, range.least), this.#most(name));
    }
    if (Number.isInteger(wanted.seed) && wanted.seed >= 0) this.#chosen.seed = Math.min(wanted.seed, SEED);
    this.#paint();
    this.#changed();
  }

  /** Switch to a model and its own settings. */
  choose(name) {
    this.#model = this.models.find((m) => m.name === name) ?? this.models[0];
    const defaults = this.#model.defaults ?? {};
    const strategy = defaults.strategy ?? this.#model.strategies[0].name;
    this.#chosen = { model: this.#model.name, strategy, temperature: 0, guidance: 1, queries: 0, seed: 0, passes: 8 };
    for (const key of Object.keys(this.#chosen)) if (key in defaults) this.#chosen[key] = defaults[key];
    this.#build();
  }

  #most(name) {
    return Math.min(RANGES[name].most, this.limits[name] ?? Infinity);
  }

  #pick(strategy) {
    this.#chosen.strategy = strategy;
    const defaults = this.#model.defaults ?? {};
    this.#chosen.passes = strategy === defaults.strategy ? (defaults.passes ?? 8) : 8;
  }

  #build() {
    const change = (name) => (value) => {
      this.#chosen[name] = value;
      this.#paint();
      this.#changed();
    };
    const strategyId = freshId("strategy");
    this.strategy = strategySelect(this.#model, this.#chosen.strategy, { id: strategyId });
    this.strategy.addEventListener("change", () => {
      this.#pick(this.strategy.value);
      this.#paint();
      this.#changed();
    });
    this.about = el("small", {});
    this.#sliders = {};
    for (const name of Object.keys(RANGES)) {
      if (name === "guidance" && !this.#model.guidance) continue; // it was not trained for it
      const range = { ...RANGES[name], most: this.#most(name) };
      const options = { hint: t(`settings.${name}.hint`), act: change(name) };
      this.#sliders[name] = slider(t(`settings.${name}`), range, this.#chosen[name], options);
    }
    const seedId = freshId("seed");
    this.seed = el("input", { type: "number", id: seedId, min: 0, max: SEED, step: 1, inputmode: "numeric" });
    this.seed.addEventListener("change", () => {
      const value = Math.trunc(Number(this.seed.value));
      change("seed")(Number.isFinite(value) ? Math.min(Math.max(0, value), SEED) : 0);
    });
    const dice = el("button", { type: "button", class: "quiet", title: t("settings.seed.new") }, t("settings.seed.new"));
    dice.addEventListener("click", () => change("seed")(crypto.getRandomValues(new Uint16Array(1))[0]));
    this.dice = dice;
    this.seedHint = el("small", {});
    const reset = el("button", { type: "button", class: "quiet" }, t("settings.reset"));
    reset.addEventListener("click", () => {
      this.choose(this.#model.name);
      this.#changed();
    });
    this.node.replaceChildren(
      ...(this.models.length > 1 ? [this.#modelField()] : []),
      el("div", { class: "field" }, el("label", { for: strategyId }, t("settings.strategy")), this.strategy, this.about),
      ...Object.values(this.#sliders).map((part) => part.node),
      el(
        "div",
        { class: "field field-seed" },
        el("label", { for: seedId }, t("settings.seed")),
        el("div", { class: "pair" }, this.seed, dice),
        this.seedHint,
      ),
      reset,
    );
    this.#paint();
  }

  #modelField() {
    const id = freshId("model");
    const select = el("select", { id }, ...this.models.map((m) => el("option", { value: m.name }, m.name)));
    select.value = this.#model.name;
    select.addEventListener("change", () => {
      this.choose(select.value);
      this.#changed();
      this.node.querySelector("select")?.focus();
    });
    return el("div", { class: "field" }, el("label", { for: id }, t("settings.model")), select);
  }

  #paint() {
    const { strategy, temperature } = this.#chosen;
    const known = this.#model.strategies.find((s) => s.name === strategy) ?? {};
    this.strategy.value = strategy;
    const about = `strategy.${strategy}`; // one that this page does not know speaks for itself
    this.about.textContent = has(about) ? t(about) : (known.description ?? "");
    for (const [name, part] of Object.entries(this.#sliders)) part.set(this.#chosen[name]);
    const prior = strategy === "prior" ? t("settings.prior.unused") : "";
    this.#sliders.passes.disable(strategy === "left-to-right" ? t("settings.passes.unused") : prior);
    this.#sliders.temperature.disable(prior);
    this.#sliders.guidance?.disable(strategy === "left-to-right" ? t("settings.guidance.unused") : prior);
    this.#sliders.queries.disable(this.#model.queries ? "" : t("settings.queries.none"));
    const chance = known.random || (temperature > 0 && !prior) || this.#chosen.queries > 0;
    this.seed.value = this.#chosen.seed;
    this.seed.disabled = this.dice.disabled = !chance;
    this.seedHint.textContent = chance ? t("settings.seed.hint") : t("settings.seed.unused");
  }
}

/** A select of a model's strategies. */
export function strategySelect(model, value, attributes) {
  const name = (s) => (s.name === model.defaults?.strategy ? t("settings.default", { name: s.name }) : s.name);
  const select = el("select", attributes, ...model.strategies.map((s) => el("option", { value: s.name }, name(s))));
  select.value = value;
  return select;
}

/** Options of POST /v1/invert for some settings: only what the strategy uses. */
export function optionsOf({ strategy, passes, temperature, guidance, seed }) {
  if (strategy === "prior") return { strategy };
  return { strategy, temperature, seed, ...(strategy === "left-to-right" ? {} : { passes, guidance }) };
}

/** Put the form into its place in the page. */
export const mount = (controls) => $("settings").replaceChildren(controls.node);
