"""Damaged files through every reader: each is read or refused with an InputError; one JSON line.

    python -m benchmarks.robustness.fuzz_readers --count 100000 --seed 0 --out docs/results/fuzz.json

Small good files of every format are mutated (bytes flipped, cut out, inserted, repeated, the end cut off) and read; a
part of those that can be streamed passes through standard input, and every second file is read with bad rows skipped.
`fuzzing.py` says how they are tried and what the line holds.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import io
import json
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import zstandard

from benchmarks.robustness import fuzzing
from benchmarks.robustness.fuzzing import Case, Fuzzer, mutate
from unembed.stores.opening import STREAMS, read_vectors

ROWS, DIMENSION = 12, 8


def samples(seed: int = 0) -> dict[str, bytes]:
    """Return good files by name, the ending of which is the format's: all formats, several layouts of each."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from safetensors.numpy import save

    vectors = np.random.default_rng(seed).normal(size=(ROWS, DIMENSION)).astype(np.float32)
    small = np.clip(vectors * 40, -128, 127).astype(np.int8)
    ids = [f"r{i}" for i in range(ROWS)]
    lists = pa.table({"id": ids, "n": list(range(ROWS)), "v": pa.array(vectors.tolist(), pa.list_(pa.float32()))})
    fixed = lists.set_column(2, "v", pa.array(vectors.tolist(), pa.list_(pa.float32(), DIMENSION)))
    found: dict[str, bytes] = {}

    def arrow(table: Any, stream: bool, **options: Any) -> bytes:
        sink = io.BytesIO()
        make = pa.ipc.new_stream if stream else pa.ipc.new_file
        with make(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
            writer.write_table(table, max_chunksize=5)
        return sink.getvalue()

    def parquet(table: Any, **options: Any) -> bytes:
        sink = io.BytesIO()
        pq.write_table(table, sink, row_group_size=5, **options)
        return sink.getvalue()

    def numpy(save_into: Any, *args: Any, **arrays: Any) -> bytes:
        sink = io.BytesIO()
        save_into(sink, *args, **arrays)
        return sink.getvalue()

    found["float.npy"] = numpy(np.save, vectors)
    found["byte.npy"] = numpy(np.save, small)
    found["half.npy"] = numpy(np.save, np.asfortranarray(vectors.astype(np.float16)))
    found["plain.npz"] = numpy(np.savez, v=vectors, ids=np.array(ids))
    found["packed.npz"] = numpy(np.savez_compressed, v=small, scale=np.ones(ROWS, np.float32))
    found["a.safetensors"] = save({"v": vectors, "ids": np.arange(ROWS)})
    found["list.parquet"] = parquet(lists)
    found["fixed.parquet"] = parquet(fixed, compression="zstd", use_dictionary=False)
    found["file.arrow"] = arrow(lists, False)
    found["fixed.feather"] = arrow(fixed, False, compression="lz4")
    found["stream.ipc"] = arrow(fixed, True, compression="zstd")
    found["list.ipc"] = arrow(lists, True)
    shared = pa.DictionaryArray.from_arrays(pa.array([0] * ROWS), pa.array(vectors[:1].tolist()))
    view = pa.array(vectors.tolist(), pa.list_view(pa.float32()))
    nested = pa.StructArray.from_arrays([lists["v"].combine_chunks(), pa.array(ids)], ["dense", "t"])
    counted = {f"e{i}": vectors[:, i] for i in (0, 1, *range(DIMENSION - 1, 1, -1))}
    found["view.arrow"] = arrow(pa.table({"id": ids, "v": view}), False, compression="zstd")
    found["shared.arrow"] = arrow(pa.table({"id": pa.array(ids).dictionary_encode(), "v": shared}), False)
    found["struct.parquet"] = parquet(pa.table({"point": nested, "raw": [i.encode() for i in ids]}), version="1.0")
    found["wide.parquet"] = parquet(pa.table({"id": ids, **counted}), data_page_version="2.0", compression="gzip")
    found["text.parquet"] = parquet(pa.table({"v": [str(v) for v in vectors.tolist()]}), compression="none")
    found["one.npz"] = numpy(np.savez, v=np.asfortranarray(vectors)[:, None], ids=np.array(ids, "S"))
    lengths = np.full((ROWS, 1), DIMENSION, np.int32)
    found["a.fvecs"] = np.hstack([lengths.view(np.float32), vectors]).tobytes()
    found["a.bvecs"] = np.hstack([lengths.view(np.uint8).reshape(ROWS, 4), small.view(np.uint8)]).tobytes()
    rows = [{"id": i, "v": v} for i, v in zip(ids, vectors.tolist(), strict=True)]
    found["a.jsonl"] = "\n".join(map(json.dumps, rows)).encode()
    found["list.jsonl"] = "\n".join(map(json.dumps, vectors.tolist())).encode()
    found["cell.csv"] = "\n".join(["id,v", *(f'{r["id"]},"{r["v"]}"' for r in rows)]).encode()
    head = "\t".join(["id", *(f"e{i}" for i in range(DIMENSION))])
    wide = ["\t".join([str(row["id"]), *map(str, v)]) for row, v in zip(rows, vectors.tolist(), strict=True)]
    found["wide.tsv"] = "\n".join([head, *wide]).encode()
    texts = ['"a', 'b "c"', "d,\ne", ""] * 3
    cells = list(zip(ids, texts, vectors.tolist(), strict=True))
    found["quotes.csv"] = "".join(f'{i},"{t.replace(chr(34), chr(34) * 2)}","{v}"\n' for i, t, v in cells).encode()
    found["quotes.tsv"] = "".join(["id\tt\tv\n", *(f"{i}\t{t.strip()[:2]}\t{v}\n" for i, t, v in cells)]).encode()
    found["comma.csv"] = "\n".join(";".join(map(str, v)).replace(".", ",") for v in vectors.tolist()).encode()
    found["blanks.csv"] = "\n".join(["# made by hand", *(" ".join(map(str, v)) for v in vectors.tolist())]).encode()
    found["numpy.csv"] = "".join(f'{i},"{v}"\n' for i, v in zip(ids, vectors, strict=True)).encode()
    found["wide.csv"] = "\n".join([head, *wide]).replace("\t", ",").encode("utf-16")
    found["array.json"] = json.dumps(rows, indent=1).encode()
    found["batch.jsonl"] = "\n".join(
        json.dumps({"custom_id": i, "response": {"body": {"data": [{"embedding": str(v)}]}}}) for i, _, v in cells
    ).encode()
    found["chroma.json"] = json.dumps({"ids": ids, "embeddings": vectors.tolist(), "documents": texts}).encode()
    coded = [base64.b64encode(v.astype("<f8").tobytes()).decode() for v in vectors]
    found["coded.jsonl"] = "\n".join(json.dumps([i, v]) for i, v in zip(ids, coded, strict=True)).encode()
    found["packed.jsonl"] = gzip.compress(found["a.jsonl"])
    found["packed.csv"] = zstandard.ZstdCompressor().compress(found["cell.csv"])
    found["packed.fvecs"] = gzip.compress(found["a.fvecs"])
    return found


@contextlib.contextmanager
def as_stdin(path: Path) -> Iterator[None]:
    """Let a file pass through standard input."""
    before = sys.stdin
    with open(path, encoding="utf-8") as sys.stdin:
        try:
            yield
        finally:
            sys.stdin = before


def attempt(path: Path, skip: bool, stream: bool = False) -> str:
    """Read a file in whole.

    Args:
        path: the file.
        skip: leave bad rows out.
        stream: read it as standard input, where its format can be.

    Returns:
        "read"; whatever goes wrong is raised.
    """
    kind = path.suffix[1:]
    source: str | Path = path
    with contextlib.ExitStack() as stack:
        if stream and kind in STREAMS:
            stack.enter_context(as_stdin(path))
            source = "-"
        more = {"kind": kind} if source == "-" else {}
        for batch in read_vectors(source, batch=5, on_bad=(lambda row: None) if skip else None, **more):
            if not np.isfinite(batch.vectors).all() or not len(batch):
                raise AssertionError("a batch is empty or holds NaN")
    return "read"


class Readers(Fuzzer):
    """Files of vectors, through the readers."""

    benchmark, memory = "fuzz_readers", 2048

    def case(self, index: int, seed: int) -> Case:
        """Return damaged file number `index`; the formats come in turn."""
        good = _good(seed)
        name, data = good[index % len(good)]
        return Case(Path(name).suffix, name, mutate(data, np.random.default_rng([seed, index])))

    def rehearse(self, folder: Path, seed: int) -> None:
        """Read the good files."""
        for name, data in _good(seed):
            (folder / name).write_bytes(data)
            attempt(folder / name, False)

    def attempt(self, case: Case, index: int, folder: Path) -> str:
        """Read a file."""
        path = folder / case.name
        path.write_bytes(case.data)
        return attempt(path, index % 2 == 1, index % 5 == 0)


@lru_cache(maxsize=1)
def _good(seed: int) -> list[tuple[str, bytes]]:
    return list(samples(seed).items())


READERS = Readers()

if __name__ == "__main__":
    fuzzing.main(READERS, __doc__)
