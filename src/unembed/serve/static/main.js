// Joins the parts of the page: a sentence or a vector goes in, a run is shown, and what follows from it is offered.

import * as alternatives from "./alternatives.js";
import { aligned } from "./align.js";
import { announce } from "./announce.js";
import { models, setToken } from "./api.js";
import { Compare } from "./compare.js";
import { Controls, mount, optionsOf } from "./controls.js";
import { Damage } from "./damage.js";
import { $, el, reducedMotion } from "./dom.js";
import { saveJson, saveSvg } from "./export.js";
import { facts } from "./facts.js";
import { linkTo, readLink, takeToken } from "./link.js";
import { notice } from "./notice.js";
import * as ownVector from "./own-vector.js";
import { Run } from "./run.js";
import { SAMPLES } from "./strings.en.js";
import { fill, t } from "./strings.js";
import { Strip } from "./strip.js";
import { RunView } from "./view.js";

let about = null; // what the server says of itself
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
    about = await models();
  } catch (error) {
    notice($("trouble"), error, load);
    return;
  }
  controls = new Controls(about.models, about.limits, settingsChanged);
  mount(controls);
  const wanted = readLink();
  controls.apply(wanted);
  describeModel();
  compare.apply(wanted.other);
  damage.apply(wanted);
  if (wanted.text) $("text").value = wanted.text.slice(0, 2000);
  document.body.classList.add("is-ready");
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
  damage = new Damage(model.dimension);
  $("sliders").replaceChildren(damage.node);
  compare = new Compare(controls);
  $("sides").replaceChildren(compare.node);
}

function settingsChanged() {
  if (controls) describeModel();
}

function ask(next) {
  source = next;
  go();
}

async function go() {
  if (!controls || !source) return;
  run?.stop();
  const { settings } = controls;
  const mine = new Run(source, { options: optionsOf(settings), queries: settings.queries });
  run = mine;
  $("trouble").replaceChildren();
  $("cut").hidden = true;
  view.begin(mine);
  $("result").classList.add("is-stale");
  $("view").scrollIntoView({ block: "nearest", behavior: reducedMotion() ? "auto" : "smooth" });
  busy(true);
  try {
    await mine.go((name) => mine === run && show(name, mine));
  } catch (error) {
    if (mine !== run) return;
    view.stop();
    notice($("trouble"), error, go);
  } finally {
    if (mine === run) busy(false);
  }
}

function show(name, mine) {
  if (name === "start") {
    strip.show(mine.vector);
    if (mine.start.truncated) {
      $("cut").hidden = false;
      $("cut").textContent = t("strip.cut", { n: controls.model.limit });
    }
    return;
  }
  view.update();
  if (name !== "done") return;
  const both = aligned(mine.tokens, mine.recovered, mine.done.aligned);
  const matched = both.said || t("result.unknown");
  $("aligned").replaceChildren(both.node);
  $("matched").textContent = matched;
  $("result").classList.remove("is-stale");
  $("facts").replaceChildren(facts(mine.done, true));
  for (const id of ["result", "damage", "compare", "keep"]) $(id).hidden = false;
  $("with-text").disabled = mine.source.text === undefined;
  compare.source = mine.source;
  damage.base(mine);
  const confidence = Math.round(100 * mine.done.confidence);
  announce(t("result.announce", { text: mine.done.text, confidence, matched }));
}

function busy(on) {
  $("run").textContent = t(on ? "hero.running" : "hero.run");
  document.body.classList.toggle("is-busy", on);
}

function askText() {
  const text = $("text").value.trim();
  if (!text) {
    $("trouble").replaceChildren(el("p", { class: "notice", role: "alert" }, t("hero.empty")));
    $("text").focus();
    return;
  }
  ask({ text });
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
  const link = linkTo(controls.settings, damage.chosen, compare.other, text);
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
