"""Readers beyond the plain case: Arrow IPC, standard input, quantised vectors, bad rows, damaged files, all dtypes."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pyarrow.feather import write_feather
from safetensors.numpy import save_file

from unembed.cli import invert
from unembed.errors import InputError
from unembed.plugins import register
from unembed.stores.opening import open_store, read_vectors
from unembed.stores.reading import BadRow

DTYPES = ("float16", "float32", "float64", "int8", "uint8")
ARROW = ("file.arrow", "fixed.feather", "stream.ipc", "list.parquet", "fixed.parquet")
ARRAYS = ("a.npy", "a.npz", "packed.npz", "a.safetensors")
TEXTS = ("a.jsonl", "cell.csv", "wide.csv", "wide.tsv")
FORMATS = (*ARROW, *ARRAYS, *TEXTS)


def write(path: Path, vectors: np.ndarray, ids: list[Any], texts: list[str]) -> None:
    """Write vectors with ids and a text column, as far as the format of the path's name has them."""
    kind, ending = path.stem, path.suffix
    if path.name in ARROW:
        rows, width = vectors.shape
        values = pa.array(vectors.reshape(-1))
        column: Any = pa.FixedSizeListArray.from_arrays(values, width)
        if kind in ("file", "list"):
            column = pa.ListArray.from_arrays(pa.array(range(0, rows * width + 1, width), pa.int32()), values)
        table = pa.table({"id": ids, "text": texts, "embedding": column})
        if ending == ".parquet":
            pq.write_table(table, path, row_group_size=4)
        else:
            compression = "lz4" if ending == ".feather" else None
            options = pa.ipc.IpcWriteOptions(compression=compression)
            make = pa.ipc.new_stream if ending == ".ipc" else pa.ipc.new_file
            with make(str(path), table.schema, options=options) as writer:
                writer.write_table(table, max_chunksize=3)
    elif ending == ".npy":
        np.save(path, vectors)
    elif ending == ".npz":
        save = np.savez if kind == "a" else np.savez_compressed
        save(path, v=vectors, ids=np.array(ids), text=np.array(texts))
    elif ending == ".safetensors":
        save_file({"v": vectors, "ids": np.arange(len(vectors))}, path)
    elif ending == ".jsonl":
        rows_ = ({"id": i, "text": t, "v": v} for i, t, v in zip(ids, texts, vectors.tolist(), strict=True))
        path.write_text("\n".join(json.dumps(row) for row in rows_), encoding="utf-8")
    else:
        names = ["embedding"] if kind == "cell" else [f"e{i}" for i in range(vectors.shape[1])]
        with open(path, "w", encoding="utf-8", newline="") as stream:
            writer_ = csv.writer(stream, delimiter="\t" if ending == ".tsv" else ",")
            writer_.writerow(["id", "text", *names])
            for i, t, v in zip(ids, texts, vectors.tolist(), strict=True):
                writer_.writerow([i, t, *([str(v)] if kind == "cell" else map(repr, v))])


def rows_of(path: Path | str, **options: Any) -> tuple[np.ndarray, list[Any], list[Any], list[int]]:
    """Read everything: vectors, ids, texts (where there are any), row numbers."""
    parts = list(read_vectors(path, **options))
    vectors = np.concatenate([part.vectors for part in parts])
    texts = [text for part in parts for text in part.metadata.get("text", [])]
    numbers = [part.row(i) for part in parts for i in range(len(part))]
    return vectors, [i for part in parts for i in part.ids], texts, numbers


def says(path: Path | str, *parts: str, **options: Any) -> InputError:
    """Reading must end in one InputError of two sentences that names the file and holds the parts."""
    with pytest.raises(InputError) as caught:
        list(read_vectors(path, batch=4, **options))
    error = caught.value
    assert Path(path).name in error.what.replace("standard input", "-") and error.what.endswith("."), error
    assert error.do.endswith(".") and "\n" not in str(error), error
    for part in parts:
        assert part in str(error), str(error)
    return error


# what goes in comes out


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_what_is_written_comes_back(tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject) -> None:
    dtype = np.dtype(data.draw(st.sampled_from(DTYPES)))
    shape = data.draw(st.tuples(st.integers(1, 9), st.integers(2, 6)))
    elements = None
    if dtype.kind == "f":
        bits = dtype.itemsize * 8
        elements = st.floats(-(2.0**15), 2.0**15, width=bits, allow_subnormal=False)  # type: ignore[arg-type]
    vectors = data.draw(hnp.arrays(dtype, shape, elements=elements))
    letters = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=5)
    texts = data.draw(st.lists(letters, min_size=len(vectors), max_size=len(vectors)))
    ids = data.draw(st.lists(st.integers() if name == "a.jsonl" else letters, min_size=shape[0], max_size=shape[0]))
    path = tmp_path_factory.mktemp("there") / name
    write(path, vectors, ids, texts)
    column = {"cell.csv": "embedding", "wide.csv": "e", "wide.tsv": "e"}.get(name)
    batch = data.draw(st.integers(1, 10))
    got, names, found, numbers = rows_of(path, column=column, batch=batch)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, vectors.astype(np.float32))
    assert numbers == list(range(len(vectors)))
    if name in ("a.npy", "a.safetensors"):
        assert names == numbers
    else:
        assert names == ids and found == texts
    assert open_store(path, column).count in (None, len(vectors))


