// Joins the parts of the page: a sentence or a vector goes in, a run is shown, and what follows from it is offered.

import * as alternatives from "./alternatives.js";
import { aligned } from "./align.js";
import { announce } from "./announce.js";
import { measured, models, setToken } from "./api.js";
import { Compare } from "./compare.js";
import { Controls, mount, optionsOf, RANGES } from "./controls.js";
import { Damage } from "./damage.js";
import { aboutText, aboutVector, tell } from "./doubts.js";
import { $, el, reducedMotion } from "./dom.js";
import { saveJson, saveSvg } from "./export.js";
import { facts, sureness } from "./facts.js";
import { linkTo, readLink, saysNothing, takeToken } from "./link.js";
import { notice } from "./notice.js";
import * as ownVector from "./own-vector.js";
import { Run } from "./run.js";
import { SAMPLES } from "./strings.en.js";
import { fill, t } from "./strings.js";
import { Strip } from "./strip.js";
import { RunView } from "./view.js";

const BUDGETS = [20, 100]; // queries that are offered to correct a draft
let about = null; // what the server says of itself
let cost = null; // what damage costs search
let controls = null;
let damage = null;
let compare = null;
let run = null; // the last one
let source = null; // what it was about
let sample = -1;
const strip = new Strip();
const view = new RunView(t("denoise.canvas"));

async function load() {
  try {
    [about, cost] = await Promise.all([models(), measured().catch(() => null)]);
  } catch (error) {
    notice($("trouble"), error, load);
    return;
  }
  controls = new Controls(about.models, about.limits, settingsChanged);
  mount(controls);
  describeModel();
  openLink();
  addEventListener("hashchange", openLink);
  document.body.classList.add("is-ready");
}

/** Take over what the address says and run its text. Queries wait for their button: a link must not spend them. */
function openLink() {
  if (saysNothing()) return;
  const wanted = readLink();
  controls.apply(wanted);
  compare.apply(wanted.other);
  damage.apply(wanted);
  if (wanted.text) {
    $("text").value = wanted.text;
    askText(0);
  } else {
    $("trouble").replaceChildren(el("p", { class: "notice", role: "status" }, t("hero.link")));
  }
}

let described = null;

function describeModel() {
  const { model } = controls;
  if (described === model) return;
  described = model;
  const values = { name: model.encoder?.name ?? model.name, dimension: model.dimension, limit: model.limit };
  $("model").textContent = t("page.model", values);
  const local = ["localhost", "127.0.0.1", "[::1]"].includes(location.hostname);
  $("where").textContent = local ? t("page.local") : t("page.remote", { host: location.host });
  $("lead").textContent = t("hero.lead", values);
  $("strip-flow").textContent = t("strip.flow", { ...values, encoder: values.name });
  damage = new Damage(model.dimension, cost?.encoder === model.encoder?.name ? cost : null);
  $("sliders").replaceChildren(damage.node);
  compare = new Compare(controls);
  $("sides").replaceChildren(compare.node);
}

function settingsChanged() {
  if (controls) describeModel();
}

function ask(next, queries) {
  source = next;
  go(queries);
}

async function go(queries = controls?.settings.queries) {
  if (!controls || !source) return;
  run?.stop();
  const mine = new Run(source, { options: optionsOf(controls.settings), queries });
  run = mine;
  $("trouble").replaceChildren();
  for (const id of ["text-doubts", "vector-doubts"]) tell($(id), []);
  $("correct-row").hidden = true;
  view.begin(mine);
  $("result").classList.add("is-stale");
  $("view").scrollIntoView({ block: "nearest", behavior: reducedMotion() ? "auto" : "smooth" });
  busy(true);
  try {
    await mine.go((name) => mine === run && show(name, mine));
  } catch (error) {
    if (mine !== run) return;
    view.stop();
    notice($("trouble"), error, () => go(queries));
  } finally {
    if (mine === run) busy(false);
  }
}

