"""What the commands write: originals beside recovered texts, ids as they are, inputs that change, stopped runs."""

from __future__ import annotations

import csv
import json
import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.helpers.cli import Place, fails, run
from unembed.data.shard_writer import write_shards
from unembed.data.sources import read_texts
from unembed.data.tokenizers import load_tokenizer
from unembed.encoders.hashing import HashingEncoder
from unembed.errors import DataError

LARGE = [13570027672830659665, 17000000000000000001, 3]


def vectors(path: Path, ids: list[Any], **more: list[Any]) -> Path:
    """A .jsonl of vectors with ids and further columns."""
    rows = np.random.default_rng(0).normal(size=(len(ids), 32)).tolist()
    columns = {name: iter(values) for name, values in more.items()}
    lines = [{"id": i, **{k: next(v) for k, v in columns.items()}, "v": row} for i, row in zip(ids, rows, strict=True)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    if path.suffix == ".csv":
        with open(path, newline="") as stream:
            return list(csv.DictReader(stream))
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("ending", ["csv", "parquet", "jsonl"])
def test_a_kept_text_stands_beside_the_recovered_one(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str], ending: str
) -> None:
    """Case keep-column-named-text; with confidence, length and ids that are not used as ids, too."""
    source = vectors(
        tmp_path / "v.jsonl", [5, 6], text=["the truth", "another"], confidence=["x", "y"], uuid=["u", "w"]
    )
    base = ["invert", source, "-m", place.model]
    assert run(capsys, *base, "--out", tmp_path / "plain.jsonl").code == 0
    args = [*base, "--keep", "text", "--keep", "confidence", "--id-column", "uuid", "--keep", "id"]
    found = run(capsys, *args, "--out", tmp_path / f"o.{ending}")
    assert found.code == 0 and "'kept_text'" in found.err
    rows, recovered = read(tmp_path / f"o.{ending}"), read(tmp_path / "plain.jsonl")
    assert [row["text"] for row in rows] == [row["text"] for row in recovered]
    assert [row["kept_text"] for row in rows] == ["the truth", "another"]
    assert [(row["id"], str(row["kept_id"]), row["kept_confidence"]) for row in rows] == [
        ("u", "5", "x"),
        ("w", "6", "y"),
    ]
    assert all(0 <= float(row["likelihood"]) <= 1 for row in rows)
    shown = [json.loads(line) for line in run(capsys, *args, "--json").out.splitlines()]
    assert [row["kept_text"] for row in shown] == ["the truth", "another"]
    fails(capsys, [*base, "--keep", "text", "--keep", "kept_text"], "kept_text", "Rename")


@pytest.mark.parametrize(
    ("ids", "ending", "want"),
    [
        (LARGE, "parquet", LARGE),
        (LARGE, "csv", [str(i) for i in LARGE]),
        ([-1001234567890, -5, 7], "csv", ["-1001234567890", "-5", "7"]),
        ([1, "a", None], "parquet", ["1", "a", None]),
        ([1 << 70, "=1", "half\ud800"], "parquet", [str(1 << 70), "=1", "half\\ud800"]),
        ([1 << 70, "=1", "half\ud800"], "jsonl", [1 << 70, "=1", "half\ud800"]),
    ],
)
def test_ids_come_out_as_they_went_in(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str], ids: list[Any], ending: str, want: list[Any]
) -> None:
    """Cases uint64-ids-out-parquet and negative-ids-out-csv."""
    source, out = vectors(tmp_path / "v.jsonl", ids), tmp_path / f"o.{ending}"
    assert run(capsys, "invert", source, "-m", place.model, "--strategy", "sequential", "--out", out).code == 0
    assert [row["id"] for row in read(out)] == want