@pytest.mark.parametrize("name", ["file.arrow", "fixed.feather", "stream.ipc"])
def test_arrow_batches_are_regrouped(tmp_path: Path, name: str) -> None:
    vectors = np.random.default_rng(0).normal(size=(23, 4)).astype(np.float32)
    write(tmp_path / name, vectors, [f"r{i}" for i in range(23)], ["x"] * 23)  # record batches of 3 rows
    store = open_store(tmp_path / name)
    for size in (2, 3, 10, 100):
        batches = list(store.batches(size))
        assert [b.start for b in batches] == list(range(0, 23, size))
        np.testing.assert_array_equal(np.concatenate([b.vectors for b in batches]), vectors)


def test_arrow_columns_are_chosen_as_in_parquet(tmp_path: Path) -> None:
    table = pa.table({"key": [7, 8], "a": [[1.0, 2.0], [3.0, 4.0]], "b": [[5, 6, 7], [8, 9, 1]], "text": ["x", "y"]})
    path = tmp_path / "a.arrow"
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table)
    says(path, "several columns", "a (list", "--column")
    says(path, "no vector column named 'text'", column="text")
    says(path, "no column named 'uid'", column="a", id_column="uid")
    vectors, ids, texts, _ = rows_of(path, column="b")
    assert vectors.tolist() == [[5, 6, 7], [8, 9, 1]] and ids == [7, 8] and texts == ["x", "y"]
    assert rows_of(path, column="b", id_column="text")[1] == ["x", "y"]


def test_fixed_shape_tensors_are_vectors(tmp_path: Path) -> None:
    column = pa.FixedShapeTensorArray.from_numpy_ndarray(np.arange(8, dtype=np.float32).reshape(2, 4))
    table = pa.table({"v": column})
    with pa.ipc.new_stream(str(tmp_path / "a.ipc"), table.schema) as writer:
        writer.write_table(table)
    assert rows_of(tmp_path / "a.ipc")[0].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]


# standard input


# quantised vectors


# bad rows


def with_bad_rows(path: Path) -> list[int]:
    """Write nine rows of which some are bad; return the numbers of the bad ones."""
    lists: list[Any] = [[float(i), 1.0, 2.0] for i in range(9)]
    lists[1][1], lists[3], lists[8][0] = float("nan"), [0.0, 0.0, 0.0], float("inf")
    bad = [1, 3, 8]
    if path.suffix in (".npy", ".npz", ".safetensors"):
        write(path, np.array(lists, np.float32), [f"r{i}" for i in range(9)], [f"t{i}" for i in range(9)])
        return bad
    lists[0] = None
    ids = [f"r{i}" for i in range(9)]
    texts = [f"t{i}" for i in range(9)]
    if path.name in ARROW:
        lists[5] = [1.0, None, 2.0]
        fixed = path.stem == "fixed"
        if not fixed:
            lists[6] = [1.0]
        kind = pa.list_(pa.float32(), 3) if fixed else pa.list_(pa.float32())
        table = pa.table({"id": ids, "text": texts, "v": pa.array(lists, kind)})
        pq.write_table(table, path) if path.suffix == ".parquet" else write_feather(table, path)
        return [0, 1, 3, 5, 8] if fixed else [0, 1, 3, 5, 6, 8]
    lists[6] = [1.0]
    if path.suffix == ".jsonl":
        lines = [json.dumps({"id": i, "text": t, "v": v}) for i, t, v in zip(ids, texts, lists, strict=True)]
        lines[5] = lines[5][:-4]
    else:
        lines = ["id,text,v", *(f'{i},{t},"{v}"' for i, t, v in zip(ids, texts, lists, strict=True))]
        lines[6] = 'r5,t5,"[1, x, 3]"'
    path.write_text("\n".join(lines) + "\n")
    return [0, 1, 3, 5, 6, 8]


@pytest.mark.parametrize("batch", [1, 3, 100])
@pytest.mark.parametrize("name", [*ARRAYS, "list.parquet", "fixed.parquet", "file.arrow", "a.jsonl", "cell.csv"])
def test_bad_rows_are_skipped(tmp_path: Path, name: str, batch: int) -> None:
    path = tmp_path / name
    bad = with_bad_rows(path)
    skipped: list[BadRow] = []
    vectors, ids, texts, numbers = rows_of(path, on_bad=skipped.append, batch=batch)
    good = [row for row in range(9) if row not in bad]
    assert numbers == good
    assert vectors.tolist() == [[row, 1, 2] for row in good]
    assert sorted(part.row for part in skipped) == bad
    assert all(path.name in part.reason and part.reason.endswith(".") for part in skipped)
    if name in ("a.npy", "a.safetensors"):
        assert ids == good
    else:
        assert ids == [f"r{row}" for row in good] and texts == [f"t{row}" for row in good]
    says(path)


