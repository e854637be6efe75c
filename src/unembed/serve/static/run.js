// One run: asks the server, keeps what comes, and has the frames of each draft. Whoever shows it listens.

import { stream } from "./api.js";
import { framesOf, refineFrame, resultFrame, sameTokens } from "./frames.js";

/** A run. Fields: vector, original, tokens (of the original), steps, refinements, done, busy. */
export class Run {
  #aborter = new AbortController();

  /**
   * @param source {text} or {vector, label}
   * @param request {options, queries, transform} as POST /v1/invert/stream takes them
   */
  constructor(source, { options, queries = 0, transform = null }) {
    Object.assign(this, { source, options, queries, transform });
    const given = source.text !== undefined ? { texts: [source.text] } : { vectors: [source.vector] };
    this.body = { ...given, options, queries, tokens: true };
    if (transform) this.body.transform = transform;
    Object.assign(this, { vector: null, original: null, tokens: null, truncated: false, done: null, busy: false });
    this.drafts = new Map();
    this.refinements = [];
    this.previews = [];
    this.shown = null;
  }

  /**
   * Run it to its end.
   *
   * @param changed called with (name, run) after each event
   */
  async go(changed = () => {}) {
    this.busy = true;
    try {
      await stream(this.body, (name, data) => this.#take(name, data, changed), this.#aborter.signal);
    } finally {
      this.busy = false;
    }
    return this;
  }

  /** Stop it; the server frees its place. */
  stop() {
    if (this.busy) this.#aborter.abort();
  }

  /** Frames of a draft; of the shown one, with refinements and result at its end. */
  frames(draft = this.shown) {
    const found = framesOf(this.drafts.get(draft) ?? (this.drafts.size ? [] : this.previews));
    if (draft !== this.shown) return found;
    found.push(...this.refinements.map(refineFrame));
    if (this.done) {
      const last = resultFrame(this.done);
      if (!found.length || !sameTokens(found[found.length - 1], last)) found.push(last);
    }
    return found;
  }

  #take(name, data, changed) {
    if (name === "start") {
      Object.assign(this, { vector: data.vector, original: data.original ?? null, start: data });
      this.tokens = data.tokens?.map(textOf) ?? null;
    } else if (name === "step") {
      if (!this.drafts.has(data.draft)) this.drafts.set(data.draft, []);
      this.drafts.get(data.draft).push(data);
      this.shown ??= data.draft;
    } else if (name === "preview") {
      this.previews.push(data); // shown until the steps of the beam's drafts come
    } else if (name === "refine") {
      this.refinements.push(data);
    } else if (name === "done") {
      const { result, ...more } = data;
      this.done = { ...result, ...more };
      this.shown = data.draft ?? this.#winner() ?? this.shown;
    }
    changed(name, this);
  }

  /** The draft whose last canvas is the result; with a refinement none may be. */
  #winner() {
    const ids = this.done.tokens.map((token) => token.id).join();
    for (const [draft, steps] of this.drafts) {
      const canvas = steps[steps.length - 1].canvas;
      if (canvas.map((cell) => cell.id).join() === ids) return draft;
    }
    return null;
  }

  /** Texts of the recovered tokens. */
  get recovered() {
    return this.done?.tokens.map(textOf) ?? [];
  }
}

const textOf = (token) => (typeof token === "string" ? token : token.text);
