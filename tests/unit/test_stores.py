"""Readers of vector files: what they return, that they stream, and what they say when something is wrong."""

from __future__ import annotations

import json
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from unembed.errors import InputError
from unembed.plugins import register
from unembed.stores.opening import open_store, read_vectors
from unembed.stores.protocol import VectorBatch
from unembed.stores.writing import write_vectors

ROWS, DIMENSION = 23, 6


@pytest.fixture
def vectors() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(ROWS, DIMENSION)).astype(np.float32)


def table(vectors: np.ndarray, fixed: bool = True) -> pa.Table:
    kind = pa.list_(pa.float32(), DIMENSION) if fixed else pa.list_(pa.float32())
    return pa.table(
        {
            "id": [f"r{i}" for i in range(len(vectors))],
            "text": [f"text {i}" for i in range(len(vectors))],
            "embedding": pa.array(vectors.tolist(), kind),
        }
    )


def write(path: Path, vectors: np.ndarray) -> Path:
    """Write the vectors in the format of the path's ending, with ids r0... and a text column where it can hold them."""
    texts = [f"text {i}" for i in range(len(vectors))]
    ids = [f"r{i}" for i in range(len(vectors))]
    kind = path.name.split("-")[0] + path.suffix
    if path.suffix == ".npy":
        np.save(path, vectors)
    elif kind == "compressed.npz":
        np.savez_compressed(path, embeddings=vectors, ids=np.array(ids), text=np.array(texts))
    elif path.suffix == ".npz":
        np.savez(path, embeddings=vectors, ids=np.array(ids), text=np.array(texts))
    elif path.suffix == ".safetensors":
        save_file({"embedding": vectors, "ids": np.arange(len(vectors))}, path)
    elif path.suffix == ".parquet":
        pq.write_table(table(vectors, fixed="list" not in path.name), path, row_group_size=5)
    elif path.suffix == ".jsonl":
        rows = [{"id": i, "text": t, "vector": v.tolist()} for i, t, v in zip(ids, texts, vectors, strict=True)]
        path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    elif kind == "wide.csv":
        head = ",".join(["id", "text", *(f"e{i}" for i in range(DIMENSION))])
        lines = [",".join([i, t, *map(repr, v.tolist())]) for i, t, v in zip(ids, texts, vectors, strict=True)]
        path.write_text("\n".join([head, *lines]) + "\n")
    else:
        lines = [f'{i},{t},"{v.tolist()}"' for i, t, v in zip(ids, texts, vectors, strict=True)]
        path.write_text("\n".join(["id,text,vector", *lines]) + "\n")
    return path


FORMATS = ["a.npy", "a.npz", "compressed-a.npz", "a.safetensors", "a.parquet", "list.parquet", "a.jsonl", "a.csv"]


@pytest.mark.parametrize("name", [*FORMATS, "wide-a.csv"])
@pytest.mark.parametrize("batch", [1, 7, 100])
def test_every_format_returns_the_same_rows(tmp_path: Path, vectors: np.ndarray, name: str, batch: int) -> None:
    path = write(tmp_path / name, vectors)
    store = open_store(path)
    assert store.dimension == DIMENSION
    assert store.count in (None, ROWS)
    batches = list(store.batches(batch))
    assert [len(b) for b in batches][:-1] == [batch] * (len(batches) - 1)
    assert [b.start for b in batches] == list(range(0, ROWS, batch))
    got = np.concatenate([b.vectors for b in batches])
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, vectors, rtol=1e-6)
    ids = [i for b in batches for i in b.ids]
    if path.suffix in (".npy", ".safetensors"):
        assert ids == list(range(ROWS))
    else:
        assert ids == [f"r{i}" for i in range(ROWS)]
        assert [t for b in batches for t in b.metadata["text"]] == [f"text {i}" for i in range(ROWS)]
    assert len(list(store.batches(5))) == 5, "a store can be read again"


@pytest.mark.parametrize("dtype", ["float16", "float64", "int8"])
def test_number_types_become_float32(tmp_path: Path, dtype: str) -> None:
    np.save(tmp_path / "a.npy", np.arange(12).reshape(3, 4).astype(dtype))
    batch = next(read_vectors(tmp_path / "a.npy"))
    assert batch.vectors.dtype == np.float32 and batch.vectors[2, 3] == 11