function show(name, mine) {
  if (name === "start") {
    strip.show(mine.vector);
    tell($("text-doubts"), aboutText(mine.start));
    return;
  }
  view.update();
  if (name !== "done") return;
  const both = aligned(mine.tokens, mine.recovered, mine.start.truncated ? "result.original.cut" : "result.original");
  const matched = both.said || t("result.unknown");
  $("aligned").replaceChildren(both.node);
  $("matched").textContent = matched;
  $("fates").hidden = !mine.tokens;
  $("result").classList.remove("is-stale");
  $("facts").replaceChildren(facts(mine.done, true));
  for (const id of ["result", "damage", "compare", "keep"]) $(id).hidden = false;
  $("with-text").disabled = mine.source.text === undefined;
  offerQueries(mine);
  compare.source = mine.source;
  damage.base(mine);
  const doubts = [tell($("text-doubts"), aboutText(mine.start)), tell($("vector-doubts"), aboutVector(mine.done))].join(" ");
  announce(t("result.announce", { text: mine.done.text, sure: sureness(mine.done), matched, doubts }).trim());
}

/** Offer the next greater budget of queries, where the server can make them. */
function offerQueries(mine) {
  const most = Math.min(RANGES.queries.most, about.limits?.queries ?? Infinity);
  const next = [controls.settings.queries, ...BUDGETS].find((n) => n > mine.queries && n <= most);
  $("correct-row").hidden = !controls.model.queries || next === undefined;
  $("correct").textContent = next === undefined ? "" : t("result.correct", { n: next });
  $("correct").onclick = () => go(next);
}

function busy(on) {
  $("run").textContent = t(on ? "hero.running" : "hero.run");
  document.body.classList.toggle("is-busy", on);
}

function askText(queries) {
  const text = $("text").value.trim();
  if (!text) {
    $("trouble").replaceChildren(el("p", { class: "notice", role: "alert" }, t("hero.empty")));
    $("text").focus();
    return;
  }
  ask({ text }, queries);
}

function listen() {
  $("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    if (run?.busy) run.stop();
    else askText();
  });
  $("text").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    askText();
  });
  $("sample").addEventListener("click", () => {
    sample = (sample + 1) % SAMPLES.length;
    $("text").value = SAMPLES[sample];
    askText();
  });
  $("again").addEventListener("click", () => {
    if (source && source.text === undefined) go();
    else askText();
  });
  $("with-text").addEventListener("change", () => ($("with-text-warning").hidden = !$("with-text").checked));
  $("copy").addEventListener("click", copyLink);
  $("save-json").addEventListener("click", () => {
    saveJson(run, { version: about.version, model: controls.model });
    kept(t("keep.saved", { name: "trace.json" }));
  });
  $("save-svg").addEventListener("click", async function draw() {
    try {
      await saveSvg(run);
      kept(t("keep.saved", { name: "trace.svg" }));
    } catch (error) {
      notice($("kept"), error, draw);
    }
  });
  ownVector.setUp(() => controls?.model ?? {}, ask);
}

async function copyLink() {
  const text = $("with-text").checked && source?.text !== undefined ? source.text : null;
  const settings = { ...controls.settings, queries: Math.max(controls.settings.queries, run?.queries ?? 0) };
  const link = linkTo(settings, damage.chosen, compare.other, text);
  history.replaceState(null, "", new URL(link).hash);
  try {
    await navigator.clipboard.writeText(link);
    kept(t("keep.link.done"));
  } catch {
    const field = el("input", { readonly: true, value: link, "aria-label": t("keep.link.manual") });
    $("kept").replaceChildren(el("p", {}, t("keep.link.manual")), field);
    field.select();
  }
}

function kept(text) {
  $("kept").replaceChildren(el("p", { class: "hint" }, text));
  announce(text);
}

fill();
alternatives.setUp();
const token = takeToken();
if (token) setToken(token);
$("strip").append(strip.node);
$("view").append(view.node);
$("settings-panel").open = matchMedia("(min-width: 60rem)").matches;
listen();
load();
