"""Damaged and hostile files: one InputError each, in bounded memory and time; a short fuzz over all formats."""

from __future__ import annotations

import io
import json
import sys
import time
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow.feather import write_feather

from benchmarks.robustness import fuzz_readers as fuzz
from benchmarks.robustness import fuzzing
from unembed.errors import InputError
from unembed.stores.opening import open_store, read_vectors

ENDINGS = ("npy", "npz", "safetensors", "parquet", "pq", "arrow", "feather", "ipc", "jsonl", "ndjson", "csv", "tsv")
MEMORY = 40 << 20  # bytes that a refusal may take


def says(path: Path, *parts: str, **options: Any) -> None:
    """Reading must end in one InputError of two sentences that names the file and holds the parts, in little memory."""
    tracemalloc.start()
    try:
        with pytest.raises(InputError) as caught:
            list(read_vectors(path, batch=4, **options))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    error = caught.value
    assert path.name in error.what and error.what.endswith(".") and error.do.endswith("."), error
    assert "\n" not in str(error) and len(str(error)) < 600
    for part in parts:
        assert part in str(error), str(error)
    assert peak < MEMORY, peak


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_empty_file(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    path.write_bytes(b"")
    says(path, "empty")
    says(path, "empty", on_bad=print)


def test_a_file_without_rows(tmp_path: Path) -> None:
    nothing = np.zeros((0, 4), np.float32)
    np.save(tmp_path / "a.npy", nothing)
    np.savez(tmp_path / "a.npz", v=nothing)
    table = pa.table({"v": pa.array([], pa.list_(pa.float32()))})
    pq.write_table(table, tmp_path / "a.parquet")
    write_feather(table, tmp_path / "a.arrow")
    (tmp_path / "a.csv").write_text("id,v\n")
    (tmp_path / "a.jsonl").write_text("\n\n")
    for path in sorted(tmp_path.iterdir()):
        says(path, "no rows")


def test_csv_that_is_ragged_or_not_numeric(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("id,e0,e1\na,1,2\nb,1\n")
    says(path, "Line 3", "2 fields; the first line has 3")
    path.write_text("1,2,3\n1,2\n")
    says(path, "Line 2", "2 fields")
    path.write_text("id,e0,e1\na,1,2\nb,1,x\n")
    says(path, "Line 3", "'e1'", "not a number")
    path.write_text('id,v\na,"[1, 2]"\nb,"[1, 2, 3]"\n')
    says(path, "Line 3", "dimension 3", "the first has 2")
    path.write_text("id,text\na,b\n")
    says(path, "no column that holds vectors", "id, text")
    says(path, "no vector column named 'v'", column="v")
    path.write_bytes(b"id,v\na,\xff\xfe\n")
    says(path, r"Column 'v' begins with '\\xff\\xfe'")


def test_a_missing_column(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", v=np.ones((2, 3)))
    pq.write_table(pa.table({"v": [[1.0, 2.0]]}), tmp_path / "a.parquet")
    write_feather(pa.table({"v": [[1.0, 2.0]]}), tmp_path / "a.arrow")
    (tmp_path / "a.jsonl").write_text('{"v": [1, 2]}\n')
    for path in sorted(tmp_path.iterdir()):
        says(path, "no vector column named 'w'", "v (", "--column", column="w")
        says(path, "no column named 'key'", "--id-column", id_column="key")
    np.save(tmp_path / "a.npy", np.ones((2, 3)))
    says(tmp_path / "a.npy", "no named columns", column="w")


def test_mixed_dimensions(tmp_path: Path) -> None:
    lists = [[1.0, 2.0], [3.0, 4.0], [5.0]]
    write_feather(pa.table({"v": lists}), tmp_path / "a.arrow")
    pq.write_table(pa.table({"v": lists}), tmp_path / "a.parquet")
    for path in sorted(tmp_path.iterdir()):
        says(path, "Row 2", "dimension 1", "'v'")
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lists)))
    says(tmp_path / "a.jsonl", "Line 3", "dimension 1")


