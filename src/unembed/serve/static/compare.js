// Side by side: the same vector with two strategies or two budgets, played together.

import { aligned } from "./align.js";
import { announce } from "./announce.js";
import { optionsOf, RANGES, strategySelect } from "./controls.js";
import { el, freshId } from "./dom.js";
import { facts } from "./facts.js";
import { notice } from "./notice.js";
import { Player } from "./player.js";
import { Run } from "./run.js";
import { t } from "./strings.js";
import { RunView } from "./view.js";

const OTHER = ["adaptive", "left-to-right"]; // what stands against the default at first

/** The section. Its element is `node`. */
export class Compare {
  #source = null;
  #runs = [];

  /** @param controls the settings of the page, which side A starts from */
  constructor(controls) {
    this.controls = controls;
    this.sides = ["A", "B"].map((name) => this.#side(name));
    this.player = new Player(
      (at) => this.sides.forEach((side) => side.view.show(at)),
      (at) => this.sides.map((side) => `${side.name} ${Math.min(at + 1, side.view.length)}`).join(", "),
    );
    this.player.node.setAttribute("aria-label", t("compare.play"));
    this.player.node.hidden = true;
    this.run = el("button", { type: "button", class: "primary" }, t("compare.run"));
    this.run.addEventListener("click", () => this.go());
    this.trouble = el("div", {});
    this.node = el("div", { class: "compare" }, ...this.sides.map((side) => side.node), this.run, this.trouble, this.player.node);
    this.fill();
  }

  /** Start from the page's settings: A as they are, B with another strategy. */
  fill() {
    const { settings, model } = this.controls;
    const other = OTHER.find((name) => name !== settings.strategy && model.strategies.some((s) => s.name === name));
    const values = [settings, { ...settings, strategy: other ?? settings.strategy, passes: 8 }];
    this.sides.forEach((side, at) => side.set(model, values[at]));
  }

  /** Take over what a link says about B. */
  apply(wanted) {
    this.sides[1].take(wanted);
  }

  /** What B is, for a link. */
  get other() {
    return this.sides[1].value();
  }

  /** The vector or text to compare on. */
  set source(source) {
    this.#source = source;
    this.#runs.forEach((run) => run.stop());
    this.player.node.hidden = true;
    this.sides.forEach((side) => side.clear());
  }

  /** Run both. */
  async go() {
    if (!this.#source) return;
    this.#runs.forEach((run) => run.stop());
    this.trouble.replaceChildren();
    this.player.reset();
    this.player.node.hidden = false;
    const runs = this.sides.map((side) => side.begin(this.#source, this.controls));
    this.#runs = runs;
    this.node.classList.add("is-working");
    const changed = (at) => (name) => {
      if (runs[at] !== this.#runs[at] || name === "start") return;
      this.sides[at].view.update(false);
      this.player.grow(Math.max(...this.sides.map((side) => side.view.length)), true);
      if (name === "done") this.sides[at].finish(runs[at]);
    };
    try {
      await Promise.all(runs.map((run, at) => run.go(changed(at))));
      announce(t("compare.announce", { a: runs[0].done.text, b: runs[1].done.text }));
    } catch (error) {
      runs.forEach((run) => run.stop());
      if (runs === this.#runs) notice(this.trouble, error, () => this.go());
    } finally {
      if (runs === this.#runs) this.node.classList.remove("is-working");
    }
  }

  #side(name) {
    const title = t("compare.side", { side: name });
    const view = new RunView(`${title}: ${t("denoise.canvas")}`);
    view.player.node.remove(); // both sides share one player
    const picked = el("div", { class: "pick" });
    const result = el("div", { class: "side-result" });
    const node = el("section", { class: "side", "aria-label": title }, el("h3", {}, name), picked, view.node, result);
    const side = { name, view, node };
    let fields = {};
    side.set = (model, settings) => {
      const [id, passes, queries] = [freshId("side"), freshId("side"), freshId("side")];
      fields = {
        strategy: strategySelect(model, settings.strategy, { id }),
        passes: amount("passes", passes, settings.passes),
        queries: amount("queries", queries, settings.queries, !model.queries),
      };
      picked.replaceChildren(
        field("settings.strategy", id, fields.strategy),
        field("settings.passes", passes, fields.passes),
        field("compare.queries", queries, fields.queries),
      );
      const unused = () => (fields.passes.disabled = ["left-to-right", "prior"].includes(fields.strategy.value));
      fields.strategy.addEventListener("change", unused);
      unused();
    };
    side.take = (wanted) => {
      if (wanted.strategy && [...fields.strategy.options].some((o) => o.value === wanted.strategy)) {
        fields.strategy.value = wanted.strategy;
        fields.strategy.dispatchEvent(new Event("change"));
      }
      for (const key of ["passes", "queries"]) if (Number.isFinite(wanted[key])) fields[key].value = wanted[key];
    };
    side.value = () => ({
      strategy: fields.strategy.value,
      passes: bounded("passes", fields.passes),
      queries: bounded("queries", fields.queries),
    });
    side.clear = () => {
      view.node.hidden = true;
      result.replaceChildren();
    };
    side.begin = (source, controls) => {
      const settings = { ...controls.settings, ...side.value() };
      const run = new Run(source, { options: optionsOf(settings), queries: settings.queries });
      view.node.hidden = false;
      result.replaceChildren();
      view.begin(run);
      return run;
    };
    side.finish = (run) => {
      const both = aligned(run.tokens, run.recovered);
      result.replaceChildren(both.node, el("p", { class: "matched" }, both.said), facts(run.done));
    };
    side.clear();
    return side;
  }
}

function amount(name, id, value, disabled = false) {
  const { least, most, step } = RANGES[name];
  return el("input", { type: "number", id, min: least, max: most, step: name === "queries" ? 1 : step, value, disabled });
}

function bounded(name, input) {
  const { least, most } = RANGES[name];
  const value = Math.min(Math.max(Math.trunc(Number(input.value)) || least, least), most);
  input.value = value;
  return value;
}

const field = (key, id, input) => el("div", { class: "field" }, el("label", { for: id }, t(key)), input);