def test_bfloat16_safetensors(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file as save_torch

    values = torch.arange(8, dtype=torch.bfloat16).reshape(2, 4)
    save_torch({"v": values}, tmp_path / "a.safetensors")
    assert next(read_vectors(tmp_path / "a.safetensors")).vectors.tolist() == values.float().tolist()


def test_one_vector_alone(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones(5))
    assert next(read_vectors(tmp_path / "a.npy")).vectors.shape == (1, 5)


def test_headless_csv_and_bare_lists(tmp_path: Path, vectors: np.ndarray) -> None:
    (tmp_path / "a.csv").write_text("\n".join(",".join(map(str, v.tolist())) for v in vectors))
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(v.tolist()) for v in vectors))
    for name in ("a.csv", "a.jsonl"):
        np.testing.assert_allclose(next(read_vectors(tmp_path / name)).vectors, vectors, rtol=1e-6)


def test_named_columns_and_ids(tmp_path: Path, vectors: np.ndarray) -> None:
    columns = table(vectors).append_column("other", pa.array((vectors * 2).tolist(), pa.list_(pa.float64())))
    path = tmp_path / "a.parquet"
    pq.write_table(columns, path)
    batch = next(read_vectors(path, column="other", id_column="text"))
    np.testing.assert_allclose(batch.vectors, vectors * 2, rtol=1e-6)
    assert batch.ids[3] == "text 3" and batch.metadata["id"][3] == "r3"
    pq.write_table(columns.rename_columns(["id", "text", "first", "second"]), path)
    with pytest.raises(InputError, match=r"several columns.*first.*second.*--column"):
        open_store(path)
    with pytest.raises(InputError, match=r"no vector column named 'text'.*first"):
        open_store(path, column="text")
    with pytest.raises(InputError, match="no column named 'uid'"):
        open_store(path, column="first", id_column="uid")


def says(path: Path, *parts: str) -> None:
    """Reading the file must raise an InputError of two sentences that names the file and holds the parts."""
    with pytest.raises(InputError) as caught:
        list(read_vectors(path, batch=4))
    assert path.name in caught.value.what and caught.value.do.endswith(".")
    for part in parts:
        assert part in str(caught.value), str(caught.value)


@pytest.mark.parametrize("name", [*FORMATS, "wide-a.csv"])
def test_a_nan_is_named_by_its_row(tmp_path: Path, vectors: np.ndarray, name: str) -> None:
    vectors[9, 2] = np.nan
    says(write(tmp_path / name, vectors), "Row 9", "NaN")


@pytest.mark.parametrize("name", FORMATS)
def test_a_truncated_file(tmp_path: Path, vectors: np.ndarray, name: str) -> None:
    path = write(tmp_path / name, vectors)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    says(path)


def test_ragged_rows_are_named(tmp_path: Path, vectors: np.ndarray) -> None:
    lists = vectors.tolist()
    lists[6] = lists[6][:3]
    pq.write_table(pa.table({"e": lists}), tmp_path / "a.parquet")
    says(tmp_path / "a.parquet", "Row 6", "dimension 3")
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"v": v}) for v in lists))
    says(tmp_path / "a.jsonl", "Line 7", "dimension 3")
    (tmp_path / "a.csv").write_text("\n".join(["v", *(f'"{v}"' for v in lists)]))
    says(tmp_path / "a.csv", "Line 8", "dimension 3")


def test_missing_vectors_are_named(tmp_path: Path, vectors: np.ndarray) -> None:
    lists: list[list[float] | None] = vectors.tolist()
    lists[5] = None
    for kind in (pa.list_(pa.float32()), pa.list_(pa.float32(), DIMENSION)):
        pq.write_table(pa.table({"e": pa.array(lists, kind)}), tmp_path / "a.parquet")
        says(tmp_path / "a.parquet", "Row 5", "no vector")


def test_pickled_arrays_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([[1.0], "x"], dtype=object), allow_pickle=True)
    says(tmp_path / "a.npy")
    np.savez(tmp_path / "a.npz", v=np.array([[1.0, "x"]], dtype=object))
    says(tmp_path / "a.npz")