class Bomb:
    """Writes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return Path(self.path).touch, ()  # type: ignore[return-value]


def test_object_arrays_are_never_unpickled(tmp_path: Path) -> None:
    hit = tmp_path / "hit"
    array = np.array([[Bomb(hit)]], dtype=object)
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    np.savez(tmp_path / "a.npz", v=array)
    np.savez(tmp_path / "b.npz", v=np.ones((1, 2)), ids=array[0])
    says(tmp_path / "a.npy", "type object")
    says(tmp_path / "a.npz", "pickled", "'v'")
    says(tmp_path / "a.npz", "pickled", column="v")
    assert len(list(read_vectors(tmp_path / "b.npz"))) == 1, "an array that is not asked for is not touched"
    says(tmp_path / "b.npz", "no column named 'ids'", id_column="ids")
    assert not hit.exists()


def test_every_truncation_is_an_error_or_whole_rows(tmp_path: Path) -> None:
    for name, data in fuzz.samples().items():
        path = tmp_path / name
        for cut in range(0, len(data) - 1, max(1, len(data) // 40)):
            path.write_bytes(data[:cut])
            try:
                outcome = fuzz.attempt(path, skip=False)
            except InputError:
                outcome = "refused"
            rest = path.suffix in (".fvecs", ".bvecs", ".jsonl", ".csv", ".tsv", ".ipc")  # these may end behind any row
            assert outcome == "refused" or rest, f"{name} cut at {cut} of {len(data)}"


def header(shape: tuple[int, ...], descr: str = "<f4") -> bytes:
    """The header of a .npy array."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": descr, "fortran_order": False, "shape": shape})
    return stream.getvalue()


@pytest.mark.parametrize("shape", [(10**12, 4), (10**30, 4), (4, 10**12), (10**12,), (10**12, 10**12), (2**62, 2**3)])
def test_headers_that_announce_too_much(tmp_path: Path, shape: tuple[int, ...]) -> None:
    data = header(shape) + bytes(64)
    (tmp_path / "a.npy").write_bytes(data)
    says(tmp_path / "a.npy")
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(tmp_path / "a.npz", "w", method) as archive:
            archive.writestr("v.npy", data)
        says(tmp_path / "a.npz")
        with zipfile.ZipFile(tmp_path / "b.npz", "w", method) as archive:
            archive.writestr("v.npy", data)
            archive.filelist[0].file_size = min(4 * int(np.prod(shape, dtype=object)) + len(data) - 64, 2**63)
        says(tmp_path / "b.npz")


def test_a_long_header_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x02\x00" + (2**32 - 1).to_bytes(4, "little") + b" " * 100)
    says(tmp_path / "a.npy", "the header has 4294967295 bytes")


