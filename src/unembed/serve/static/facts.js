// What a run cost and how near it came: cosine with its floor, confidence, time, passes, queries.

import { el } from "./dom.js";
import { number, t } from "./strings.js";

/** A list of facts about a result, as the `done` event holds it; `note` says what confidence means. */
export function facts(done, note = false) {
  const rows = [
    done.cosine === null || done.cosine === undefined
      ? fact("fact.cosine", t("fact.cosine.none"))
      : fact("fact.cosine", number(done.cosine), scale(done.cosine, done.floor)),
    fact("fact.confidence", number(done.confidence)),
    done.p_exact === null || done.p_exact === undefined ? null : fact("fact.exact", `${Math.round(100 * done.p_exact)} %`),
    fact("fact.seconds", t("fact.seconds.value", { n: number(done.seconds) })),
    fact("fact.passes", String(done.passes)),
    fact("fact.queries", String(done.queries ?? 0)),
  ];
  const list = el("dl", { class: "facts" }, ...rows.filter(Boolean));
  return el("div", {}, list, note ? el("p", { class: "facts-note" }, t("fact.note")) : null);
}

function fact(key, value, more = null) {
  return el("div", { class: more ? "fact fact-wide" : "fact" }, el("dt", {}, t(key)), el("dd", {}, value), more);
}

function scale(value, floor) {
  const bar = el("span", { class: "scale-bar" });
  bar.style.setProperty("--share", Math.max(0, value));
  if (floor === null || floor === undefined) return el("dd", { class: "scale", "aria-hidden": "true" }, bar);
  const tick = el("span", { class: "scale-floor" });
  tick.style.setProperty("--share", Math.max(0, floor));
  const track = el("span", { class: "scale", "aria-hidden": "true" }, bar, tick);
  return el("dd", { class: "scale-row" }, track, el("span", {}, t("fact.cosine.floor", { floor: number(floor) })));
}
