"""What stands around the code is whole and true: changelog, citation, contributing, constraints, CI."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
CFF_KEYS = {  # of the Citation File Format 1.2.0
    *("abstract", "authors", "cff-version", "commit", "contact", "date-released", "doi", "identifiers", "keywords"),
    *("license", "license-url", "message", "preferred-citation", "references", "repository", "repository-artifact"),
    *("repository-code", "title", "type", "url", "version"),
}


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_changelog_keeps_its_form() -> None:
    """https://keepachangelog.com/en/1.1.0/: newest first, known kinds of change, dates, nothing empty."""
    text = read("CHANGELOG.md")
    assert text.startswith("# Changelog\n")
    versions = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert versions[0] == "[Unreleased]"
    for version in versions[1:]:
        assert re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d{2}-\d{2}", version), version
    kinds = re.findall(r"^### (.+)$", text, re.MULTILINE)
    assert set(kinds) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    for part in re.split(r"^### .+$", text, flags=re.MULTILINE)[1:]:
        assert re.search(r"^- \S", part, re.MULTILINE), "a kind of change without an entry"


def test_the_citation_file_is_valid() -> None:
    cff = yaml.safe_load(read("CITATION.cff"))
    assert set(cff) <= CFF_KEYS
    assert {"authors", "cff-version", "message", "title"} <= set(cff), "what the format requires"
    assert cff["cff-version"] == "1.2.0" and cff["type"] in ("software", "dataset")
    assert (
        cff["license"] == PROJECT["project"]["license"].split(" AND ")[0]
        and cff["version"] == PROJECT["project"]["version"]
    )
    for item in [cff, *cff["references"]]:
        assert item["title"] and item["type"]
        assert all(isinstance(author, dict) and (set(author) & {"name", "family-names"}) for author in item["authors"])
    assert "2602.11047" in str(cff["references"])


def test_contributing_names_every_target_and_nothing_else() -> None:
    targets = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
    phony = re.search(r"^\.PHONY: (.+)$", MAKEFILE, re.MULTILINE)
    assert phony is not None and set(phony[1].split()) == targets
    text = read("CONTRIBUTING.md")
    assert set(re.findall(r"^\| `([a-z-]+)` \|", text, re.MULTILINE)) == targets
    steps = re.search(r"^`\.ci/run` is what CI runs: (.+)\.$", text, re.MULTILINE)
    assert steps is not None
    said = re.findall(r"`([a-z-]+)`", steps[1])
    done = re.findall(r"^step (\w+)$|^for name in ([a-z -]+);", read(".ci/run"), re.MULTILINE)
    assert said == " ".join(one or several for one, several in done).split()


def test_security_says_how_to_report_and_what_is_in_scope() -> None:
    text = read("SECURITY.md")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == [
        "Reporting",
        "What is in scope",
        "What is promised, and how it is tested",
    ]
    assert "allow_pickle=False" in text and "600" in text
    named = set(re.findall(r"test_\w+\.py", text))
    known = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    assert named and named <= known, named - known


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_requirement_is_pinned_once() -> None:
    lines = [line.split("#")[0].strip() for line in read("constraints.txt").splitlines()]
    pins = [line for line in lines if line]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[^=\s]+", pin) for pin in pins)
    names = [normal(pin.split("==")[0]) for pin in pins]
    assert len(names) == len(set(names)), "a package that is pinned twice"
    project = PROJECT["project"]
    needed = [
        *project["dependencies"],
        *(r for extra in ("train", "eval", "docs", "serve", "dev") for r in extras(extra)),
    ]
    missing = {normal(re.split(r"[\[<>=!~; ]", requirement)[0]) for requirement in needed} - set(names)
    assert not missing


def extras(name: str) -> list[str]:
    found: list[str] = PROJECT["project"]["optional-dependencies"][name]
    return found


def test_the_hooks_are_local_and_fetch_nothing() -> None:
    config = yaml.safe_load(read(".pre-commit-config.yaml"))
    assert [repo["repo"] for repo in config["repos"]] == ["local"]
    hooks = [hook for repo in config["repos"] for hook in repo["hooks"]]
    assert {hook["language"] for hook in hooks} == {"system"}
    assert {"ruff-check", "ruff-format", "mypy"} <= {hook["id"] for hook in hooks}


@pytest.mark.parametrize("script", [".ci/run", "scripts/package.sh", "scripts/matrix.sh"])
def test_scripts_can_be_run(script: str) -> None:
    assert os.access(ROOT / script, os.X_OK)
    assert subprocess.run(["bash", "-n", str(ROOT / script)], check=False).returncode == 0


def test_the_declared_pythons_are_the_matrix() -> None:
    classifiers = PROJECT["project"]["classifiers"]
    declared = [
        c.split(" :: ")[-1] for c in classifiers if re.fullmatch(r"Programming Language :: Python :: 3\.\d+", c)
    ]
    assert f"versions=({' '.join(declared)})" in read("scripts/matrix.sh")
    assert PROJECT["project"]["requires-python"] == f">={declared[0]}"
