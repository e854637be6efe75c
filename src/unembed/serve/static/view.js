// Shows a run: caption, canvas and player, kept in step; which draft is shown; and while it runs, each step as it comes.

import { TokenCanvas } from "./canvas.js";
import { el } from "./dom.js";
import { Player } from "./player.js";
import { number, t } from "./strings.js";

/** The caption of a frame in words. */
export function captionOf(frame) {
  const { key, ...values } = frame.caption;
  if (values.cosine !== undefined && values.cosine !== null) values.cosine = number(values.cosine);
  return t(key, values);
}

/** A view of one run. Its element is `node`. */
export class RunView {
  #run = null;
  #frames = [];
  #draft = null;

  /** @param label what a screen reader calls the canvas */
  constructor(label) {
    this.canvas = new TokenCanvas(label);
    this.caption = el("p", { class: "caption" }, t("denoise.empty"));
    this.drafts = el("div", { class: "drafts", role: "group", "aria-label": t("denoise.drafts") });
    this.player = new Player(
      (at) => this.show(at),
      (at) => (this.#frames[at] ? captionOf(this.#frames[at]) : ""),
    );
    this.node = el("div", { class: "view" }, this.caption, this.canvas.node, this.player.node, this.drafts);
  }

  /** How many frames there are. */
  get length() {
    return this.#frames.length;
  }

  /** Begin to show a run; call `update` after each of its events. */
  begin(run) {
    this.#run = run;
    this.#draft = null;
    this.#frames = [];
    this.player.reset();
    this.drafts.replaceChildren();
    this.caption.textContent = t("caption.wait");
    this.canvas.render({ cells: [] });
    delete this.node.dataset.kind;
    this.node.classList.add("is-live");
  }

  /** Take over what the run has now. */
  update(live = true) {
    const draft = this.#draft ?? this.#run.shown;
    this.#frames = this.#run.frames(draft);
    this.player.grow(this.#frames.length, live);
    if (this.#run.done) this.#finish();
  }

  /** Show a frame by its index; past the end it is the last one. */
  show(at) {
    const frame = this.#frames[Math.min(at, this.#frames.length - 1)];
    if (!frame) return;
    this.canvas.render(frame);
    this.caption.textContent = captionOf(frame);
    this.node.dataset.kind = frame.caption.key.split(".")[1];
  }

  /** The run ended without a result. */
  stop() {
    this.player.pause();
    this.node.classList.remove("is-live");
    if (!this.#frames.length) this.caption.textContent = t("denoise.empty");
  }

  #finish() {
    this.node.classList.remove("is-live");
    const numbers = [...this.#run.drafts.keys()].sort((a, b) => a - b);
    if (numbers.length < 2) return;
    const shown = this.#draft ?? this.#run.shown;
    this.drafts.replaceChildren(
      el("span", { class: "row-label" }, t("denoise.draft")),
      ...numbers.map((draft) => {
        const steps = this.#run.drafts.get(draft);
        const name = draft === this.#run.shown ? "denoise.draft.chosen" : "denoise.draft.name";
        const text = t(name, { number: draft + 1, n: steps[steps.length - 1].canvas.length });
        const button = el("button", { type: "button", class: "quiet", "aria-pressed": String(draft === shown) }, text);
        button.addEventListener("click", () => this.#choose(draft));
        return button;
      }),
    );
  }

  #choose(draft) {
    this.#draft = draft;
    this.player.pause();
    this.update(false);
    this.player.seek(this.#frames.length - 1);
    this.drafts.querySelector('[aria-pressed="true"]')?.focus();
  }
}
