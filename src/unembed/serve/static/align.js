// Original and recovered text, token by token: what is the same in order, what came back in another place, what is lost,
// what is invented. The marks are shapes as well as colours, and say themselves to a screen reader.

import { el } from "./dom.js";
import { surface } from "./frames.js";
import { t } from "./strings.js";

const TAGS = { same: "mark", moved: "mark", missing: "del", extra: "ins", plain: "span" };

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

/** What became of each token: {original, recovered}, lists of kinds, and how many are `same` and `moved`. */
export function fates(original, recovered) {
  const found = { original: original.map(() => "missing"), recovered: recovered.map(() => "extra"), same: 0, moved: 0 };
  const join = (i, j, kind) => {
    found.original[i] = found.recovered[j] = kind;
    found[kind] += 1;
  };
  pairs(original, recovered).forEach(([i, j]) => join(i, j, "same"));
  original.forEach((token, i) => {
    if (found.original[i] !== "missing") return;
    const j = recovered.findIndex((other, at) => other === token && found.recovered[at] === "extra");
    if (j >= 0) join(i, j, "moved");
  });
  return found;
}

/** A line of tokens, each of the kind that `kinds` says. */
export function line(tokens, kinds) {
  const parts = tokens.flatMap((token, at) => {
    const { text, joined } = surface(token);
    const kind = kinds[at];
    const said = kind === "same" || kind === "plain" ? null : el("span", { class: "unseen" }, ` (${t(`result.${kind}`)})`);
    const word = el(TAGS[kind], { class: `word-${kind}` }, text);
    return [joined || at === 0 ? "" : " ", word, said].filter((part) => part !== null);
  });
  return el("p", { class: "tokens" }, ...(parts.length ? parts : [t("result.nothing")]));
}

/** Both lines with a summary. `original` may be null: then only what was recovered is shown. */
export function aligned(original, recovered, label = "result.original") {
  if (!original) {
    const only = line(recovered, recovered.map(() => "plain"));
    return { node: el("div", { class: "aligned" }, ...row("result.recovered", only)), said: "" };
  }
  const { same, moved, ...kinds } = fates(original, recovered);
  const elsewhere = moved ? ` ${t("result.elsewhere", { n: moved })}` : "";
  const node = el(
    "div",
    { class: "aligned" },
    ...row(label, line(original, kinds.original)),
    ...row("result.recovered", line(recovered, kinds.recovered)),
  );
  return { node, said: t("result.matched", { same, n: original.length }) + elsewhere };
}

function row(label, content) {
  return [el("h3", { class: "row-label" }, t(label)), content];
}
