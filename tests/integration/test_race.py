"""The race runs from shards to its page on tiny data, goes on where it was cut off, and its page is what it writes."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from reports import race_page
from tests.helpers.scripts import run_script
from unembed.data.shard_writer import write_shards
from unembed.data.tokenization import Tokenizer
from unembed.encoders.hashing import HashingEncoder

ROOT = Path(__file__).resolve().parents[2]
SMALL = ("data.encoder='hashing:16'", "data.limit=8", "data.batch_size=16", "model.width=16", "model.embedding_dim=16")


# One of the cores that the tests may use.
CORE = max(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0


@pytest.fixture
def race(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[[], str]]:
    """Runs it, in this process but for its children, and returns what it writes to stderr."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.chdir(ROOT)
    sets = [part for key in (*SMALL, "model.mlp=32", "validation.texts=32") for part in ("--set", key)]
    command = ["--shards", str(tmp_path / "train")]
    command += ["--validation", str(tmp_path / "test"), "--exclude", "--time", "20m", "--milestones", "0.1s"]
    command += ["--set", "run.steps=30", "--set", "run.horizon='steps'", "--set", "run.precision='fp32'", *sets]
    command += ["--n", "6", "--compile", "no", "--cores", str(CORE), "--contestants", "autoregressive"]
    command += ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "race.json")]
    command += ["--page", str(tmp_path / "race.md")]

    def run() -> str:
        code = run_script("benchmarks.experiments.race", *command)
        said = capsys.readouterr().err
        assert code == 0, said + "".join(path.read_text() for path in tmp_path.rglob("*.log"))
        return said

    before = signal.getsignal(signal.SIGTERM)
    yield run
    signal.signal(signal.SIGTERM, before)


@pytest.mark.soak
def test_the_race_is_run_resumed_and_written(tmp_path: Path, race: Callable[[], str]) -> None:
    encoder = HashingEncoder(16)
    tokenizer = Tokenizer.from_json(encoder.tokenizer_json())
    words = "the old dog saw a small house near river and city people went home with water".split()
    generator = np.random.default_rng(0)
    texts = [(" ".join(generator.choice(words, size=generator.integers(2, 8))), "mail") for _ in range(120)]
    write_shards(tmp_path / "train", texts[:90], encoder, tokenizer, max_length=8)
    write_shards(tmp_path / "test", texts[90:], encoder, tokenizer, max_length=8)
    race()
    found = json.loads((tmp_path / "race.json").read_text())
    (contestant,) = found["contestants"]
    assert {(row["way"], row["end"]) for row in contestant["decoded"]} == {
        ("left to right, greedy", True),
        ("left to right, beam 4", True),
        ("left to right, beam 4", False),
    }
    early, late = (r for r in contestant["decoded"] if r["way"].endswith("beam 4"))
    assert early["texts_seen"] < late["texts_seen"] == contestant["train"]["texts_seen"]
    assert contestant["cost"]["training_gflop_per_text"] > 0 and late["gflop_per_text"] > 0
    assert all(m["low"] <= m["value"] <= m["high"] for m in late["metrics"].values())
    text = (tmp_path / "race.md").read_text()
    assert "| autoregressive | left to right, greedy | 0." in text and "(results/race.svg)" in text
    assert (tmp_path / "race.svg").stat().st_size > 5000

    trained = tmp_path / "runs" / "autoregressive" / "trained.json"
    stamp = trained.stat().st_mtime_ns
    (tmp_path / "runs" / "autoregressive" / "decoded-end.json").unlink()
    again = race()
    assert trained.stat().st_mtime_ns == stamp
    assert "decoded-end" in again and "train" not in again and "0.1s" not in again


def test_the_page_of_the_race_is_what_its_result_says(tmp_path: Path) -> None:
    result = ROOT / "docs" / "results" / "race.json"
    if result.exists():
        expected = race_page.page(json.loads(result.read_text()), "results/race.svg")
    else:
        race_page.write(result, tmp_path / "race.md")
        expected = (tmp_path / "race.md").read_text()
    assert (ROOT / "docs" / "race.md").read_text() == expected, "python -m benchmarks.experiments.race --page-only"
