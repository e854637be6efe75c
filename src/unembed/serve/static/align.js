// Original and recovered text, token by token: what is the same in order, what is lost, what is invented. The marks are
// shapes as well as colours, and say themselves to a screen reader.

import { el } from "./dom.js";
import { surface } from "./frames.js";
import { t } from "./strings.js";

/** The longest common subsequence of two lists of tokens, as pairs of indices. */
export function pairs(a, b) {
  const best = Array.from({ length: a.length + 1 }, () => new Array(b.length + 1).fill(0));
  for (let i = a.length - 1; i >= 0; i -= 1) {
    for (let j = b.length - 1; j >= 0; j -= 1) {
      best[i][j] = a[i] === b[j] ? best[i + 1][j + 1] + 1 : Math.max(best[i + 1][j], best[i][j + 1]);
    }
  }
  const found = [];
  for (let i = 0, j = 0; i < a.length && j < b.length; ) {
    if (a[i] === b[j]) found.push([i++, j++]);
    else if (best[i + 1][j] >= best[i][j + 1]) i += 1;
    else j += 1;
  }
  return found;
}

/** A line of tokens; `same` holds the indices that match, the others are of the kind `rest`. */
export function line(tokens, same, rest) {
  const matched = new Set(same);
  const parts = tokens.flatMap((token, at) => {
    const { text, joined } = surface(token);
    const kind = matched.has(at) ? "same" : rest;
    const said = kind === "same" ? null : el("span", { class: "unseen" }, ` (${t(`result.${kind}`)})`);
    const word = el(kind === "same" ? "mark" : kind === "missing" ? "del" : "ins", { class: `word-${kind}` }, text);
    return [joined || at === 0 ? "" : " ", word, said].filter((part) => part !== null);
  });
  return el("p", { class: "tokens" }, ...(parts.length ? parts : [t("result.nothing")]));
}

/** Both lines with a summary. `original` may be null: then only what was recovered is shown. */
export function aligned(original, recovered, known = null, label = "result.original") {
  if (!original) {
    const every = recovered.map((_, at) => at);
    return { node: el("div", { class: "aligned" }, ...row("result.recovered", line(recovered, every, "extra"))), said: "" };
  }
  const found = known ?? pairs(original, recovered);
  const said = t("result.matched", { same: found.length, n: original.length });
  const node = el(
    "div",
    { class: "aligned" },
    ...row(label, line(original, found.map(([i]) => i), "missing")),
    ...row("result.recovered", line(recovered, found.map(([, j]) => j), "extra")),
  );
  return { node, said };
}

function row(label, content) {
  return [el("h3", { class: "row-label" }, t(label)), content];
}
