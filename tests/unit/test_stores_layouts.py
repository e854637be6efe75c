"""How vectors stand in parquet and Arrow tables: every list type, structs, counted columns, text, bytes, bad rows."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from unembed.errors import InputError
from unembed.stores.arrow.layouts import layouts
from unembed.stores.opening import open_store, read_vectors
from unembed.stores.protocol import counted_columns
from unembed.stores.reading import BadRow, ReadOptions

ROWS, WIDTH = 5, 20
VECTORS = np.random.default_rng(0).normal(size=(ROWS, WIDTH)).astype(np.float16).astype(np.float32)
LISTS = VECTORS.tolist()
F32 = pa.float32()


def save(path: Path, **columns: Any) -> Path:
    """Write columns as parquet or Arrow, by the ending."""
    table = pa.table(columns)
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=2)
    else:
        with pa.ipc.new_file(str(path), table.schema) as writer:
            writer.write_table(table, max_chunksize=2)
    return path


def vectors_of(path: Path, **options: Any) -> np.ndarray:
    return np.concatenate([batch.vectors for batch in read_vectors(path, batch=4, **options)])


def dictionary(kind: Any) -> Any:
    """Five rows that show two vectors."""
    return pa.DictionaryArray.from_arrays(pa.array([0, 1, 0, None, 1]), pa.array(LISTS[:2], kind))


LAYOUTS: dict[str, Any] = {
    "list": pa.array(LISTS, pa.list_(F32)),
    "large list": pa.array(LISTS, pa.large_list(F32)),
    "fixed list": pa.array(LISTS, pa.list_(F32, WIDTH)),
    "list view": pa.array(LISTS, pa.list_view(F32)),
    "large list view": pa.array(LISTS, pa.large_list_view(F32)),
    "halves": pa.array(LISTS, pa.list_(pa.float16())),
    "doubles": pa.array(LISTS, pa.list_(pa.float64(), WIDTH)),
    "decimals": pa.array([[Decimal(repr(x)) for x in row] for row in LISTS], pa.list_(pa.decimal128(38, 20))),
    "text in lists": pa.array([list(map(repr, row)) for row in LISTS]),
    "one list in each list": pa.array([[row] for row in LISTS]),
    "each number in a list": pa.array(LISTS, pa.list_(F32)),
    "numbers in a dictionary": pa.ListArray.from_arrays(
        pa.array(range(0, ROWS * WIDTH + 1, WIDTH), pa.int32()), pa.array(VECTORS.reshape(-1)).dictionary_encode()
    ),
    "text": pa.array([str(row) for row in LISTS]),
    "text of Postgres": pa.array(["{" + ",".join(map(repr, row)) + "}" for row in LISTS], pa.large_string()),
    "text in a dictionary": pa.array([str(row) for row in LISTS]).dictionary_encode(),
    "text as bytes": pa.array([str(row).encode() for row in LISTS]),
    "bytes of float32": pa.array([row.tobytes() for row in VECTORS]),
    "bytes of float64": pa.array([row.astype(np.float64).tobytes() for row in VECTORS], pa.binary(8 * WIDTH)),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_vectors_stand_in_one_column(tmp_path: Path, name: str) -> None:
    views = "view" in name  # pyarrow 26 writes none to parquet
    for ending in ("arrow",) if views else ("arrow", "parquet"):
        path = save(tmp_path / f"a.{ending}", id=[f"r{i}" for i in range(ROWS)], n=range(ROWS), v=LAYOUTS[name])
        np.testing.assert_array_equal(vectors_of(path), VECTORS)
        np.testing.assert_array_equal(vectors_of(path, column="v"), VECTORS)
        assert next(read_vectors(path)).ids == [f"r{i}" for i in range(ROWS)][:ROWS]


@pytest.mark.parametrize("kind", [pa.list_(F32), pa.list_(F32, WIDTH), pa.list_view(F32)])
def test_vectors_in_a_dictionary_or_in_runs(tmp_path: Path, kind: Any) -> None:
    path = save(tmp_path / "a.arrow", v=dictionary(kind))
    bad: list[BadRow] = []
    np.testing.assert_array_equal(vectors_of(path, on_bad=bad.append), VECTORS[[0, 1, 0, 1]])
    assert [row.row for row in bad] == [3]
    runs = pa.RunEndEncodedArray.from_arrays(pa.array([2, 3, 5], pa.int32()), pa.array(LISTS[:3], kind))
    np.testing.assert_array_equal(vectors_of(save(tmp_path / "b.arrow", v=runs)), VECTORS[[0, 0, 1, 2, 2]])


@pytest.mark.parametrize("ending", ["arrow", "parquet"])
def test_named_vectors_in_structs(tmp_path: Path, ending: str) -> None:
    inner = pa.StructArray.from_arrays([pa.array(LISTS), pa.array((-VECTORS).tolist())], ["dense", "title"])
    outer = pa.StructArray.from_arrays([inner, pa.array(range(ROWS))], ["vectors", "n"])
    path = save(tmp_path / f"a.{ending}", key=range(ROWS), point=outer)
    np.testing.assert_array_equal(vectors_of(path, column="point.vectors.dense"), VECTORS)
    np.testing.assert_array_equal(vectors_of(path, column="point.vectors.title"), -VECTORS)
    with pytest.raises(InputError, match=r"several columns.*point\.vectors\.dense.*point\.vectors\.title"):
        open_store(path)
    (batch,) = read_vectors(path, column="point.vectors.dense")
    assert batch.ids == list(range(ROWS)) and batch.metadata["point"][3]["n"] == 3
    one = pa.array([{"embedding": row} if i != 2 else None for i, row in enumerate(LISTS)])
    bad: list[BadRow] = []
    path = save(tmp_path / f"b.{ending}", point=one)
    np.testing.assert_array_equal(vectors_of(path, on_bad=bad.append), VECTORS[[0, 1, 3, 4]])
    assert [row.row for row in bad] == [2] and "'point.embedding'" in bad[0].reason


@pytest.mark.parametrize("ending", ["arrow", "parquet"])
@pytest.mark.parametrize("prefix", ["e", "", "dim_", "embedding.", "x-"])
def test_counted_columns_stand_in_the_order_of_their_counts(tmp_path: Path, ending: str, prefix: str) -> None:
    columns = {f"{prefix}{i}": pa.array(VECTORS[:, i], F32) for i in range(WIDTH)}
    shuffled = {name: columns[name] for name in sorted(columns)}  # 0, 1, 10, 11, ... as text is sorted
    path = save(tmp_path / f"a.{ending}", id=pa.array(range(ROWS)), year2020=pa.array(range(ROWS)), **shuffled)
    np.testing.assert_array_equal(vectors_of(path), VECTORS)
    np.testing.assert_array_equal(vectors_of(path, column=prefix), VECTORS)
    (batch,) = read_vectors(path)
    assert batch.ids == list(range(ROWS)) and list(batch.metadata) == ["year2020"]
    holed = {**shuffled, f"{prefix}7": pa.array([1.0, None, 2.0, 3.0, 4.0], F32)}
    with pytest.raises(InputError, match=f"Row 1 of .* has no number in column '{prefix}7' in column"):
        vectors_of(save(tmp_path / f"b.{ending}", **holed))
    del shuffled[f"{prefix}7"]
    with pytest.raises(InputError, match=f"counted columns without '{prefix}7'"):
        vectors_of(save(tmp_path / f"c.{ending}", **shuffled))


def test_what_counts() -> None:
    def counted(names: list[str]) -> dict[str, list[str]]:
        return {prefix: found for prefix, found, missing in counted_columns(names) if missing is None}

    assert counted(["e1", "e10", *(f"e{i}" for i in range(2, 10))]) == {"e": [f"e{i}" for i in range(1, 11)]}
    assert counted(["e00", "e02", "e01", "f"]) == {"e": ["e00", "e01", "e02"]}
    for none in (
        ["y2020", "y2021"],
        ["e0", "e2"],
        ["e0", "e00", "e1"],
        ["e0"],
        ["a", "b"],
        [f"e{i}" for i in range(5, 25)],
    ):
        assert counted(none) == {}
    assert [missing for *_, missing in counted_columns([f"e{i}" for i in range(30) if i != 7])] == [7]


@pytest.mark.parametrize("ending", ["arrow", "parquet"])
@pytest.mark.parametrize("form", ["lists", "text", "wide"])
def test_the_first_vector_may_stand_behind_bad_rows(tmp_path: Path, ending: str, form: str) -> None:
    rows: list[Any] = [None] * 7 + LISTS
    if form == "text":
        rows = [None if row is None else str(row) for row in rows]
    columns = {"v": pa.array(rows)}
    if form == "wide":
        columns = {f"e{i}": pa.array([None if row is None else row[i] for row in rows], F32) for i in range(WIDTH)}
    path = save(tmp_path / f"a.{ending}", **columns)
    np.testing.assert_array_equal(vectors_of(path, on_bad=lambda row: None), VECTORS)
    with pytest.raises(InputError, match=r"Row 0 of .* has no .*--skip-bad"):
        vectors_of(path)
    path = save(tmp_path / f"b.{ending}", v=pa.array([None, None], pa.list_(F32)))
    with pytest.raises(InputError, match=r"None of the first 2 rows .* has a vector in column 'v'"):
        vectors_of(path)


@pytest.mark.parametrize("ending", ["arrow", "parquet"])
def test_what_is_no_vector_is_said(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    with pytest.raises(InputError, match=r"no column that holds vectors.*embedding.*'\[0\.1, \.\.\."):
        vectors_of(save(path, id=["a"], embedding=["[0.1, ..., 0.2]"]))
    with pytest.raises(InputError, match=r"several vectors.*for each token"):
        vectors_of(save(path, v=[[[1.0, 2.0], [3.0, 4.0]]], w=[1]), column="v")
    with pytest.raises(InputError, match="no vector column named 'tags'"):
        vectors_of(save(path, tags=[["a", "b"]], v=[LISTS[0]]), column="tags")
    np.testing.assert_array_equal(vectors_of(path), VECTORS[:1])
    with pytest.raises(InputError, match="no vector column named 'v'"):
        vectors_of(save(path, v=pa.array([b"\x80\x04\x95" + bytes(80)])), column="v")
    with pytest.raises(InputError, match="no column that holds vectors"):
        vectors_of(save(path, digest=pa.array([bytes(range(100, 132))]), flag=[True]))


def test_columns_of_one_name(tmp_path: Path) -> None:
    """Only where one of them is used."""
    table = pa.table([pa.array(LISTS), pa.array(range(ROWS)), pa.array(range(ROWS))], names=["v", "x", "x"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(InputError, match="several columns named 'x'"):
        vectors_of(tmp_path / "a.parquet")
    store = open_store(tmp_path / "a.parquet", reading=ReadOptions(wanted=frozenset()))
    np.testing.assert_array_equal(next(store.batches()).vectors, VECTORS)


def test_slices_of_runs_begin_where_they_should() -> None:
    runs = pc.run_end_encode(pa.array([1, 1, 2]))
    assert runs.slice(1).to_pylist() == [1, 2]
    table = pa.table({"v": pa.RunEndEncodedArray.from_arrays(pa.array([2, 3], pa.int32()), pa.array(LISTS[:2]))})
    (layout,) = layouts(table.schema)
    array, places, faults = layout.numbers(table.slice(1), WIDTH)
    assert places == [0, 1] and not faults
    np.testing.assert_array_equal(array, VECTORS[[0, 1]])
