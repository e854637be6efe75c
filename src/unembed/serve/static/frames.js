// Turns the steps of one draft into frames: what the canvas shows at each place of the scrubber. The same rules as
// unembed/evaluation/animation.py: all masks; then each step, and where a step opens positions again, the open
// positions first.

/** How the text of a token reads: {text, joined}; joined tokens continue the word before. */
export function surface(text) {
  if (text.startsWith("##")) return { text: text.slice(2), joined: true };
  return { text: text.replace(/^[\u0120\u2581]/, ""), joined: false };
}

/**
 * Frames of one draft.
 *
 * @param steps `step` events of the draft, in order
 * @returns [{cells: [{kind, text, confidence, alternatives, was, fresh}], caption: {key, ...values}}]
 */
export function framesOf(steps) {
  if (!steps.length) return [];
  const first = steps[0].canvas.map((cell) => (cell.masked || cell.chosen ? { kind: "mask" } : token(cell)));
  const frames = [{ cells: first, caption: { key: "caption.start" } }];
  for (const step of steps) {
    const before = frames[frames.length - 1].cells;
    const opened = step.canvas.flatMap((cell, at) => (cell.remasked ? [at] : []));
    if (opened.length) {
      const cells = before.map((cell, at) => (opened.includes(at) ? { kind: "open", was: cell.text ?? "" } : cell));
      frames.push({ cells, caption: { key: "caption.opened", pass: step.pass, n: opened.length } });
    }
    const chosen = step.canvas.filter((cell) => cell.chosen).length;
    if (!chosen && !opened.length && frames.length > 1) continue; // the end of a draft shows nothing new
    const shown = frames[frames.length - 1].cells;
    const cells = step.canvas.map((cell, at) => {
      if (cell.masked) return shown[at]?.kind === "open" ? shown[at] : { kind: "mask" };
      const old = shown[at]?.kind === "token" && shown[at].text === cell.text ? shown[at].alternatives : undefined;
      return { ...token(cell, old), fresh: cell.chosen };
    });
    const key = chosen ? "caption.committed" : "caption.none";
    frames.push({ cells, caption: { key, pass: step.pass, n: chosen } });
  }
  return frames;
}

/** The frame of a refinement: a whole text, after some queries. */
export function refineFrame(event) {
  const cells = (event.tokens ?? []).map((cell) => token(typeof cell === "string" ? { text: cell } : cell));
  return { cells, caption: { key: "caption.refine", n: event.queries, cosine: event.cosine } };
}

/** The frame of the result. */
export function resultFrame(result) {
  return { cells: (result.tokens ?? []).map((cell) => token(cell)), caption: { key: "caption.end" } };
}

/** Whether two frames show the same tokens. */
export function sameTokens(a, b) {
  return a.cells.length === b.cells.length && a.cells.every((cell, at) => cell.text === b.cells[at].text);
}

function token(cell, alternatives) {
  const found = cell.alternatives?.length ? cell.alternatives : alternatives;
  return { kind: "token", text: cell.text, confidence: cell.confidence, alternatives: found };
}
