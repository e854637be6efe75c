// What a run cost and how near it came: cosine with its floor, confidence, fit, time, passes, queries.

import { el } from "./dom.js";
import { number, t } from "./strings.js";

/** A list of facts about a result, as the `done` event holds it; `note` says what they mean. */
export function facts(done, note = false) {
  const calibrated = known(done.confidence);
  const rows = [
    !known(done.cosine)
      ? fact("fact.cosine", t("fact.cosine.none"))
      : fact("fact.cosine", number(done.cosine), scale(done.cosine, done.floor)),
    calibrated ? fact("fact.confidence", number(done.confidence)) : fact("fact.likelihood", number(done.likelihood)),
    known(done.p_exact) ? fact("fact.exact", `${Math.round(100 * done.p_exact)} %`) : null,
    known(done.fit) ? fact("fact.fit", number(done.fit)) : null,
    fact("fact.seconds", t("fact.seconds.value", { n: number(done.seconds) })),
    fact("fact.passes", String(done.passes)),
    fact("fact.queries", String(done.queries ?? 0)),
  ];
  const list = el("dl", { class: "facts" }, ...rows.filter(Boolean));
  const said = [
    t(calibrated ? "fact.note.confidence" : "fact.note.likelihood"),
    known(done.p_exact) ? t("fact.note.exact") : null,
    known(done.fit) ? t("fact.note.fit") : null,
  ];
  return el("div", {}, list, note ? el("p", { class: "facts-note" }, said.filter(Boolean).join(" ")) : null);
}

/** How sure a result is, in words: its confidence, or where no calibration holds the mean token probability. */
export function sureness(done) {
  const [key, share] = known(done.confidence) ? ["confidence", done.confidence] : ["likelihood", done.likelihood];
  return t(`result.${key}`, { percent: Math.round(100 * share) });
}

const known = (value) => value !== null && value !== undefined;

function fact(key, value, more = null) {
  return el("div", { class: more ? "fact fact-wide" : "fact" }, el("dt", {}, t(key)), el("dd", {}, value), more);
}

function scale(value, floor) {
  const bar = el("span", { class: "scale-bar" });
  bar.style.setProperty("--share", Math.max(0, value));
  if (!known(floor)) return el("dd", { class: "scale", "aria-hidden": "true" }, bar);
  const tick = el("span", { class: "scale-floor" });
  tick.style.setProperty("--share", Math.max(0, floor));
  const track = el("span", { class: "scale", "aria-hidden": "true" }, bar, tick);
  return el("dd", { class: "scale-row" }, track, el("span", {}, t("fact.cosine.floor", { floor: number(floor) })));
}
