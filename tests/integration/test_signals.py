"""Signals and pipes, with real processes: exit codes, no stack trace, finished rows kept, the same file after them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.cli import Place, run, start
from tests.helpers.scripts import run_script

DECODING = ("--strategy", "sequential", "--passes", "2", "--lengths", "1")


def wait_for(process: subprocess.Popen[str], happened: Callable[[], object]) -> None:
    """Wait until something has happened; the process must not end before."""
    end = time.monotonic() + 120
    while not happened():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


def stop(process: subprocess.Popen[str], number: signal.Signals) -> str:
    """Send a signal; check the exit code and that no stack trace is shown; return stderr."""
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == (-9 if number == signal.SIGKILL else 128 + number), err
    assert "Traceback" not in err, err
    return err


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGINT,
        pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, marks=pytest.mark.slow),
    ],
)
def test_invert_keeps_what_is_finished(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    vectors, out = tmp_path / "v.npy", tmp_path / "o.csv"
    np.save(vectors, np.random.default_rng(0).normal(size=(1500, 32)).astype(np.float32))
    args = ["invert", vectors, "-m", place.model, *DECODING, "--out", out]
    process = start(*args)
    wait_for(process, lambda: list(tmp_path.glob("o.csv.partial/chunk-*")))
    err = stop(process, number)
    assert not out.exists()
    if number == signal.SIGKILL:
        assert not err
    else:
        assert "rows are finished and kept in" in err and "the same command with --resume continues" in err
        assert err.strip().splitlines()[-1] == ("Interrupted." if number == signal.SIGINT else "Terminated.")
        assert {path.name for path in tmp_path.iterdir()} == {"v.npy", "o.csv.partial"}, "no temporary file is left"
    assert run(capsys, *args, "--resume").code == 0
    rows = out.read_text().splitlines()
    assert [int(row.split(",")[0]) for row in rows[1:]] == list(range(1500))
    assert {path.name for path in tmp_path.iterdir()} == {"v.npy", "o.csv"}


@pytest.mark.parametrize(
    ("target", "number"),
    [
        pytest.param("o.npy", signal.SIGINT, marks=pytest.mark.slow),
        pytest.param("o.parquet", signal.SIGTERM, marks=pytest.mark.slow),
        ("o.jsonl", signal.SIGKILL),
        ("shards", signal.SIGTERM),
        pytest.param("shards", signal.SIGKILL, marks=pytest.mark.slow),
    ],
)
def test_embed_keeps_what_is_finished(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], target: str, number: signal.Signals
) -> None:
    texts, out = tmp_path / "texts.txt", tmp_path / target
    texts.write_text("".join(f"the old house near tree {i}\n" for i in range(8000)))
    shards = ["--shards", out, "--shard-size", "500"]
    where = shards if target == "shards" else ["--out", out]
    args = ["embed", texts, *where, "--encoder", "hashing:32", "-q"]
    process = start(*args)
    begun = "shards/manifest.json" if target == "shards" else f"{target}.partial/chunk-*"
    wait_for(process, lambda: list(tmp_path.glob(begun)))
    stop(process, number)
    if number != signal.SIGKILL:
        assert not [path for path in tmp_path.rglob("*.part")], "no temporary file is left"
    if target == "shards":
        assert json.loads((out / "manifest.json").read_text())["complete"] is False
    else:
        assert not out.exists()
        args.append("--resume")
    assert run(capsys, *args).code == 0
    again = [tmp_path / f"whole-{target}" if part == out else part for part in args if part != "--resume"]
    assert run(capsys, *again).code == 0
    files = sorted(path for path in [out, *out.rglob("*")] if path.is_file())
    assert files
    for path in files:
        whole = tmp_path / f"whole-{path.relative_to(tmp_path)}"
        assert path.read_bytes() == whole.read_bytes(), path
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith((".part", ".partial"))]


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_train_saves_its_state(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    out = tmp_path / "run"
    shards = f'data.shards="{place.shards}"'
    args = ["train", place.recipe, "--out", out, "--set", shards, "--set", "run.steps=100000"]
    process = start(*args)
    wait_for(process, lambda: (out / "log.jsonl").exists() and (out / "log.jsonl").stat().st_size)
    err = stop(process, number)
    assert "stopping: the state is saved, then validation and checkpoint" in err and "--resume continues" in err
    names = {path.name for path in out.iterdir()}
    assert names >= {"state.safetensors", "checkpoint", "recipe.json", "log.jsonl"}
    assert not [name for name in names if name.endswith(".part")]
    assert run(capsys, "models", "verify", out / "checkpoint").code == 0


def piped(command: str) -> tuple[int, str, str]:
    """Run a shell pipeline whose first part is `unembed`; return that part's exit code, stdout and stderr."""
    script = f"{sys.executable} -m unembed {command}; echo ${{PIPESTATUS[0]}} >&2"
    found = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    *err, code = found.stderr.splitlines()
    return int(code), found.stdout, "\n".join(err)


@pytest.mark.parametrize(
    "way",
    [
        "--json | head -1",
        *(pytest.param(way, marks=pytest.mark.slow) for way in ("| head -1", "--compare text | true")),
    ],
)
def test_a_pipe_that_closes(place: Place, tmp_path: Path, way: str) -> None:
    """Silent; 141 as for any program whose reader went away, 0 where everything was written before it did."""
    rows = "\n".join(json.dumps({"text": "a cat saw a dog", "v": [i + 1.5, -1.5] * 16}) for i in range(600))
    (tmp_path / "v.jsonl").write_text(rows)
    code, out, err = piped(f"invert {tmp_path}/v.jsonl -m {place.model} {' '.join(DECODING)} {way}")
    assert err == ""
    assert code == 141
    assert len(out.splitlines()) == (0 if "true" in way else 1)


@pytest.mark.parametrize("command", ["models show", "models list --json", "--help", "invert --help", "completion bash"])
def test_a_pipe_that_closes_on_short_output(command: str) -> None:
    code, _, err = piped(f"{command} | head -1")
    assert code in (0, 141) and err == ""
    code, _, err = piped(f"{command} | true")
    assert code in (0, 141) and err == ""


@pytest.mark.soak
def test_the_kill_script(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """benchmarks/robustness/kills.py with six kills; docs/results/kills.json holds the figures of 100."""
    code = run_script("benchmarks.robustness.kills", "--kills", 6, "--out", tmp_path / "kills.json")
    found = json.loads(capsys.readouterr().out)
    assert code == 0 and found["kills"] == 6
    assert (found["lost"], found["doubled"], found["different"], found["leftovers"]) == (0, 0, 0, 0)
    assert json.loads((tmp_path / "kills.json").read_text()) == found
