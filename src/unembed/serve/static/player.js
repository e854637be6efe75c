// Plays frames and lets the reader go to any of them: play and pause, one step back or forward, a scrubber, a speed.
// While a run is live the player waits at the end for the next frame.

import { el, reducedMotion } from "./dom.js";
import { t } from "./strings.js";

const PACE = 300; // milliseconds a frame
const SPEEDS = [0.5, 1, 2];

/** A player bar. Its element is `node`. */
export class Player {
  #length = 0;
  #at = 0;
  #playing = false;
  #timer = 0;
  #speed = 1;
  #held = false; // the reader stopped it: new frames do not set it going
  #show;
  #describe;

  /**
   * @param show called with the index of the frame to show
   * @param describe called with an index; returns the caption that is read out
   */
  constructor(show, describe) {
    this.#show = show;
    this.#describe = describe;
    const button = (name, symbol, act) =>
      el("button", { type: "button", class: "icon", "aria-label": t(name), title: t(name), onclick: act }, symbol);
    this.toggle = button("player.play", "", () => (this.#playing ? this.#hold() : this.play()));
    this.scrub = el("input", { type: "range", min: 0, max: 0, value: 0, "aria-label": t("player.scrub") });
    this.scrub.addEventListener("input", () => {
      const wanted = Number(this.scrub.value); // before pausing, which sets it to the frame that is shown
      this.#hold();
      this.seek(wanted);
    });
    this.step = el("span", { class: "step" });
    this.speed = el(
      "select",
      { "aria-label": t("player.speed"), class: "speed" },
      ...SPEEDS.map((value) => el("option", { value, selected: value === 1 }, `${value}×`)),
    );
    this.speed.addEventListener("change", () => (this.#speed = Number(this.speed.value)));
    this.node = el(
      "div",
      { class: "player", role: "group" },
      this.toggle,
      button("player.back", "‹", () => this.#nudge(-1)),
      this.scrub,
      button("player.forward", "›", () => this.#nudge(1)),
      this.step,
      this.speed,
    );
    this.node.addEventListener("keydown", (event) => this.#key(event));
    this.#paint();
  }

  /** Which frame is shown. */
  get at() {
    return this.#at;
  }

  /** Whether it plays. */
  get playing() {
    return this.#playing;
  }

  /** Forget all frames and be ready to play what comes. */
  reset() {
    this.pause();
    this.#held = false;
    this.#length = 0;
    this.#at = 0;
    this.#paint();
  }

  /** There are now `length` frames; `live` shows them as they come. */
  grow(length, live = false) {
    this.#length = length;
    if (length === 0) return;
    const follow = live && !this.#held;
    this.seek(follow && reducedMotion() ? length - 1 : this.#at);
    if (follow && !reducedMotion()) this.#start();
    this.#paint();
  }

  /** Show a frame. */
  seek(index) {
    this.#at = Math.min(Math.max(index, 0), Math.max(0, this.#length - 1));
    if (this.#length) this.#show(this.#at);
    this.#paint();
  }

  /** Play from here, or from the start when at the end. */
  play() {
    this.#held = false;
    if (this.#at >= this.#length - 1) this.seek(0);
    this.#start();
  }

  /** Stay at this frame. */
  pause() {
    clearTimeout(this.#timer);
    this.#timer = 0;
    this.#playing = false;
    this.#paint();
  }

  #start() {
    if (!this.#playing) {
      this.#playing = true;
      this.#timer = 0;
    }
    if (!this.#timer) this.#tick();
    this.#paint();
  }

  #tick() {
    this.#timer = setTimeout(() => {
      this.#timer = 0;
      if (!this.#playing) return;
      if (this.#at < this.#length - 1) {
        this.seek(this.#at + 1);
        this.#tick();
      } else {
        this.pause();
      }
    }, PACE / this.#speed);
  }

  #hold() {
    this.#held = true;
    this.pause();
  }

  #nudge(by) {
    this.#hold();
    this.seek(this.#at + by);
  }

  #key(event) {
    if (event.target === this.scrub || event.target === this.speed) return; // they have these keys themselves
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (by === undefined) return;
    event.preventDefault();
    this.#nudge(by);
  }

  #paint() {
    const name = this.#playing ? "player.pause" : this.#length && this.#at === this.#length - 1 ? "player.again" : "player.play";
    this.toggle.classList.toggle("is-playing", this.#playing);
    this.toggle.setAttribute("aria-label", t(name));
    this.toggle.title = t(name);
    this.scrub.max = Math.max(0, this.#length - 1);
    this.scrub.value = this.#at;
    this.scrub.style.setProperty("--filled", this.#length > 1 ? this.#at / (this.#length - 1) : 0);
    const values = { step: this.#length ? this.#at + 1 : 0, n: this.#length };
    this.step.textContent = `${values.step} / ${values.n}`;
    const caption = this.#length ? this.#describe(this.#at) : "";
    this.scrub.setAttribute("aria-valuetext", t("player.value", { ...values, caption }));
    this.node.classList.toggle("is-empty", this.#length === 0);
  }
}
