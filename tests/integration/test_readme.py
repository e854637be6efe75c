"""What the README says can be run, and every command in the docs is a command that exists."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from unembed.cli.app import group

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"^ {4}((?:unembed|make|python|pip) .*)$", re.MULTILINE)


def blocks(text: str, language: str) -> list[str]:
    return [body for kind, body in FENCED.findall(text) if kind == language]


def commands(text: str) -> list[str]:
    """Lines of shell blocks and indented lines that begin with a program of ours."""
    bodies = [body.replace("\\\n", " ") for body in blocks(text, "sh")]  # a line may go on in the next
    fenced = [re.sub(r"^([A-Z_]+=\S+ +)+", "", line.strip()) for body in bodies for line in body.splitlines()]
    return [line for line in fenced if line and not line.startswith("#")] + INDENTED.findall(FENCED.sub("", text))


README_COMMANDS = [line for line in commands(README) if line.startswith("unembed ")]


def test_readme_has_the_two_commands_and_a_five_line_example() -> None:
    assert {"make demo", "make test"} <= set(commands(README))
    assert len(README_COMMANDS) >= 5
    lines = [line for line in blocks(README, "python")[0].splitlines() if line.strip()]
    assert len(lines) <= 5


@pytest.mark.parametrize("target", ["demo", "test"])
def test_make_targets_say_what_the_readme_says(target: str) -> None:
    expected = "unembed invert examples/vectors.parquet" if target == "demo" else "-m pytest -q"
    for locked, how in (("yes", "--require-hashes -r requirements"), ("no", "-c constraints.txt")):
        command = ["make", "--dry-run", "--always-make", f"LOCKED={locked}", target]
        found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert found.returncode == 0, found.stderr
        assert expected in found.stdout and how in found.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_commands_and_links_of_every_page_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for line in commands(text):
        words = shlex.split(line, comments=True)
        if words[0] == "unembed":
            command = group.get_command(None, words[1])  # type: ignore[arg-type]
            assert command is not None, line
            command.make_context(words[1], words[2:])  # parses; runs nothing
        elif words[0] == "python" and words[1].endswith(".py"):
            assert (ROOT / words[1]).exists(), line
        elif words[0] == "make":
            targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
            assert set(words[1:]) <= set(targets), line
    for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", text):
        assert (page.parent / target).exists(), f"{page.name} links to {target}, which is not there"


def test_the_results_table_is_what_the_files_say() -> None:
    found = subprocess.run([sys.executable, "-m", "reports.fill_readme", "--check"], cwd=ROOT, check=False)
    assert found.returncode == 0, "run `make results`"
