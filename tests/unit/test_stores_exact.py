"""Columns beside the vectors: only those that are used are read, and ids and texts keep their exact form."""

from __future__ import annotations

import datetime
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from unembed.errors import InputError
from unembed.stores.arrow.values import cells
from unembed.stores.opening import open_store, read_vectors
from unembed.stores.protocol import VectorBatch
from unembed.stores.reading import ReadOptions

UUID = uuid.UUID("12345678-1234-5678-9234-567812345678")
FAR = 10_000_000  # days after 1970, in a year that Python's dates do not have


def save(path: Path, **columns: Any) -> Path:
    """Write columns and two vectors as parquet, Arrow, npz or safetensors, by the ending."""
    if path.suffix == ".npz":
        np.savez(path, v=np.eye(2, dtype=np.float32), **columns)
    elif path.suffix == ".safetensors":
        save_file({"v": np.eye(2, dtype=np.float32), **columns}, path)
    else:
        table = pa.table({**columns, "v": [[1.0, 0.0], [0.0, 1.0]]})
        if path.suffix == ".parquet":
            pq.write_table(table, path)
        else:
            with pa.ipc.new_file(str(path), table.schema) as writer:
                writer.write_table(table)
    return path


def batch_of(path: Path, *wanted: str, id_column: str | None = None) -> VectorBatch:
    """Read the file as a command that uses some columns does."""
    store = open_store(path, id_column=id_column, reading=ReadOptions(wanted=frozenset(wanted)))
    (batch,) = store.batches(10)
    assert batch.vectors.tolist() == [[1, 0], [0, 1]]
    return batch


COLUMNS: dict[str, tuple[Any, list[Any]]] = {
    "uint64": (pa.array([2**64 - 1, 2**63], pa.uint64()), [2**64 - 1, 2**63]),
    "int64": (pa.array([2**63 - 1, None], pa.int64()), [2**63 - 1, None]),
    "decimal": (pa.array([Decimal("1.50"), Decimal(10) ** 20], pa.decimal128(38, 2)), ["1.50", "1" + "0" * 20 + ".00"]),
    "binary": (pa.array([b"doc-0", "süß".encode()]), ["doc-0", "süß"]),
    "large binary": (pa.array([b"doc-0", None], pa.large_binary()), ["doc-0", None]),
    "bytes": (pa.array([UUID.bytes, b"\x00\xff"]), [UUID.hex, "00ff"]),
    "fixed binary": (pa.array([b"ab\0\0", b"abcd"], pa.binary(4)), ["ab", "abcd"]),
    "uuid": (pa.array([UUID.bytes, None], pa.uuid()), [str(UUID), None]),
    "date": (pa.array([datetime.date(2024, 2, 29), None]), ["2024-02-29", None]),
    "far date": (pa.array([FAR, -FAR], pa.date32()), ["29349-01-26", "-25410-12-06"]),
    "timestamp": (pa.array([1_500_000, 0], pa.timestamp("us")), ["1970-01-01T00:00:01.500000", "1970-01-01T00:00:00"]),
    "nanoseconds": (
        pa.array([1, None], pa.timestamp("ns", "Europe/Paris")),
        ["1970-01-01T00:00:00.000000001+00:00", None],
    ),
    "far timestamp": (
        pa.array([2**62, 0], pa.timestamp("us")),
        ["148108-07-06T14:00:27.387904", "1970-01-01T00:00:00"],
    ),
    "time": (pa.array([3, None], pa.time64("ns")), ["00:00:00.000000003", None]),
    "interval": (
        pa.array([(1, 2, 3), None], pa.month_day_nano_interval()),
        ["MonthDayNano(months=1, days=2, nanoseconds=3)", None],
    ),
    "dictionary": (pa.array(["a", None]).dictionary_encode(), ["a", None]),
    "runs": (pc.run_end_encode(pa.array(["a", "a"])), ["a", "a"]),
    "lists": (pa.array([["a", "b"], None]), [["a", "b"], None]),
    "struct": (
        pa.array([{"n": FAR, "t": ["x"]}, None], pa.struct({"n": pa.date32(), "t": pa.list_(pa.string())})),
        [{"n": "29349-01-26", "t": ["x"]}, None],
    ),
    "map": (pa.array([[("k", 1)], []], pa.map_(pa.string(), pa.int8())), [[{"key": "k", "value": 1}], []]),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_ids_keep_their_exact_form(tmp_path: Path, name: str) -> None:
    column, expected = COLUMNS[name]
    assert cells(column) == expected
    assert cells(column.slice(1)) == expected[1:], "a slice begins elsewhere"
    stored = name not in ("runs", "interval")  # parquet has neither
    for ending in ("arrow", "parquet")[: 2 if stored else 1]:
        assert batch_of(save(tmp_path / f"a.{ending}", key=column)).ids == expected


@pytest.mark.parametrize("ending", ["arrow", "parquet"])
def test_text_that_is_no_utf8_condemns_nothing(tmp_path: Path, ending: str) -> None:
    offsets = pa.array([0, 5, 6], pa.int32()).buffers()[1]
    column = pa.StringArray.from_buffers(2, offsets, pa.py_buffer(b"caf\xe9!x"))
    assert batch_of(save(tmp_path / f"a.{ending}", id=column)).ids == [b"caf\xe9!".hex(), "x"]


@pytest.mark.parametrize("ending", ["parquet", "arrow", "npz", "safetensors"])
def test_only_columns_that_are_used_are_given(tmp_path: Path, ending: str) -> None:
    path = save(tmp_path / f"a.{ending}", id=np.array([7, 8]), a=np.array([1, 2]), b=np.array([3, 4]))
    assert batch_of(path).metadata == {}
    assert batch_of(path, "b").metadata == {"b": [3, 4]} and batch_of(path, "b").ids == [7, 8]
    assert set(next(read_vectors(path)).metadata) == {"a", "b"}, "the library gives all"
    for name in ("c", "id", "v"):
        with pytest.raises(InputError, match=f"no column named '{name}' besides ids and vectors [(]it has: "):
            batch_of(path, name)


def test_a_column_that_is_not_used_condemns_nothing(tmp_path: Path) -> None:
    """An odd date, and pages that cannot be read at all."""
    path = save(tmp_path / "a.parquet", id=pa.array(["a", "b"]), seen=pa.array([FAR, 0], pa.date32()), bad=["x", "y"])
    chunk = pq.ParquetFile(path).metadata.row_group(0).column(2)
    data = bytearray(path.read_bytes())
    begin = chunk.dictionary_page_offset
    data[begin : begin + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
    path.write_bytes(data)
    assert batch_of(path, "seen").metadata == {"seen": ["29349-01-26", "1970-01-01"]}
    assert batch_of(path).ids == ["a", "b"]
    with pytest.raises(InputError, match="cannot be read as parquet"):
        batch_of(path, "bad")
