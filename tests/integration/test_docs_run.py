"""Every command and every python block of README.md and docs/ runs; docs_blocks.py says how and what stands in.

Commands run in this process, against the package that is installed, but for lines with redirections, which a shell
runs. Blocks that are not run are listed here with their page, so that their number cannot grow by itself.
"""

from __future__ import annotations

import contextlib
import glob
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

import unembed
from tests.helpers.docs_blocks import PAGES, ROOT, Block, Marks, Standins, blocks, write_recipe
from unembed.cli import main
from unembed.training import estimate

SKIPPED = {
    "README.md": 2,
    "index.md": 2,
    "quickstart.md": 1,
    "encoders.md": 2,
    "training.md": 3,
    "cli.md": 2,
    "serve.md": 2,
}
RUN = [page for page in PAGES if any(block.language != "toml" for block in blocks(page))]
# One step of a small network.
SMALL = "data.batch_size=8 run.steps=1 run.max_time= run.horizon=steps run.compile=no run.precision=fp32 run.threads=1"
SMALL += " validation.texts=4 validation.decoded=1 run.validate_every=1e9 run.store_dtype=int8"
SMALL += " pairs.own=8 pairs.filled=8 pairs.mistakes=0"
NARROW = "model.width=48 model.layers=1 model.token_prior=false"


def shrink(words: list[str], seconds: str = "3s") -> list[str]:
    """Cut a command of ours: the options that make it long get small values, before those that it sets itself."""
    command, out = words[0], list(words)
    if command == "fit-lsa":
        return [*out, "--dimensions", "8"]
    for option, most in (("-n", 2), ("--limit-rows", 1), ("--samples", 2)):
        if option in out:
            place = out.index(option) + 1
            out[place] = str(min(int(out[place]), most))
    if command == "evaluate" and "-n" not in out:
        out += ["-n", "2"]
    if "--queries" in out:
        place = out.index("--queries") + 1
        out[place] = "0,1,3" if "," in out[place] else "3"
    if command == "invert" and "--limit-rows" not in out:
        out += ["--limit-rows", "1"]
    if command == "train":
        if "--max-time" in out:
            del out[out.index("--max-time") : out.index("--max-time") + 2]
        if "--cooldown" in out:
            out[out.index("--cooldown") + 1] = seconds
        taken = "--init-from" in out  # its shape must be the checkpoint's
        sets = SMALL.split() + ([] if taken else NARROW.split())
        out[2:2] = [part for item in sets for part in ("--set", item)]
    return out


def run_command(line: str, block: Block, folder: Path) -> None:
    """Run one line; it must succeed, and print or write something."""
    if re.search(r"[<>|&$`]", line):
        environment = {**os.environ, "HOME": str(folder), "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"}
        environment["PYTHONPATH"] = os.pathsep.join([str(Path(unembed.__file__).parents[1]), *sys.path[1:]])
        (folder / ".config" / "fish" / "completions").mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            line, shell=True, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{block.name}: {line}\n{done.stderr}"
        return
    words = [part for word in shlex.split(line) for part in (sorted(glob.glob(word)) or [word])]
    program, arguments = words[0], words[1:]
    assert program == "unembed", f"{block.name}: {program} is no program that is run here; mark the block"
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    for seconds in ("3s", "40s"):  # of a cool-down; a busy machine may take longer to prepare it
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(shrink(arguments, seconds) if block.marks.small else arguments)
        if "is over before the first step" not in err.getvalue():
            break
    assert code == 0, f"{block.name}: {line}\n{err.getvalue()}"
    written = any(before.get(path) != path.stat().st_mtime_ns for path in folder.rglob("*"))
    assert out.getvalue().strip() or written, f"{block.name}: {line}\nneither prints nor writes"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Standins]:
    """A folder with examples/ and recipes/, as a checkout has them, and `unembed` on the path."""
    folder, site = tmp_path / "work", tmp_path / "site"
    folder.mkdir()
    site.mkdir()
    (folder / "examples").symlink_to(ROOT / "examples")
    shutil.copytree(ROOT / "recipes", folder / "recipes")
    (folder / "bin").mkdir()
    script = folder / "bin" / "unembed"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m unembed "$@"\n')
    script.chmod(0o755)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    # A dry run measures for ten seconds; what is called stands behind a decorator.
    monkeypatch.setattr(estimate, "estimate", partial(estimate.estimate, seconds=0.2, warmup=1))
    standins = Standins(folder, site)
    with standins.closing:
        yield standins
    for name in ("my_package", "unembed_ngrams"):
        sys.modules.pop(name, None)


@pytest.mark.docs
@pytest.mark.parametrize("page", RUN, ids=lambda page: page.stem)
def test_a_page_runs(page: Path, place: Standins, monkeypatch: pytest.MonkeyPatch) -> None:
    names: dict[str, object] = {"__name__": "docs"}
    found = [block for block in blocks(page) if not block.marks.skip]
    for block in found:
        if block.language == "toml":
            write_recipe(place.folder / block.marks.recipe, block.text())
    for block in found:
        for name in block.marks.standins:
            place.make(name)
        if block.language == "python":
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(block.text(), block.name, "exec"), names)
        elif block.language != "toml":
            for line in block.commands():
                run_command(line, block, place.folder)


def test_what_is_skipped_does_not_grow() -> None:
    skipped = Counter(block.page.name for page in PAGES for block in blocks(page) if block.marks.skip)
    assert dict(skipped) == SKIPPED, "blocks that no test runs: give them a stand-in, or note them here"


def test_every_mark_stands_above_a_block() -> None:
    """A comment that marks nothing would be believed to."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        marked = sum(block.marks != Marks() for block in blocks(page))
        own = len(re.findall(r"<!-- test: ", text))
        assert own <= marked, page.name


@pytest.mark.docs
def test_the_readme_example_prints_confidence_and_text() -> None:
    """Five lines, run by a Python of its own, as a reader would."""
    block = next(block for block in blocks(ROOT / "README.md") if block.language == "python")
    assert len([line for line in block.body.splitlines() if line.strip()]) <= 5
    done = subprocess.run([sys.executable, "-c", block.body], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.match(r"[01]\.\d\d \S", done.stdout), done.stdout
