"""The files of the page keep its rules: nothing from outside, nothing inline, every text in one place."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from unembed.decoding.config import STRATEGIES

STATIC = Path(__file__).resolve().parents[2] / "src" / "unembed" / "serve" / "static"
FILES = sorted(path for path in STATIC.iterdir() if path.is_file())
SCRIPTS = [path for path in FILES if path.suffix == ".js"]
HTML = (STATIC / "index.html").read_text("utf-8")


def texts() -> set[str]:
    source = (STATIC / "strings.en.js").read_text("utf-8")
    return set(re.findall(r'^  "([a-z.-]+)":', source, re.MULTILINE))


def code() -> str:
    return HTML + "".join(path.read_text("utf-8") for path in SCRIPTS if path.name != "strings.en.js")


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside = tag

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if data.strip() and self.inside not in ("noscript", "title"):
            self.words.append(data.strip())


@pytest.fixture(scope="module")
def page() -> Page:
    parsed = Page()
    parsed.feed(HTML)
    return parsed


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_nothing_comes_from_outside(path: Path) -> None:
    found = re.findall(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}[^\s\"')]*", path.read_text("utf-8"))
    assert set(found) <= {"http://www.w3.org/2000/svg"}


def test_nothing_is_inline(page: Page) -> None:
    for tag, attributes in page.tags:
        assert tag != "style"
        assert tag != "script" or "src" in attributes
        assert not [name for name in attributes if name == "style" or name.startswith("on")]
    scripts = "".join(path.read_text("utf-8") for path in SCRIPTS)
    for refused in (
        ".innerHTML",
        ".outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "new Function",
        ".cssText",
    ):
        assert refused not in scripts
    assert 'setAttribute("style"' not in scripts


def test_every_text_stands_in_one_place(page: Page) -> None:
    assert page.words == ["unembed"]  # the name


def test_every_text_is_there_and_used() -> None:
    known = texts()
    assert len(known) > 100
    used = set(re.findall(r'\bt\("([a-z.]+)"', code())) | set(re.findall(r'data-t(?:-[a-z-]+)?="([a-z.]+)"', HTML))
    missing = {key for key in used if not {key, f"{key}.one", f"{key}.other"} & known}
    assert not missing
    made = {re.sub(r"\.(one|other)$", "", key) for key in known} - used
    # keys that are put together: their first part, or the whole key as a string, is in the code
    unused = {key for key in made if f'"{key}"' not in code() and f"`{key.rsplit('.', 1)[0]}.$" not in code()}
    families = ("settings.", "error.", "result.", "hero.")
    assert not {key for key in unused if not key.startswith(families)}


def test_every_strategy_is_described_there() -> None:
    named = {key.removeprefix("strategy.") for key in texts() if key.startswith("strategy.")}
    assert named == set(STRATEGIES)


def test_what_damage_costs_was_measured_as_far_as_the_sliders_go() -> None:
    measured = json.loads((STATIC / "damage.json").read_text("utf-8"))
    search, source = measured["search"], (STATIC / "damage.js").read_text("utf-8")
    recall = np.array(search["recall"])
    assert recall.shape == (len(search["noise"]), len(search["bits"]), len(search["dimensions"]))
    assert f"const BITS = {search['bits']};" in source
    assert f"const MOST_NOISE = {search['noise'][-1]};" in source and search["noise"][0] == 0
    assert search["dimensions"][0] == 8 and search["dimensions"][-1] == 384
    assert recall[0, 0, -1] == 1 and 0 <= recall.min() < 0.1 and recall.max() == 1
    assert search["documents"] >= 5000 and search["queries"] >= 300
    assert len(measured["chance"]) >= 100 and all(measured["chance"])
    by = measured["trained"]["by"]
    assert all(row["fitted_on_change"]["value"] >= row["fitted_on_whole"]["value"] for row in by.values())
    noisy = by["noise of its length"]  # "far less", says the page
    lost = [by["none"][fitted]["value"] - noisy[fitted]["value"] for fitted in ("fitted_on_whole", "fitted_on_change")]
    assert lost[1] < lost[0] / 2


def test_every_import_is_a_file() -> None:
    for path in SCRIPTS:
        for name in re.findall(r'from "\./([^"]+)"', path.read_text("utf-8")):
            assert (STATIC / name).is_file(), f"{path.name} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_file_is_one_small_concept(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) <= 350
