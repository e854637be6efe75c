"""`--sample`: rows drawn with a seed, in their order, under the ids that they have in the whole input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.helpers.cli import Place, fails, run
from unembed.cli.chunks import Chunks


def test_invert_draws_rows_and_resumes(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = np.random.default_rng(0).normal(size=(200, 32)).astype(np.float32)
    np.save(tmp_path / "v.npy", vectors)
    args = ["invert", tmp_path / "v.npy", "-m", place.model, "--strategy", "confidence", "--passes", "1"]
    draw = [*args, "--limit-rows", "9", "--sample"]
    every = [json.loads(line) for line in run(capsys, *args, "--json").out.splitlines()]
    found = [json.loads(line) for line in run(capsys, *draw, "1", "--json").out.splitlines()]
    ids = [row["id"] for row in found]
    assert ids == sorted(set(ids)) and len(ids) == 9 and ids[-1] > 9
    assert found == [every[i] for i in ids]
    other = [json.loads(line)["id"] for line in run(capsys, *draw, "2", "--json").out.splitlines()]
    assert other != ids

    out = tmp_path / "o.jsonl"
    original = Chunks.write

    def stops(self: Chunks, *values: object) -> None:
        original(self, *values)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(Chunks, "write", stops)
    monkeypatch.setattr("unembed.cli.invert.CHUNK", 4)  # rows a batch, and at least
    assert run(capsys, *draw, "1", "--batch-size", "4", "--out", out).code == 130
    monkeypatch.setattr(Chunks, "write", original)
    fails(capsys, [*draw, "2", "--batch-size", "4", "--out", out, "--resume"], "had sample 1, not 2")
    assert run(capsys, *draw, "1", "--batch-size", "4", "--out", out, "--resume").code == 0
    assert [json.loads(line)["id"] for line in out.read_text().splitlines()] == ids


def test_bad_rows_are_left_out_before_the_draw(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vectors = np.random.default_rng(0).normal(size=(40, 32)).astype(np.float32)
    vectors[::2] = 0
    np.save(tmp_path / "v.npy", vectors)
    args = ["invert", tmp_path / "v.npy", "-m", place.model, "--limit-rows", "20", "--sample", "1", "--skip-bad"]
    *rows, last = map(json.loads, run(capsys, *args, "--json").out.splitlines())
    assert [row["id"] for row in rows] == list(range(1, 40, 2)) and len(last["skipped"]) == 20


def test_embed_fit_lsa_and_pack_draw_texts(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line.split("\t")[1] for line in place.texts.read_text().splitlines()]
    embed = ["embed", place.texts, "--encoder", "hashing:32", "--limit-rows", "12", "--sample", "3"]
    assert run(capsys, *embed, "--out", tmp_path / "v.parquet").code == 0
    table = pq.read_table(tmp_path / "v.parquet").to_pydict()
    assert len(table["id"]) == 12 and table["id"] == sorted(table["id"]) and table["id"][-1] > 12
    assert table["text"] == [lines[i] for i in table["id"]]
    shards = [*embed, "--shards", tmp_path / "shards"]
    assert run(capsys, *shards).code == 0 and run(capsys, *shards).code == 0  # the second finds it finished
    other = run(capsys, *[*shards[:6], "--sample", "4", *shards[-2:]])
    assert other.code == 2, "texts of another draw do not go on behind those of the first"
    (tmp_path / "t.txt").write_text("".join(f"the invoice {i} on a dog doctor\n" for i in range(60)))
    lsa = [
        "fit-lsa",
        tmp_path / "t.txt",
        "--out",
        tmp_path / "lsa",
        "--dimensions",
        "4",
        "--limit-rows",
        "50",
        "--json",
    ]
    assert json.loads(run(capsys, *lsa, "--sample", "1").out)["texts"] == 50
    pack = ["pack", place.texts, "--out", tmp_path / "pack", "--no-encoder", "--max-texts", "7", "--sample", "1"]
    assert json.loads(run(capsys, *pack, "--json").out)["texts"] == 7
    fails(capsys, [*embed[:4], "--sample", "1", "--out", tmp_path / "w.parquet"], "--limit-rows", "Add --limit-rows N")
