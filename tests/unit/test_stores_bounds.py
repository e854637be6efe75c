"""Files of a few kilobytes that unfold to gigabytes: read a few rows at a time, or refused before they are unpacked.

Everything here is a hundredth of its size: READ_BYTES is 512 KiB and files would unfold to 6 MB. The slow test
does the same in real size, in a process of its own.
"""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unembed.errors import InputError
from unembed.stores.arrow.pages import _struct
from unembed.stores.opening import read_vectors

READ = 1 << 19
CELL, ROWS = 1 << 15, 200
ZEROS = np.zeros(ROWS, np.int32)
TEXT = "x" * CELL
Make = Callable[..., Path]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("slow") is None:
        for module in ("pages", "slices", "messages", "schema"):
            monkeypatch.setattr(f"unembed.stores.arrow.{module}.READ_BYTES", READ)


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Neither Python nor Arrow may take much inside."""
    before = pa.default_memory_pool()
    pool = pa.proxy_memory_pool(before)
    pa.set_memory_pool(pool)
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(before)
    assert peak < 8 * READ and pool.max_memory() < 16 * READ, (peak, pool.max_memory())


def vectors(rows: int = ROWS) -> Any:
    values = np.random.default_rng(0).normal(size=rows * 4).astype(np.float32)
    return pa.FixedSizeListArray.from_arrays(pa.array(values), 4)


def shared(*entries: Any, kind: Any = None) -> Any:
    """A dictionary column of `ROWS` rows that shows the first entry in each."""
    return pa.DictionaryArray.from_arrays(pa.array(ZEROS), pa.array(entries, kind))


def parquet(path: Path, **options: Any) -> Make:
    options = {"compression": "zstd", "store_schema": False, **options}

    def make(**columns: Any) -> Path:
        pq.write_table(pa.table(columns), path, **options)
        return path

    return make


def arrow(path: Path, stream: bool = False) -> Make:
    def make(**columns: Any) -> Path:
        table = pa.table(columns)
        open_ = pa.ipc.new_stream if stream else pa.ipc.new_file
        with open_(str(path), table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
            writer.write_table(table)
        return path

    return make


READABLE: dict[str, Callable[[Path], Path]] = {
    "text in a dictionary": lambda p: parquet(p / "a.parquet")(id=shared(TEXT), v=vectors()),
    "text in lists": lambda p: parquet(p / "a.parquet")(
        t=pa.ListArray.from_arrays(pa.array(range(ROWS + 1), pa.int32()), shared(TEXT)), v=vectors()
    ),
    "text in structs": lambda p: parquet(p / "a.parquet")(
        t=pa.StructArray.from_arrays([shared(TEXT)], ["a"]), v=vectors()
    ),
    "text after text": lambda p: parquet(
        p / "a.parquet", use_dictionary=False, column_encoding={"t": "DELTA_BYTE_ARRAY"}
    )(t=pa.array([f"{TEXT}{i}" for i in range(ROWS)]), v=vectors()),
    "one long row": lambda p: parquet(
        p / "a.parquet", use_dictionary=False, data_page_size=1 << 12, write_batch_size=1
    )(t=pa.array(["x"] * (ROWS - 8) + [TEXT * 4] * 8), v=vectors()),
    "a dictionary of Arrow": lambda p: arrow(p / "a.arrow")(id=shared(TEXT), v=vectors()),
    "bytes of Arrow": lambda p: arrow(p / "a.arrow")(id=shared(b"x" * CELL, kind=pa.binary(CELL)), v=vectors()),
    "runs of Arrow": lambda p: arrow(p / "a.arrow")(
        id=pa.RunEndEncodedArray.from_arrays(pa.array([ROWS], pa.int32()), pa.array([TEXT])), v=vectors()
    ),
}


@pytest.mark.parametrize("name", READABLE)
def test_cells_that_repeat_are_read_a_few_at_a_time(tmp_path: Path, name: str) -> None:
    path = READABLE[name](tmp_path)
    assert path.stat().st_size < 100_000
    with bounded():
        assert sum(len(batch) for batch in read_vectors(path)) == ROWS


def overlapping(length: int) -> Any:
    """Lists that all show the same numbers."""
    places, sizes = pa.array(ZEROS), pa.array(np.full(ROWS, length, np.int32))
    return pa.ListViewArray.from_arrays(places, sizes, pa.array(np.zeros(length, np.float32)))


REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "one vector": (
        lambda p: parquet(p / "a.parquet")(v=[[1.0, 2.0], [1.0] * (1 << 19), [3.0, 4.0]]),
        "unfolds .* bytes of column 'v' to .*, as a decompression bomb does",
    ),
    "one cell of text": (
        lambda p: parquet(p / "a.parquet", use_dictionary=False)(t=["a", "x" * (2 * READ)], v=vectors(2)),
        "holds a page or a cell of .* bytes in column 't'",
    ),
    "bytes of one length": (
        lambda p: parquet(p / "a.parquet")(t=shared(b"x" * CELL, kind=pa.binary(CELL)), v=vectors()),
        "holds cells of .* bytes in column 't'",
    ),
    "an entry of a dictionary": (
        lambda p: parquet(p / "a.parquet")(t=["a", "x" * (2 * READ)], v=vectors(2)),
        "holds a page or a cell of .* bytes in column 't'",
    ),
    "a record batch": (
        lambda p: arrow(p / "a.arrow")(t=["x" * (2 * READ)], v=vectors(1)),
        "unfolds a record batch of .* bytes to .*, as a decompression bomb does",
    ),
    "a record batch of a stream": (
        lambda p: arrow(p / "a.ipc", stream=True)(t=["x" * (2 * READ)], v=vectors(1)),
        "unfolds a record batch of .* bytes to .*, as a decompression bomb does",
    ),
    "a dictionary": (
        lambda p: arrow(p / "a.arrow")(t=shared("x" * (2 * READ)), v=vectors()),
        "unfolds a record batch of .* bytes to .*, as a decompression bomb does",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_unfolds_too_far_is_refused_unread(tmp_path: Path, name: str) -> None:
    make, message = REFUSED[name]
    path = make(tmp_path)
    with bounded(), pytest.raises(InputError, match=message) as caught:
        list(read_vectors(path))
    assert caught.value.do.endswith(".")


def test_a_pipe_is_looked_at_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = REFUSED["a record batch of a stream"][0](tmp_path)
    for made in (path, REFUSED["a record batch"][0](tmp_path)):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(made.read_bytes())))
        with pytest.raises(InputError, match="as a decompression bomb does"):
            list(read_vectors("-", kind="arrow"))


def test_lists_that_show_the_same_numbers(tmp_path: Path) -> None:
    """As vectors, few at a time; beside the vectors, refused where a batch of them is too much."""
    path = arrow(tmp_path / "a.arrow")(v=overlapping(CELL))
    with bounded():
        assert len(next(read_vectors(path))) <= READ // (4 * CELL)
    path = arrow(tmp_path / "b.arrow")(m=overlapping(CELL), v=vectors())
    with bounded():
        assert len(next(read_vectors(path, column="v"))) <= READ // (4 * CELL)


def test_rows_of_many_row_groups_come_in_batches_of_the_size_asked(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", row_group_size=3)(v=vectors(50))
    assert [len(batch) for batch in read_vectors(path, batch=7)] == [7] * 7 + [1]


@pytest.mark.parametrize(
    "data", [b"", b"\x15", b"\x15\xff", b"\x1c" * 40, b"\x18\xff\xff\x03", b"\x19\x00", b"\x15" + b"\xff" * 20]
)
def test_headers_that_are_damaged(data: bytes) -> None:
    with pytest.raises((ValueError, IndexError)):
        _struct(data, 0, 0)


def test_metadata_on_which_the_library_ends_the_process(tmp_path: Path) -> None:
    """Found by the fuzz script: a histogram of another length in the footer is an exception that nobody catches."""
    path = parquet(tmp_path / "a.parquet")(id=["a", "b"], v=pa.array([[1.0, 2.0], [3.0, 4.0]], pa.list_(pa.float32())))
    data = path.read_bytes()
    end = len(data) - 8
    length = int.from_bytes(data[end : end + 4], "little")
    at = data.rindex(b"\x19\x46", end - length, end) + 1  # the last list of four whole numbers gets a fifth
    longer = data[:at] + b"\x56\x00" + data[at + 1 : end] + (length + 1).to_bytes(4, "little") + b"PAR1"
    path.write_bytes(longer)
    code = "import sys; from unembed.stores.opening import read_vectors; next(read_vectors(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "InputError" in done.stderr and "histogram" in done.stderr, done.stderr


REAL = """
import resource, sys
import numpy, pyarrow.parquet
from unembed.errors import InputError
from unembed.stores.opening import read_vectors
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
try:
    for batch in read_vectors(sys.argv[1]):
        pass
