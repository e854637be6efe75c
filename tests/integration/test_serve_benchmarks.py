"""The server's benchmarks run, with a tiny model and for a few seconds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.serving import tiny_checkpoint

ROOT = Path(__file__).resolve().parents[2]


def run(script: str, *arguments: str | Path) -> None:
    command = [sys.executable, "-m", f"benchmarks.speed.{script}", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.soak
def test_the_load_is_measured(tmp_path: Path) -> None:
    out = tmp_path / "load.json"
    short = ["--clients", "1,4", "--requests", "4", "--rounds", "2", "--streams", "2", "--vectors", "6"]
    run("serve_load", *short, "--model", tiny_checkpoint(tmp_path / "tiny"), "--out", out)
    found = json.loads(out.read_text())
    for rows in found["strategies"].values():
        assert [row["clients"] for row in rows] == [1, 4]
        assert all(row["wrong"] == row["lost"] == 0 and row["ratio"] > 0 for row in rows)
    assert all(0 < waits["p50"] <= waits["p99"] for waits in found["first_token"].values())


@pytest.mark.soak
def test_the_soak_is_run(tmp_path: Path) -> None:
    out = tmp_path / "soak.json"
    model = tiny_checkpoint(tmp_path / "tiny", token_prior=True)
    run("serve_soak", "--seconds", "8", "--every", "1", "--clients", "6", "--model", model, "--out", out)
    found = json.loads(out.read_text())
    assert found["requests"]["right"] > 0 and found["requests"]["vanished"] > 0
    assert not [name for name in found["requests"] if name.startswith(("wrong", "failed", "cut"))]
    assert found["samples"][-1]["taken"] == 0
