"""The page's HTML has nothing inline and no text of its own; what damage costs was measured (code: tests/browser)."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

STATIC = Path(__file__).resolve().parents[2] / "src" / "unembed" / "serve" / "static"
FILES = sorted(path for path in STATIC.iterdir() if path.is_file())
SCRIPTS = [path for path in FILES if path.suffix == ".js"]
HTML = (STATIC / "index.html").read_text("utf-8")


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


def test_nothing_is_inline(page: Page) -> None:
    for tag, attributes in page.tags:
        assert tag != "style"
        assert tag != "script" or "src" in attributes
        assert not [name for name in attributes if name == "style" or name.startswith("on")]


def test_every_text_stands_in_one_place(page: Page) -> None:
    assert page.words == ["unembed"]  # the name


def test_what_damage_costs_was_measured_as_finely_as_the_page_says() -> None:
    measured = json.loads((STATIC / "damage.json").read_text("utf-8"))
    search = measured["search"]
    recall = np.array(search["recall"])
    assert recall.shape == (len(search["noise"]), len(search["bits"]), len(search["dimensions"]))
    assert search["noise"][0] == 0 and search["bits"][0] == 32
    assert search["dimensions"][0] == 8 and search["dimensions"][-1] == 384
    assert recall[0, 0, -1] == 1 and 0 <= recall.min() < 0.1 and recall.max() == 1
    assert search["documents"] >= 5000 and search["queries"] >= 300
    assert len(measured["chance"]) >= 100 and all(measured["chance"])
    by = measured["trained"]["by"]
    assert all(row["fitted_on_change"]["value"] >= row["fitted_on_whole"]["value"] for row in by.values())
    noisy = by["noise of its length"]  # "far less", says the page
    lost = [by["none"][fitted]["value"] - noisy[fitted]["value"] for fitted in ("fitted_on_whole", "fitted_on_change")]
    assert lost[1] < lost[0] / 2


def test_a_file_is_one_small_concept() -> None:
    assert [path.name for path in FILES if len(path.read_text("utf-8").splitlines()) > 350] == []
