"""Damaged files through every reader: each is read or refused with an InputError; one JSON line.

    python benchmarks/fuzz_readers.py --count 100000 --seed 0

Small good files of every format are mutated (bytes flipped, cut out, inserted, repeated, the end cut off) and read.
The line counts what was read and what was refused, names the slowest file, and keeps the first files that ended in
another exception under --keep; the exit code is then 1. A crash of a library would end the script itself: the mutation
that is tried at the moment lies in the temporary folder that it prints on stderr.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from unembed.errors import InputError
from unembed.stores.files import read_vectors

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
    found["plain.npz"] = numpy(np.savez, v=vectors, ids=np.array(ids))
    found["packed.npz"] = numpy(np.savez_compressed, v=small, scale=np.ones(ROWS, np.float32))
    found["a.safetensors"] = save({"v": vectors, "ids": np.arange(ROWS)})
    found["list.parquet"] = parquet(lists)
    found["fixed.parquet"] = parquet(fixed, compression="zstd", use_dictionary=False)
    found["file.arrow"] = arrow(lists, False)
    found["fixed.feather"] = arrow(fixed, False, compression="lz4")
    found["stream.ipc"] = arrow(fixed, True, compression="zstd")
    found["list.ipc"] = arrow(lists, True)
    rows = [{"id": i, "v": v} for i, v in zip(ids, vectors.tolist(), strict=True)]
    found["a.jsonl"] = "\n".join(map(json.dumps, rows)).encode()
    found["cell.csv"] = "\n".join(["id,v", *(f'{r["id"]},"{r["v"]}"' for r in rows)]).encode()
    head = "\t".join(["id", *(f"e{i}" for i in range(DIMENSION))])
    wide = ["\t".join([str(row["id"]), *map(str, v)]) for row, v in zip(rows, vectors.tolist(), strict=True)]
    found["wide.tsv"] = "\n".join([head, *wide]).encode()
    return found


def mutate(data: bytes, generator: np.random.Generator) -> bytes:
    """Return the bytes with one to four mutations."""
    part = bytearray(data)
    for _ in range(int(generator.integers(1, 5))):
        if not part:
            break
        at = int(generator.integers(len(part)))
        length = int(generator.integers(1, 17))
        kind = int(generator.integers(7))
        if kind == 0:
            part[at] ^= 1 << int(generator.integers(8))
        elif kind == 1:
            part[at : at + length] = generator.bytes(length)
        elif kind == 2:
            del part[at:]
        elif kind == 3:
            del part[at : at + length]
        elif kind == 4:
            part[at:at] = generator.bytes(length)
        elif kind == 5:
            part[at:at] = part[at : at + 8 * length]
        else:
            part[at : at + length] = bytes([int(generator.choice([0, 127, 255]))]) * length
    return bytes(part)


def mutations(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Yield `count` damaged files as (name, bytes), the formats in turn."""
    generator = np.random.default_rng(seed)
    good = list(samples(seed).items())
    for index in range(count):
        name, data = good[index % len(good)]
        yield name, mutate(data, generator)


def attempt(path: Path, skip: bool) -> str:
    """Read a file in whole.

    Returns:
        "read" or "refused"; whatever is not an InputError is raised.
    """
    try:
        for batch in read_vectors(path, batch=5, on_bad=(lambda row: None) if skip else None):
            if not np.isfinite(batch.vectors).all() or not len(batch):
                raise AssertionError("a batch is empty or holds NaN")
    except InputError as error:
        if not (error.what.endswith(".") and error.do.endswith(".")):
            raise AssertionError(f"these are not two sentences: {error}") from error
        return "refused"
    return "read"


def main() -> None:
    """Parse the options, try the files, print; exit 1 where one ended in another exception."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for files that ended in another exception")
    args = parser.parse_args()
    counts: dict[str, dict[str, int]] = {}
    failures: list[dict[str, str]] = []
    slowest = (0.0, "")
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        print(folder, file=sys.stderr)
        for index, (name, data) in enumerate(mutations(args.count, args.seed)):
            path = Path(folder) / name
            path.write_bytes(data)
            start = time.perf_counter()
            try:
                outcome = attempt(path, skip=index % 2 == 1)
            except Exception as error:
                outcome = "failed"
                failures.append({"file": f"{index}-{name}", "error": f"{type(error).__name__}: {error}"[:300]})
                if args.keep is not None and len(failures) <= 100:
                    args.keep.mkdir(parents=True, exist_ok=True)
                    (args.keep / f"{index}-{name}").write_bytes(data)
            slowest = max(slowest, (time.perf_counter() - start, f"{index}-{name}"))
            row = counts.setdefault(path.suffix, {"read": 0, "refused": 0, "failed": 0})
            row[outcome] += 1
    total = {key: sum(row[key] for row in counts.values()) for key in ("read", "refused", "failed")}
    print(
        json.dumps(
            {
                "benchmark": "fuzz_readers",
                "count": args.count,
                "seed": args.seed,
                **total,
                "formats": counts,
                "failures": failures[:20],
                "slowest_seconds": round(slowest[0], 3),
                "slowest": slowest[1],
                "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
                "seconds": round(time.perf_counter() - began, 1),
            }
        )
    )
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