def test_wrong_files(tmp_path: Path) -> None:
    says(tmp_path / "absent.npy", "does not exist")
    (tmp_path / "a.pkl").write_bytes(b"x")
    says(tmp_path / "a.pkl", ".parquet")
    np.save(tmp_path / "a.npy", np.zeros((2, 3, 4)))
    says(tmp_path / "a.npy", "(2, 3, 4)")
    np.save(tmp_path / "b.npy", np.array([["a", "b"]]))
    says(tmp_path / "b.npy", "not numbers")
    (tmp_path / "a.jsonl").write_text('{"v": [1, 2]}\n{"v": [1, true]}\n')
    says(tmp_path / "a.jsonl", "line 2")
    (tmp_path / "b.jsonl").write_text("")
    says(tmp_path / "b.jsonl", "no rows")
    (tmp_path / "a.csv").write_text("id,v\n1,[1 2]\n2,[1 x]\n")
    says(tmp_path / "a.csv", "Line 3", "not a number")
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "a.parquet")
    says(tmp_path / "a.parquet", "no column that holds vectors")


@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=300), ending=st.sampled_from(["npy", "npz", "parquet", "jsonl", "csv", "safetensors"]))
def test_arbitrary_bytes_never_end_in_another_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, ending: str
) -> None:
    path = tmp_path_factory.getbasetemp() / f"fuzz.{ending}"
    path.write_bytes(data)
    try:
        for batch in read_vectors(path):
            assert np.isfinite(batch.vectors).all()
    except InputError as error:
        assert error.what and error.do


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(40_000, 64)).astype(np.float32)  # 10 MB
    np.save(tmp_path / "a.npy", rows)
    np.savez_compressed(tmp_path / "a.npz", v=rows)
    for name in ("a.npy", "a.npz"):
        tracemalloc.start()
        total = sum(len(batch) for batch in read_vectors(tmp_path / name, batch=500))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert total == len(rows)
        assert peak < 2_000_000, f"{name}: {peak} bytes"


def test_a_batch_can_be_cut(vectors: np.ndarray) -> None:
    head = VectorBatch(list(range(ROWS)), vectors, {"text": ["x"] * ROWS}).head(4)
    assert len(head) == 4 and head.vectors.shape == (4, DIMENSION) and head.metadata == {"text": ["x"] * 4}


def test_registry(tmp_path: Path, vectors: np.ndarray) -> None:
    path = write(tmp_path / "a.npy", vectors)
    assert open_store(f"file://{path}").count == ROWS
    register("store", "test+store", lambda address, column, id_column: open_store(path))
    assert open_store("test+store://x").dimension == DIMENSION
    with pytest.raises(InputError, match="No store is registered for nowhere://"):
        open_store("nowhere://x")


def test_opening_needs_no_torch(tmp_path: Path, vectors: np.ndarray) -> None:
    import subprocess

    path = write(tmp_path / "a.parquet", vectors)
    code = f"import sys, unembed; next(unembed.read_vectors({str(path)!r})); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", ["a.parquet", "a.npy", "a.jsonl"])
def test_what_is_written_is_read_back(tmp_path: Path, vectors: np.ndarray, name: str) -> None:
    parts = [
        VectorBatch(list(range(s, s + 10)), vectors[s : s + 10], {"text": [f"t{i}" for i in range(s, s + 10)]}, s)
        for s in (0, 10)
    ]
    assert write_vectors(tmp_path / name, iter(parts)) == 20
    assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
    batch = next(read_vectors(tmp_path / name))
    np.testing.assert_allclose(batch.vectors, vectors[:20], rtol=1e-6)
    assert batch.ids == list(range(20))
    assert name == "a.npy" or batch.metadata["text"][13] == "t13"


def test_nothing_is_left_of_a_write_that_fails(tmp_path: Path, vectors: np.ndarray) -> None:
    def broken() -> Iterator[VectorBatch]:
        yield VectorBatch([0], vectors[:1])
        raise InputError("The source broke.", "Mend it.")

    with pytest.raises(InputError, match="broke"):
        write_vectors(tmp_path / "a.parquet", broken())
    with pytest.raises(InputError, match="nothing to write"):
        write_vectors(tmp_path / "a.npy", [])
    with pytest.raises(InputError, match="not a name for a file of vectors"):
        write_vectors(tmp_path / "a.txt", [])
    assert list(tmp_path.iterdir()) == []
