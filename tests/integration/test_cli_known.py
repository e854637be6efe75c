"""`unembed invert` under constraints: from options and columns, in the output, and refused with the row's number."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.helpers.tiny import save_tiny
from unembed.cli.app import main

ROWS = 70  # more than one batch


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model and a file of vectors with columns of what is known."""
    folder = tmp_path_factory.mktemp("known")
    save_tiny(folder / "model", "hashing:16")
    words = ["the old man", "a small house", "water and people"]
    table = {
        "id": list(range(ROWS)),
        "embedding": list(np.random.default_rng(0).normal(size=(ROWS, 16)).astype(np.float32)),
        "begin": [words[i % 3] if i % 5 else None for i in range(ROWS)],
        "some": [f"{3 + i % 2}=house; 6=river" if i % 4 else "" for i in range(ROWS)],
        "need": ["small ;city" if i % 2 else None for i in range(ROWS)],
        "wrong": ["the" if i != 66 else "the the the the the the the the the" for i in range(ROWS)],
        "text": ["the old man saw a house"] * ROWS,
    }
    pq.write_table(pa.table(table), folder / "v.parquet")
    return folder


def rows_of(place: Path, capsys: pytest.CaptureFixture[str], *args: str) -> list[dict[str, Any]]:
    code = main(["invert", str(place / "v.parquet"), "-m", str(place / "model"), "--json", "--tokens", "-q", *args])
    out, err = capsys.readouterr()
    assert code == 0, err
    return [json.loads(line) for line in out.splitlines()]


@pytest.mark.parametrize("strategy", ["adaptive", "draft-correct"])
def test_options_hold_for_all_rows(place: Path, capsys: pytest.CaptureFixture[str], strategy: str) -> None:
    args = ["--strategy", strategy, "--prefix", "the old", "--require", "small house", "--length", "6-8"]
    free = {token for row in rows_of(place, capsys, *args) for token in row["tokens"]}
    free = {token for token in free if token.isalpha()} - {"the", "old", "small", "house", "water"}
    bans = [part for word in free for part in ("--ban", word)]
    for row in rows_of(place, capsys, *args, *bans, "--known", "4=water"):
        assert row["tokens"][:2] == ["the", "old"] and row["tokens"][4] == "water" and 6 <= row["length"] <= 8
        assert " small house " in f" {' '.join(row['tokens'])} "
        assert free and not free & set(row["text"].split())
        assert row["given"] == [i in (0, 1, 4) for i in range(row["length"])]
        assert sum(row["forced"]) == 2
        assert [p for p, g in zip(row["token_confidence"], row["given"], strict=True) if g] == [1, 1, 1]


def test_columns_hold_for_their_rows(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    columns = ["--prefix-column", "begin", "--known-column", "some", "--require-column", "need"]
    table = pq.read_table(place / "v.parquet").to_pydict()
    for i, row in enumerate(rows_of(place, capsys, *columns)):
        prefix = (table["begin"][i] or "").split()
        assert row["tokens"][: len(prefix)] == prefix
        if table["some"][i]:
            assert row["tokens"][3 + i % 2] == "house" and row["tokens"][6] == "river"
        if table["need"][i]:
            assert {"small", "city"} <= set(row["tokens"])


def test_the_scores_leave_out_what_was_known(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["--compare", "text", "--limit-rows", "6", "--prefix", "the old man saw a", "--length", "6"]
    metrics = rows_of(place, capsys, *args)[-1]["scores"]["metrics"]
    assert metrics["token_accuracy"]["value"] >= 5 / 6
    assert metrics["token_accuracy_unknown"]["value"] <= metrics["token_accuracy"]["value"]
    assert "token_f1_unknown" in metrics
    assert "token_f1_unknown" not in rows_of(place, capsys, *args[:4])[-1]["scores"]["metrics"]


def test_files_hold_what_was_known(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.parquet"
    args = ["invert", str(place / "v.parquet"), "-m", str(place / "model"), "-q", "--out", str(out), "--resume"]
    assert main([*args, "--require", "river"]) == 0
    table = pq.read_table(out).to_pydict()
    assert all(sum(row) == 1 for row in table["forced"]) and not any(any(row) for row in table["given"])


@pytest.mark.parametrize(
    ("args", "what"),
    [
        (["--length", "many"], "--length is 'many'"),
        (["--length", "9-12"], "holds no length from 1 to 8 (row 0)"),
        (["--known", "three=doctor"], "which is not a position and a word"),
        (["--known", "3=old", "--known", "3=man"], "two words at position 3"),
        (["--prefix", "the", "--prefix-column", "begin"], "Both --prefix and --prefix-column"),
        (["--prefix-column", "nothing"], "no column named 'nothing'"),
        (["--prefix-column", "wrong"], "(row 66)."),
        (["--known-column", "begin"], "Row 1 of begin holds 'a small house'"),
        (["--require", "old", "--ban", "old"], "The banned 'old' is in the required 'old' (row 0)."),
        (["--strategy", "prior", "--ban", "old"], "strategy prior"),
    ],
)
def test_bad_options_are_told(place: Path, capsys: pytest.CaptureFixture[str], args: list[str], what: str) -> None:
    code = main(["invert", str(place / "v.parquet"), "-m", str(place / "model"), "-q", "--json", *args])
    err = capsys.readouterr().err
    assert code == 2 and what in " ".join(err.split()), err
