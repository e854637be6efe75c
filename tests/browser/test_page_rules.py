"""What the page's code keeps to: no text becomes markup or code, all texts are there, sliders end where measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.page import Open, recover, show_settings
from unembed.decoding.config import STRATEGIES

pytestmark = pytest.mark.browser

STATIC = Path(__file__).resolve().parents[2] / "src/unembed/serve/static"
# Everything that makes markup or style of a string writes its name down; code of strings is what the policy forbids.
WATCH = """(() => {
  window.made = [];
  const watch = (owner, name) => {
    const old = Object.getOwnPropertyDescriptor(owner, name);
    const changed = { ...old };
    for (const part of ["set", "value"]) {
      if (typeof old[part] === "function") {
        changed[part] = function (...given) { window.made.push(name); return old[part].apply(this, given); };
      }
    }
    Object.defineProperty(owner, name, changed);
  };
  for (const name of ["innerHTML", "outerHTML", "insertAdjacentHTML"]) watch(Element.prototype, name);
  for (const name of ["write", "writeln"]) watch(Document.prototype, name);
  watch(CSSStyleDeclaration.prototype, "cssText");
  const set = Element.prototype.setAttribute;
  Element.prototype.setAttribute = function (name, value) {
    if (/^(style|on.*)$/i.test(name)) window.made.push(name);
    return set.call(this, name, value);
  };
})()"""


def test_no_string_becomes_markup_style_or_code(open_page: Open) -> None:
    """A text with markup in it is shown as it is, and nothing that could run it was called."""
    page = open_page(motion=True, prepare=lambda page: page.add_init_script(WATCH))
    recover(page, "<img src=x onerror=window.ran=1> the <b>house</b>")
    show_settings(page)
    page.click("#open-vector")
    page.click("#again")
    page.wait_for_selector("body:not(.is-busy)")
    assert page.evaluate("window.made") == [] and page.evaluate("window.ran") is None
    assert page.locator("main img").count() == 0
    policy = page.evaluate("fetch('.').then((answer) => answer.headers.get('content-security-policy'))")
    assert "default-src 'none'" in policy and "script-src 'self';" in policy and "unsafe" not in policy
    page.evaluate("document.createElement('p').innerHTML = '<b>x</b>'")
    assert page.evaluate("window.made") == ["innerHTML"], "the watch sees what it is there for"


def strings(page: Any) -> dict[str, str]:
    """The texts of the page, as it imports them."""
    found: dict[str, str] = page.evaluate("import('./strings.en.js').then((module) => ({ ...module.STRINGS }))")
    return found


def test_every_text_that_an_element_names_is_there(open_page: Open) -> None:
    page = open_page()
    known = strings(page)
    assert len(known) > 100 and all(known.values())
    named = "[...document.querySelectorAll('*')].flatMap((node) => [...node.attributes])"
    keys = page.evaluate(f"{named}.filter((a) => a.name.startsWith('data-t')).map((a) => a.value)")
    assert len(keys) > 20 and set(keys) <= set(known)
    assert {key.removeprefix("strategy.") for key in known if key.startswith("strategy.")} == set(STRATEGIES)


def test_sliders_of_damage_end_where_measuring_did(open_page: Open) -> None:
    search = json.loads((STATIC / "damage.json").read_text("utf-8"))["search"]
    page = open_page()
    recover(page)
    noise, bits, kept = (page.locator(".damage-sliders input").nth(i) for i in range(3))
    assert float(noise.get_attribute("max")) == search["noise"][-1]
    assert int(bits.get_attribute("max")) == len(search["bits"]) - 1
    assert int(kept.get_attribute("max")) == search["dimensions"][-1]
    assert int(kept.get_attribute("min")) == search["dimensions"][0]
    said = []
    for place in range(len(search["bits"])):
        bits.fill(str(place))
        said.append(page.locator(".damage-sliders output").nth(1).inner_text())
    assert all(str(n) in text for n, text in zip(search["bits"], said, strict=True)), said
