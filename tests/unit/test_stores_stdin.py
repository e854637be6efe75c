"""Standard input and named pipes give what the file gives, and are never held whole."""

from __future__ import annotations

import io
import os
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from test_stores_more import rows_of, says, write

from unembed.errors import InputError
from unembed.stores.opening import open_store


class Once(io.RawIOBase):
    """Bytes that pass once, made while they are read; it counts them."""

    def __init__(self, parts: Iterator[bytes]) -> None:
        self._parts, self._rest, self.taken = parts, b"", 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._rest = self._rest or next(self._parts, b"")
        part, self._rest = self._rest[: len(buffer)], self._rest[len(buffer) :]
        buffer[: len(part)] = part
        self.taken += len(part)
        return len(part)


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> Callable[[Iterator[bytes]], Once]:
    def put(parts: Iterator[bytes]) -> Once:
        source = Once(parts)
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BufferedReader(source)))
        return source

    return put


@pytest.mark.parametrize("name", ["a.jsonl", "cell.csv", "a.npy", "file.arrow", "stream.ipc"])
def test_standard_input_gives_what_the_file_gives(tmp_path: Path, stdin: Any, name: str) -> None:
    vectors = np.random.default_rng(0).normal(size=(17, 5)).astype(np.float32)
    write(tmp_path / name, vectors, [f"r{i}" for i in range(17)], [f"text {i}" for i in range(17)])
    kind = {".feather": "arrow", ".ipc": "arrow"}.get(Path(name).suffix, Path(name).suffix[1:])
    whole = (tmp_path / name).read_bytes()
    for length in (1, 7, 10**6):
        stdin(iter([whole[i : i + length] for i in range(0, len(whole), length)]))
        got, ids, texts, _ = rows_of("-", kind=None if kind == "jsonl" else kind, batch=4)
        np.testing.assert_array_equal(got, rows_of(tmp_path / name)[0])
        assert (ids, texts) == rows_of(tmp_path / name)[1:3]
    stdin(iter([whole]))
    store = open_store("-", kind=kind)
    assert sum(map(len, store.batches(4))) == 17
    with pytest.raises(InputError, match=r"standard input can be read only once.*Save it to a file"):
        list(store.batches(4))


@pytest.mark.parametrize("kind", ["jsonl", "csv", "npy", "arrow"])
def test_standard_input_is_never_held_whole(stdin: Any, kind: str) -> None:
    rows, width = 20_000, 64
    line = ",".join(["0.125"] * width)
    if kind == "arrow":
        table = pa.table({"v": pa.FixedSizeListArray.from_arrays(pa.array(np.ones(rows * width, np.float32)), width)})
        sink = io.BytesIO()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=500)
        whole = sink.getvalue()
        parts: Iterator[bytes] = (whole[i : i + 4096] for i in range(0, len(whole), 4096))
    elif kind == "npy":
        head = io.BytesIO()
        np.lib.format.write_array_header_1_0(head, {"descr": "<f4", "fortran_order": False, "shape": (rows, width)})
        parts = (head.getvalue() if i < 0 else np.ones(width, "<f4").tobytes() for i in range(-1, rows))
    else:
        rows = 4000
        parts = ((f"[{line}]\n" if kind == "jsonl" else f"{line}\n").encode() for _ in range(rows))
    source = stdin(parts)
    tracemalloc.start()
    store = open_store("-", kind=kind)
    begin = source.taken
    total = sum(len(batch) for batch in store.batches(200))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == rows and source.taken > 1_500_000 and begin < source.taken / 5
    assert peak < 1_500_000, peak


def test_errors_of_standard_input(stdin: Any) -> None:
    for kind in ("jsonl", "csv", "npy", "arrow"):
        stdin(iter([]))
        says("-", kind=kind)
    stdin(iter([b"[1, 2]\n[1, 2\n"]))
    says("-", "Line 2 of standard input is not JSON")
    with pytest.raises(InputError, match="no format 'parquet'"):
        open_store("-", kind="parquet")
    array = io.BytesIO()
    np.save(array, np.ones((6, 3)))
    stdin(iter([array.getvalue()[:-30]]))
    says("-", "truncated", kind="npy")
    array = io.BytesIO()
    np.save(array, np.asfortranarray(np.ones((6, 3))))
    stdin(iter([array.getvalue()[:-30]]))
    says("-", "truncated", kind="npy")


def test_named_pipes_are_streams(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=lambda: path.write_text("[1, 2]\n[3, 4]\n"))
    writer.start()
    assert rows_of(path, kind="jsonl")[0].tolist() == [[1, 2], [3, 4]]
    writer.join()
