// A run as files: its trace as JSON, and as the animated SVG that evaluation/animation.py draws (the one of the README).

import { drawing } from "./api.js";
import { el } from "./dom.js";

/** Everything that fixes and describes a run. */
export function traceOf(run, { version, model }) {
  return {
    unembed: version,
    model: { name: model.name, sha256: model.sha256 },
    request: { options: run.options, queries: run.queries, transform: run.transform },
    original: run.original,
    vector: run.vector,
    draft: run.shown,
    steps: [...run.drafts.values()].flat().sort((a, b) => a.index - b.index || a.draft - b.draft),
    refinements: run.refinements,
    result: run.done,
  };
}

/** The body of POST /v1/trace.svg: the steps of the draft that was chosen and what queries made of it, without what is not drawn. */
export function drawable(run) {
  const steps = run.drafts.get(run.shown) ?? [];
  const keep = ({ id, text, masked, confidence, chosen, remasked }) => ({ id, text, masked, confidence, chosen, remasked });
  return {
    strategy: run.options.strategy,
    dimension: run.vector.length,
    recovered: run.done.text,
    confidence: run.done.confidence ?? null,
    likelihood: run.done.likelihood,
    original: run.original,
    cosine: run.done.cosine ?? null,
    refinements: run.refinements.map(({ queries, cosine, tokens }) => ({ queries, cosine, tokens })),
    steps: steps.map((step) => ({ index: step.index, pass: step.pass, canvas: step.canvas.map(keep) })),
  };
}

/** Let the browser save some text as a file. */
export function save(name, type, text) {
  const address = URL.createObjectURL(new Blob([text], { type }));
  const link = el("a", { href: address, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

/** Save the trace as JSON. */
export function saveJson(run, about) {
  save("trace.json", "application/json", `${JSON.stringify(traceOf(run, about), null, 1)}\n`);
}

/** Save the animation. */
export async function saveSvg(run) {
  save("trace.svg", "image/svg+xml", await drawing(drawable(run)));
}
