// Why a result may not be what it seems: the text was cut, its words are not what the model has learnt, or the vector
// is unlike those that it knows.

import { el } from "./dom.js";
import { surface } from "./frames.js";
import { has, t } from "./strings.js";

const MOST = 400; // characters of the rest that are shown

/** Doubts about a text, known when a run starts, as paragraphs. */
export function aboutText({ tokens, rest, truncated, unlike }) {
  const found = [];
  if (truncated) {
    const left = sentence(rest ?? []);
    found.push(el("p", {}, t("doubt.cut", { n: tokens.length, of: tokens.length + (rest ?? []).length })));
    found.push(
      el(
        "p",
        { class: "cut-text" },
        el("span", {}, sentence(tokens)),
        " ",
        el("span", { class: "unseen" }, t("doubt.cut.here")),
        el("del", {}, left.length > MOST ? `${left.slice(0, MOST)}…` : left),
      ),
    );
  }
  if (unlike) found.push(el("p", {}, t("doubt.words")));
  return found;
}

/** Doubts about a vector, known with its result, as paragraphs; `misfit` says what the vector looks like. */
export function aboutVector({ misfit }) {
  if (!misfit) return [];
  const looks = `doubt.fit.${misfit}`;
  return [el("p", {}, `${t("doubt.fit")} ${has(looks) ? t(looks) : ""}`.trim())];
}

/** Show doubts in their place; returns them in one line for a screen reader. */
export function tell(place, doubts) {
  place.replaceChildren(...doubts);
  place.hidden = !doubts.length;
  return doubts.filter((doubt) => !doubt.className).map((doubt) => doubt.textContent).join(" ");
}

function sentence(tokens) {
  return tokens.map(surface).reduce((all, { text, joined }) => (joined || !all ? all + text : `${all} ${text}`), "");
}