def test_a_run_goes_on_with_its_own_input_model_and_options_only(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Values, ids and kept columns of rows that are done, in place and of equal size; rows behind them may change."""
    ids = list(range(130))
    source, out = vectors(tmp_path / "v.jsonl", ids, note=["a"] * 130), tmp_path / "o.jsonl"
    good = source.read_text()
    args = ["invert", source, "-m", place.model, "--passes", "1", "--strategy", "sequential", "--keep", "note"]
    args += ["--out", out]
    source.write_text("".join([*good.splitlines(keepends=True)[:-1], '{"id": 129, "v": [1], "note": "a"}\n']))
    fails(capsys, args, "Line 130")
    for old, new in (('"id": 3,', '"id": 4,'), ('"note": "a"', '"note": "b"'), ('"v": [0', '"v": [1')):
        source.write_text(good.replace(old, new, 1))
        fails(capsys, [*args, "--resume"], "first 64 rows of the input are not those", "Give the same input as before")
    source.write_text("".join(good.splitlines(keepends=True)[:100]))
    fails(capsys, [*args, "--resume"], "rows of the input are not those")
    source.write_text(good)
    fails(capsys, [*args, "--resume", "--seed", "9"], "interrupted", "same options")
    assert run(capsys, *args, "--resume").code == 0
    assert [row["id"] for row in read(out)] == ids
    whole = tmp_path / "whole.jsonl"
    assert run(capsys, *args[:-1], whole).code == 0 and whole.read_bytes() == out.read_bytes()


@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
def test_embed_keeps_ids_columns_and_the_text_as_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], ending: str
) -> None:
    long = "The Old House " * 20
    rows = [{"id": 1 << 63, "text": long, "lang": "en", "source": "s", "vector": 1}, {"text": "a  cat", "lang": None}]
    rows = [rows[0], {"id": "b", "vector": "x", **rows[1]}]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    args = ["embed", tmp_path / "t.jsonl", "--encoder", "hashing:8", "--keep", "lang", "--keep", "source"]
    (tmp_path / "t2.jsonl").write_text('{"text": "x"}\n')
    fails(capsys, [*args, "-q", "--out", tmp_path / "o.npy"], "line 2", "'source'")
    args = [*args[:-2], "--keep", "vector", "--out", tmp_path / f"o.{ending}"]
    assert run(capsys, *args).code == 0
    found = read(tmp_path / f"o.{ending}")
    assert [str(row["id"]) for row in found] == [str(1 << 63), "b"]
    assert [row["text"] for row in found] == [long, "a  cat"]
    assert found[0]["embedded_text"].startswith("the old house") and len(found[0]["embedded_text"]) < len(long)
    assert [row["lang"] for row in found] == ["en", None] and [str(row["vector"]) for row in found] == ["1", "x"]
    fails(capsys, ["embed", tmp_path / "t.jsonl", "--shards", tmp_path / "s", "--keep", "lang"], "--out", "shards")


def test_private_files_under_any_umask(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Shards, packs, vectors and results: 600, in folders of 700."""
    for umask in (0o000, 0o077):
        home = tmp_path / str(umask)
        before = os.umask(umask)
        try:
            for args in (
                ["embed", place.texts, "--shards", home / "shards", "--encoder", "hashing:32"],
                ["embed", place.texts, "--out", home / "v" / "v.parquet", "--encoder", "hashing:32"],
                ["pack", place.texts, "--out", home / "pack", "--encoder", "hashing:32", "--no-encoder"],
                ["evaluate", place.texts, "-m", place.model, "-n", "4", "--out", home / "results", "--no-cosine"],
            ):
                assert run(capsys, *args, "-q").code == 0, args
        finally:
            os.umask(before)
        modes = {(path.is_dir(), stat.S_IMODE(path.stat().st_mode)) for path in [home, *home.rglob("*")]}
        assert modes == {(True, 0o700), (False, 0o600)}


class Failing(HashingEncoder):
    """An encoder that is gone after some calls."""

    left = 0

    def encode(self, texts: Any) -> Any:
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        return super().encode(texts)


def test_a_stopped_shard_keeps_what_is_embedded(tmp_path: Path) -> None:
    """The next call embeds the rest alone, and the shards are those of an unbroken run."""
    path = tmp_path / "t.txt"
    path.write_text("".join(f"the old house near tree {i}\n" for i in range(2600)))
    encoder = Failing(8)
    encoder.left = 101
    assert encoder.identity.dimension == 8  # one call
    tokenizer = load_tokenizer("encoder", encoder)

    def write(folder: Path, source: Path = path) -> None:
        write_shards(folder, read_texts(source), encoder, tokenizer, 12, 1100)

    write(tmp_path / "whole")
    calls = 100 - encoder.left
    encoder.left = 3
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "s")
    kept = tmp_path / "s" / "unfinished.npz"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    other = tmp_path / "other.txt"
    other.write_text(path.read_text().replace("house near tree 1600", "horse near tree 1600"))
    with pytest.raises(DataError, match="The texts are not those"):
        write(tmp_path / "s", other)
    encoder.left = calls - 3
    write(tmp_path / "s")
    assert encoder.left == 0
    files = {p.name: p.read_bytes() for p in (tmp_path / "whole").iterdir()}
    assert {p.name: p.read_bytes() for p in (tmp_path / "s").iterdir()} == files

    encoder.left = 1
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "d")
    (tmp_path / "d" / "unfinished.npz").write_bytes(b"PK damaged")
    encoder.left = 100
    write(tmp_path / "d")
    assert {p.name: p.read_bytes() for p in (tmp_path / "d").iterdir()} == files
