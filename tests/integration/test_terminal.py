"""What a terminal shows: colours, and a progress bar where a command takes long."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.helpers.cli import Place


def on_a_terminal(*commands: Sequence[str | Path], **environment: str) -> list[str]:
    """Run commands, one after the other, on a terminal of their own; return what each shows there."""
    ours, theirs = pty.openpty()
    code = "import json, sys; from unembed.cli import main\n"
    code += "for one in json.loads(sys.argv[1]): main(one); print(chr(0), flush=True)"
    command = [sys.executable, "-c", code, json.dumps([[str(arg) for arg in one] for one in commands])]
    clean = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "CI")}
    variables = {**clean, "TERM": "xterm-256color", "COLUMNS": "100", **environment}
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=variables) as process:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # the end of a terminal on Linux
            while data := os.read(ours, 1 << 16):
                shown += data
        process.wait()
    os.close(ours)
    *each, rest = shown.decode().split("\0")
    assert len(each) == len(commands), rest
    return each


def test_colours_only_on_a_terminal(place: Place, tmp_path: Path) -> None:
    args = ["embed", tmp_path / "absent.txt", "--out", tmp_path / "a.npy"]
    table = ["invert", place.vectors, "-m", place.model, "--limit-rows", "3"]
    error, rows = on_a_terminal(args, table)
    assert "\x1b[31m" in error and "\x1b[1m" in rows
    error, rows = on_a_terminal(args, table, NO_COLOR="1")
    assert "error:" in error and "\x1b" not in error and "\x1b[3" not in rows


@pytest.mark.slow
def test_a_progress_bar_with_the_time_left_appears_after_two_seconds(tmp_path: Path) -> None:
    texts = tmp_path / "many.txt"
    texts.write_text("the old house near the tree\n" * 80_000)
    (shown,) = on_a_terminal(["embed", texts, "--out", tmp_path / "o.npy", "--encoder", "hashing:32"])
    assert "Embedding" in shown and "/80000" in shown and "0:0" in shown
