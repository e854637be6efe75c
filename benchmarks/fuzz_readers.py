"""Damaged files through every reader: each is read or refused with an InputError; one JSON line.

    python benchmarks/fuzz_readers.py --count 100000 --seed 0 --out docs/results/fuzz.json

Small good files of every format are mutated (bytes flipped, cut out, inserted, repeated, the end cut off) and read; a
part of those that can be streamed passes through standard input, and every second file is read with bad rows skipped.
A worker process reads many files, in an address space that is bounded to --memory MiB above what it takes to read the
good files. Where it dies or needs more than --patience seconds for a file, that file has failed and a new worker goes
on behind it. The line counts what was read, refused and failed; failed files are kept under --keep, exit code 1.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import resource
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unembed.errors import InputError
from unembed.stores.files import STREAMS, read_vectors

ROWS, DIMENSION = 12, 8
OUTCOMES = ("read", "refused", "failed")
WORKER = (sys.executable, __file__, "--worker")


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
    rows = [{"id": i, "v": v} for i, v in zip(ids, vectors.tolist(), strict=True)]
    found["a.jsonl"] = "\n".join(map(json.dumps, rows)).encode()
    found["list.jsonl"] = "\n".join(map(json.dumps, vectors.tolist())).encode()
    found["cell.csv"] = "\n".join(["id,v", *(f'{r["id"]},"{r["v"]}"' for r in rows)]).encode()
    head = "\t".join(["id", *(f"e{i}" for i in range(DIMENSION))])
    wide = ["\t".join([str(row["id"]), *map(str, v)]) for row, v in zip(rows, vectors.tolist(), strict=True)]
    found["wide.tsv"] = "\n".join([head, *wide]).encode()
    return found


def mutate(data: bytes, generator: np.random.Generator) -> bytes:
    """Return the bytes with one to four mutations, most often one."""
    part = bytearray(data)
    for _ in range(int(generator.choice([1, 1, 1, 2, 3, 4]))):
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


def mutation(index: int, seed: int, good: Sequence[tuple[str, bytes]]) -> tuple[str, bytes]:
    """Return damaged file number `index` as (name, bytes); the formats come in turn."""
    name, data = good[index % len(good)]
    return name, mutate(data, np.random.default_rng([seed, index]))


def mutations(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Yield `count` damaged files as (name, bytes)."""
    good = list(samples(seed).items())
    for index in range(count):
        yield mutation(index, seed, good)


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
        "read" or "refused"; whatever is not an InputError is raised.
    """
    kind = path.suffix[1:]
    source: str | Path = path
    with contextlib.ExitStack() as stack:
        if stream and kind in STREAMS:
            stack.enter_context(as_stdin(path))
            source = "-"
        try:
            more = {"kind": kind} if source == "-" else {}
            for batch in read_vectors(source, batch=5, on_bad=(lambda row: None) if skip else None, **more):
                if not np.isfinite(batch.vectors).all() or not len(batch):
                    raise AssertionError("a batch is empty or holds NaN")
        except InputError as error:
            if not (error.what.endswith(".") and error.do.endswith(".")):
                raise AssertionError(f"these are not two sentences: {error}") from error
            return "refused"
    return "read"


def try_files(first: int, count: int, seed: int, folder: Path) -> Iterator[dict[str, Any]]:
    """Read the files first, first + 1, ... below `count` in this process; yield {index, name, outcome, seconds, ...}.

    A record without an outcome comes before each file is read, so that one knows which file killed the process.
    """
    good = list(samples(seed).items())
    for index in range(first, count):
        name, data = mutation(index, seed, good)
        path = folder / name
        path.write_bytes(data)
        record: dict[str, Any] = {"index": index, "name": name}
        yield record
        before, start = peak_mib(), time.perf_counter()
        try:
            outcome = {"outcome": attempt(path, index % 2 == 1, index % 5 == 0)}
        except Exception as error:
            outcome = {"outcome": "failed", "error": f"{type(error).__name__}: {error}"[:300]}
        seconds = time.perf_counter() - start
        yield {**record, **outcome, "seconds": seconds, "peak": peak_mib(), "grown": peak_mib() - before}


def peak_mib() -> float:
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def work(first: int, count: int, seed: int, memory: int, folder: Path) -> None:
    """Be a worker: read the good files, bound the memory, then print a JSON line before and after each file."""
    for name, data in samples(seed).items():
        (folder / name).write_bytes(data)
        attempt(folder / name, False)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (size + memory * 2**20,) * 2)
    for record in try_files(first, count, seed, folder):
        print(json.dumps(record), flush=True)


def watch(args: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    """Let workers read all files; yield the final record of each, also of those that a worker died of."""
    first = 0
    while first < args.count:
        options = ("--first", first, "--count", args.count, "--seed", args.seed, "--memory", args.memory)
        command = [*WORKER, *map(str, options), "--folder", str(folder)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as worker:
            assert worker.stdout is not None
            record: dict[str, Any] = {"index": first, "name": "the good files"}
            rest, hung = b"", False
            while True:
                if not select.select([worker.stdout], [], [], args.patience)[0]:
                    worker.kill()
                    hung = True
                data = os.read(worker.stdout.fileno(), 1 << 16)
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    record = json.loads(line)
                    if "outcome" in record:
                        yield record
                if not data:
                    break
        if "outcome" not in record or record["index"] + 1 < args.count:
            what = f"no answer in {args.patience} seconds" if hung else f"the worker ended with {worker.returncode}"
            if "outcome" in record:
                record = {"index": record["index"] + 1, "name": "unknown"}
            yield {**record, "outcome": "failed", "error": what, "seconds": float(args.patience) if hung else 0.0}
        first = record["index"] + 1


def report(args: argparse.Namespace, records: Iterator[dict[str, Any]]) -> dict[str, Any]:
    """Count outcomes by format, keep failed files, note the slowest file and the one that memory grew most by."""
    counts: dict[str, dict[str, int]] = {}
    failures: list[dict[str, Any]] = []
    good = list(samples(args.seed).items())
    slowest, greediest, peak, seen = (0.0, ""), (0.0, ""), 0.0, 0
    began = time.perf_counter()
    for record in records:
        name = f"{record['index']}-{record['name']}"
        row = counts.setdefault(Path(good[record["index"] % len(good)][0]).suffix, dict.fromkeys(OUTCOMES, 0))
        row[record["outcome"]] += 1
        seen += 1
        slowest = max(slowest, (record["seconds"], name))
        peak = max(peak, record.get("peak", 0.0))
        if record["index"] >= len(good):  # the first file of a kind makes the libraries take their memory
            greediest = max(greediest, (record.get("grown", 0.0), name))
        if record["outcome"] == "failed":
            failures.append({"file": name, "error": record["error"]})
            if args.keep is not None and len(failures) <= 100:
                args.keep.mkdir(parents=True, exist_ok=True)
                (args.keep / name).write_bytes(mutation(record["index"], args.seed, good)[1])
    return {
        "benchmark": "fuzz_readers",
        "count": seen,
        "seed": args.seed,
        "memory_limit_mib": args.memory,
        "patience_seconds": args.patience,
        **{key: sum(row[key] for row in counts.values()) for key in OUTCOMES},
        "formats": counts,
        "failures": failures[:20],
        "slowest_seconds": round(slowest[0], 3),
        "slowest": slowest[1],
        "peak_mib": round(peak, 1),
        "most_grown_mib": round(greediest[0], 1),
        "most_grown": greediest[1],
        "seconds": round(time.perf_counter() - began, 1),
    }


def main() -> None:
    """Parse the options, try the files, print; exit 1 where one ended in another exception."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for files that failed")
    parser.add_argument("--out", type=Path, help="also write the line to this file, indented")
    parser.add_argument("--memory", type=int, default=512, help="MiB of address space beyond the good files'")
    parser.add_argument("--patience", type=float, default=10.0, help="seconds for a file")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--first", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args.first, args.count, args.seed, args.memory, args.folder)
        return
    with tempfile.TemporaryDirectory() as folder:
        found = report(args, watch(args, Path(folder)))
    print(json.dumps(found))
    if args.out is not None:
        args.out.write_text(json.dumps(found, indent=2) + "\n")
    sys.exit(1 if found["failed"] or found["count"] != args.count else 0)


if __name__ == "__main__":
    main()