except InputError as error:
    print(error.what)
print((peak() - before) >> 10)
"""


@pytest.mark.slow
def test_real_sizes_stay_below_two_gigabytes(tmp_path: Path) -> None:
    """Text of a mebibyte in 2,000 rows, a vector of 150 million numbers, a cell of 300 MiB."""
    long = "x" * (1 << 20)
    values = pa.array(np.ones(150_000_004, np.float32))
    made = [
        parquet(tmp_path / "shared.parquet")(t=shared(long), v=vectors()),
        parquet(tmp_path / "lists.parquet")(
            t=pa.ListArray.from_arrays(pa.array(range(ROWS + 1), pa.int32()), shared(long)), v=vectors()
        ),
        parquet(tmp_path / "vector.parquet")(v=pa.LargeListArray.from_arrays(pa.array([0, 4, 150_000_004]), values)),
        parquet(tmp_path / "cell.parquet", use_dictionary=False)(t=["a", "x" * (300 << 20)], v=vectors(2)),
        arrow(tmp_path / "batch.arrow")(t=["x" * (300 << 20)], v=vectors(1)),
    ]
    del values
    for path in made:
        assert path.stat().st_size < 200_000
        done = subprocess.run([sys.executable, "-c", REAL, str(path)], capture_output=True, text=True, env=os.environ)
        grown = int(done.stdout.splitlines()[-1])
        assert done.returncode == 0 and grown < 1024, (path.name, done.stdout, done.stderr)