def test_a_zip_bomb_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    rows = (1 << 16) + 1
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("v.npy", "w") as out,
    ):
        out.write(header((rows, 256)))
        for _ in range(rows // 1024):
            out.write(bytes(1 << 20))
        out.write(bytes(1024))
    began = time.perf_counter()
    says(path, "zip bomb")
    assert time.perf_counter() - began < 0.5


def test_a_long_line_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("inputs", "text.documents"):
        monkeypatch.setattr(f"unembed.stores.{module}.MAX_LINE", 1000)
    for ending in ("jsonl", "csv"):
        (tmp_path / f"a.{ending}").write_text("1," * 5000)
        says(tmp_path / f"a.{ending}", "Line 1", "longer than 1000")


def test_numbers_and_nestings_beyond_reason(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    for line in (f"[1, {10**400}]", f"[1, 1{'0' * 5000}]", "[" * 100_000, "[1e400, 2]", '{"v": [1, "2"]}'):
        path.write_text(f"[1, 2]\n{line}\n")
        says(path)
        left = [row for batch in read_vectors(path, on_bad=lambda row: None) for row in batch.vectors.tolist()]
        assert left == [[1, 2]]


def test_gigabytes_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=(524_288, 384))  # 400 MB, sparse
    array[-1] = 1
    del array
    tracemalloc.start()
    count, last = 0, None
    for batch in read_vectors(path, batch=2048):
        count, last = count + len(batch), batch.vectors[-1, -1]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 524_288 and last == 1
    assert peak < 20 << 20, peak


def test_wide_rows_make_small_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unembed.stores.arrays.npy.READ_BYTES", 1 << 12)
    np.save(tmp_path / "a.npy", np.ones((10, 256), np.float32))
    assert [len(batch) for batch in read_vectors(tmp_path / "a.npy")] == [4, 4, 2]


def test_damage_in_the_middle_of_a_file(tmp_path: Path) -> None:
    data = bytearray(fuzz.samples()["plain.npz"])
    at = data.index(b"v.npy") + 128 + 60
    data[at] ^= 255
    (tmp_path / "a.npz").write_bytes(data)
    says(tmp_path / "a.npz", "CRC")


def test_names_of_columns_that_are_not_text(tmp_path: Path) -> None:
    """Found by the fuzz script: pyarrow decodes the names of columns when they are asked for, and fails then."""
    for write, ending in ((pa.ipc.new_file, "arrow"), (pa.ipc.new_stream, "ipc")):
        sink = io.BytesIO()
        table = pa.table({"name": ["a"], "v": [[1.0, 2.0]]})
        with write(sink, table.schema) as writer:
            writer.write_table(table)
        path = tmp_path / f"a.{ending}"
        path.write_bytes(sink.getvalue().replace(b"name", b"n\xffme"))
        says(path, "cannot be read", "utf-8")


def test_mutated_files_are_read_or_refused(tmp_path: Path) -> None:
    """500 files in this process; the fuzzer did the same with 100,000 (docs/results/fuzz.json)."""
    outcomes = {"read": 0, "refused": 0}
    for record in fuzzing.try_cases(fuzz.READERS, 0, 500, 3, tmp_path):
        if "outcome" in record:
            assert record["outcome"] in outcomes and record["seconds"] < 5, record
            outcomes[record["outcome"]] += 1
    assert sum(outcomes.values()) == 500 and min(outcomes.values()) > 25, outcomes


def run_fuzz(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *args: str
) -> tuple[int, dict[str, Any]]:
    """Run the script; return its exit code and its report."""
    monkeypatch.setattr(sys, "argv", ["fuzz_readers", *args])
    with pytest.raises(SystemExit) as end:
        fuzzing.main(fuzz.READERS, None)
    assert isinstance(end.value.code, int)
    return end.value.code, json.loads(capsys.readouterr().out)


def test_the_fuzz_script(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "fuzz.json"
    code, report = run_fuzz(monkeypatch, capsys, "--count", "32", "--seed", "5", "--out", str(out))
    assert code == 0 and report["count"] == 32 and report["failed"] == 0 and json.loads(out.read_text()) == report
    assert report["read"] + report["refused"] == 32 and set(report["formats"]) >= {".npy", ".arrow", ".parquet"}


@pytest.mark.parametrize(
    ("end", "error"),
    [
        ("raise SystemExit(3)", "ended with 3"),
        ("os.abort()", "ended with -6"),
        ("time.sleep(60)", "no answer in"),
    ],
)
def test_the_fuzz_script_notices_a_worker_that_dies_or_hangs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], end: str, error: str
) -> None:
    """Such a file has failed, and the files behind it are read all the same."""
    code = f"""
import json, os, sys, time
first, count = int(sys.argv[2]), int(sys.argv[4])
for index in range(first, count):
    print(json.dumps({{"index": index, "name": "half.npy"}}), flush=True)
    if index == 2:
        {end}
    print(json.dumps({{"index": index, "name": "half.npy", "outcome": "read", "seconds": 0.0}}), flush=True)
"""
    monkeypatch.setattr(type(fuzz.READERS), "worker", (sys.executable, "-c", code))
    exit_code, report = run_fuzz(monkeypatch, capsys, "--count", "5", "--patience", "1")
    assert exit_code == 1 and (report["count"], report["read"], report["failed"]) == (5, 4, 1)
    assert error in report["failures"][0]["error"] and report["failures"][0]["file"] == "2-half.npy"


def test_other_exceptions_are_failures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: Path, **options: Any) -> None:
        raise KeyError("oops")

    monkeypatch.setattr(fuzz, "read_vectors", broken)
    last = list(fuzzing.try_cases(fuzz.READERS, 0, 1, 0, tmp_path))[-1]
    assert last["outcome"] == "failed" and "KeyError" in last["error"]


def test_good_samples_are_read(tmp_path: Path) -> None:
    for name, data in fuzz.samples().items():
        (tmp_path / name).write_bytes(data)
        assert open_store(tmp_path / name).dimension == fuzz.DIMENSION
        assert fuzz.attempt(tmp_path / name, skip=False) == "read"