def test_the_error_names_row_and_column(tmp_path: Path) -> None:
    rows = np.ones((5, 3), np.float32)
    rows[3, 2] = np.nan
    np.save(tmp_path / "a.npy", rows)
    says(tmp_path / "a.npy", "Row 3", "dimension 2")
    (tmp_path / "a.csv").write_text("id,e0,e1,e2\na,1,2,3\nb,1,,3\n")
    says(tmp_path / "a.csv", "Line 3", "'e1'")
    (tmp_path / "a.csv").write_text("id,e0,e1,e2\na,1,oops,3\n")
    says(tmp_path / "a.csv", "Line 2", "'e1'", "oops")


class FakeInverter:
    """Recovers "text" from everything."""

    dimension = 3
    sha256, precision = "abc", "fp32"

    def resolve(self, options: dict[str, Any]) -> Any:
        return SimpleNamespace(batch_size=64)

    def invert(self, vectors: np.ndarray, **options: Any) -> list[Any]:
        assert np.isfinite(vectors).all() and vectors.any(axis=1).all()
        fields = {"p_exact": None, "length": 1, "passes": 1, "queries": 0, "tokens": (), "token_confidence": ()}
        fields |= {"cosine": None, "matched": False}
        trust = {"confidence": 0.5, "likelihood": 0.5, "fit": 0.5, "misfit": None}
        one = SimpleNamespace(text="text", **trust, alternatives=(), trace=None, **fields)
        return [one] * len(vectors)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    def load(model: str, device: str | None, precision: str, store: Any) -> FakeInverter:
        assert store.dimension % FakeInverter.dimension == 0
        return FakeInverter()

    monkeypatch.setattr(invert, "_load", load)
    return lambda *args, **options: CliRunner().invoke(invert.command, list(map(str, args)), **options)


def test_skip_bad_on_the_command_line(tmp_path: Path, run: Callable[..., Result]) -> None:
    path = tmp_path / "a.jsonl"
    bad = with_bad_rows(path)
    found = run(path, "--json", "--skip-bad")
    assert found.exit_code == 0, found
    *rows, last = map(json.loads, found.stdout.splitlines())
    assert [row["id"] for row in rows] == ["r2", "r4", "r7"]
    assert {part["row"] for part in last["skipped"]} == set(bad)
    assert "skipped" not in found.stderr
    *rows, last = map(json.loads, run(path, "--json", "--skip-bad", "--limit-rows", 5).stdout.splitlines())
    assert [row["id"] for row in rows] == ["r2", "r4"] and {p["row"] for p in last["skipped"]} == {0, 1, 3}
    plain = run(path, "--json")
    assert isinstance(plain.exception, InputError) and "a.jsonl" in plain.exception.what

    many = np.ones((30, 3), np.float32)
    many[::2] = 0
    np.save(tmp_path / "a.npy", many)
    shown = run(tmp_path / "a.npy", "--skip-bad", "--out", tmp_path / "out.jsonl").stderr.splitlines()
    assert len(shown) == 11 and "Row 0 of" in shown[0] and shown[-1] == "15 rows were skipped."
    ids = [json.loads(line)["id"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert ids == list(range(1, 30, 2))
    assert not run(tmp_path / "a.npy", "--skip-bad", "-q", "--out", tmp_path / "out.jsonl").stderr
    error = run(tmp_path / "a.npy", "--json").exception
    assert isinstance(error, InputError) and "Row 0 of" in error.what and "zeros" in error.what


def test_stdin_and_quantised_on_the_command_line(tmp_path: Path, run: Callable[..., Result]) -> None:
    assert len(run("-", "--json", input="[1, 2, 3]\n[4, 5, 6]\n").stdout.splitlines()) == 2
    array = io.BytesIO()
    np.save(array, np.full((4, 3), 7, np.uint8))
    for options in (["--scale", "0.5"], ["--scale=1,2,3", "--offset=-1"], ["--packed"]):
        found = run("-", "--json", "--format", "npy", *options, input=array.getvalue())
        assert found.exit_code == 0 and len(found.stdout.splitlines()) == 4, found
    for options in (["--scale", "x"], ["--scale", "1", "--packed"], ["--scale", str(tmp_path / "no.npy")]):
        assert isinstance(run("-", "--format", "npy", *options, input=array.getvalue()).exception, InputError)
    register("store", "test+more", lambda address, column, id_column: open_store(tmp_path / "absent.npy"))
    with pytest.raises(InputError, match=r"test[+]more://, which is not a file"):
        open_store("test+more://x", kind="npy")
