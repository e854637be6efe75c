"""The documentation site stands: its navigation is complete, its links lead somewhere, what is generated is fresh."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import unembed
from reports import cli_reference
from unembed.decoding.config import STRATEGIES

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
OTHERS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"]
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def nav() -> list[str]:
    """The pages of the navigation, in order; read without YAML, because the config names tags of mkdocs."""
    part = re.split(r"^nav:$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), flags=re.MULTILINE)[1]
    part = re.split(r"^\w", part, maxsplit=1, flags=re.MULTILINE)[0]
    return re.findall(r"^\s+- [^:]+: (\S+\.md)$", part, re.MULTILINE)


@cache
def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return FENCED.sub("", page.read_text(encoding="utf-8"))


@cache
def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as mkdocs makes them."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE):
        slug = re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower())
        number = 1
        while (name := slug if number == 1 else f"{slug}_{number - 1}") in found:
            number += 1
        found.add(name)
    return found


def test_every_page_of_the_nav_exists_and_every_page_is_in_it() -> None:
    pages = nav()
    assert len(pages) == len(set(pages))
    assert set(pages) == {page.name for page in PAGES}


def test_the_site_is_strict() -> None:
    assert re.search(r"^strict: true$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("page", [*PAGES, *OTHERS], ids=lambda path: path.name)
def test_no_relative_link_is_broken(page: Path) -> None:
    for link in LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), f"{page.name} links to {link}, which is not there"
        if page.parent == DOCS:
            assert path.is_relative_to(DOCS), f"{page.name} links to {link}, which is outside the site"
        if anchor and path.suffix == ".md":
            assert anchor in anchors(path), f"{page.name} links to {link}, but no heading is called that"


def test_no_page_is_a_wall_of_tables() -> None:
    """What is longer belongs into a CSV file of docs/results, with a figure on the page and a link."""
    lengths = {page.name: len(re.findall(r"^\|", prose(page), re.MULTILINE)) for page in [*PAGES, *OTHERS]}
    assert {name: lines for name, lines in lengths.items() if lines > 80} == {}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_a_page_begins_with_one_title(page: Path) -> None:
    assert prose(page).startswith("# ")
    assert len(re.findall(r"^# ", prose(page), re.MULTILINE)) == 1


def test_the_command_reference_is_fresh() -> None:
    page = (DOCS / "cli.md").read_text(encoding="utf-8")
    assert page == cli_reference.build(), "run `python -m reports.cli_reference`"


def test_the_library_page_has_every_public_name() -> None:
    listed = set(re.findall(r"^::: unembed\.(\w+)$", (DOCS / "api.md").read_text(encoding="utf-8"), re.MULTILINE))
    assert listed >= set(unembed.__all__) - {"__version__"}


def test_the_page_of_strategies_has_every_strategy() -> None:
    page = (DOCS / "strategies.md").read_text(encoding="utf-8")
    assert [name for name in STRATEGIES if f"| `{name}` |" not in page] == []


@pytest.mark.docs
def test_the_site_builds_strictly(tmp_path: Path) -> None:
    """Every link, anchor and docstring reference resolves; the built pages have the pictures beside them."""
    if importlib.util.find_spec("mkdocs") is None:
        pytest.skip('mkdocs is not installed: pip install -c constraints.txt -e ".[docs]"')
    site = tmp_path / "site"
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": ""}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(site)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for page in nav():
        assert (site / ("index.html" if page == "index.md" else f"{page.removesuffix('.md')}/index.html")).exists()
    home = (site / "index.html").read_text(encoding="utf-8")
    library, page = (DOCS / "api.md").read_text(encoding="utf-8"), (site / "api" / "index.html").read_text("utf-8")
    for part in re.split(r"^::: ", library, flags=re.MULTILINE)[1:]:
        for member in re.findall(r"\w+", "".join(re.findall(r"members: \[(.+)\]", part))):
            assert f'id="{part.split()[0]}.{member}"' in page, f"api.md names {member}, which is not there"
    results = (site / "results" / "index.html").read_text(encoding="utf-8")
    for picture in ("calibration.svg", "length.svg"):
        assert f'src="{picture}"' in results and (site / "results" / picture).exists()
    assert 'src="decode.svg"' in home and (site / "decode.svg").exists()
    assert "&lt;!-- test" not in home
