"""What the tests of the command line share: a tiny recipe, running a command here or in a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from unembed.cli import main

RECIPE = """
[model]
width = 32
layers = 1
heads = 2
prefix_tokens = 2
init_embeddings = false
[data]
encoder = "hashing:32"
limit = 12
batch_size = 16
[objective]
shortlist_frequent = 100
shortlist_sampled = 50
[run]
steps = 12
compile = "no"
precision = "fp32"
[validation]
texts = 16
decoded = 4
"""
WORDS = "the a cat dog saw found old red house tree near behind and under small bird".split()


class Run(NamedTuple):
    code: int
    out: str
    err: str


class Place(NamedTuple):
    """Where the fixture put things."""

    folder: Path
    texts: Path
    vectors: Path
    shards: Path
    recipe: Path
    model: Path


def run(capsys: pytest.CaptureFixture[str], *args: str | Path) -> Run:
    capsys.readouterr()
    code = main([str(arg) for arg in args])
    out, err = capsys.readouterr()
    return Run(code, out, err)


def fails(capsys: pytest.CaptureFixture[str], args: Sequence[str | Path], *parts: str) -> None:
    """The command must exit with 2 and two lines on stderr that hold the parts."""
    found = run(capsys, *args)
    lines = found.err.strip().splitlines()
    assert found.code == 2 and len(lines) == 2, found
    assert lines[0].startswith("error: ") and all(line.endswith((".", "?")) for line in lines), lines
    for part in parts:
        assert part in found.err, found.err


def start(*args: str | Path, **more: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "unembed", *map(str, args)]
    pipe = subprocess.PIPE
    more.setdefault("preexec_fn", lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))  # ignored in a script's "&"
    return subprocess.Popen(command, text=True, stdout=pipe, stderr=pipe, **more)  # type: ignore[call-overload]
