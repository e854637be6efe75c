"""A million vectors through `unembed invert --strategy prior`: rows a second and memory, as a JSON file and a figure.

    python -m benchmarks.speed.stream_prior --shards data/test --folder /tmp/stream --out docs/results/stream-prior.json

Real vectors of --shards are drawn with the seed, perturbed and scaled to length 1 (random directions without --shards),
and written to a .npy and a .parquet file. The command line reads each as a process of its own. Its resident memory is
sampled ten times a second; the rows done by then follow from the bytes that it has written. `growth_mib` is the largest
sample behind the first tenth of the rows less the largest within it. `kept_mib`, which --most judges, compares two
stretches of the same work: the least of the last 30% of the rows less that of the 30% behind the first tenth, without
the pages of files. What a batch takes and gives back, or a library that is loaded at the end, does not move it; rows
that are kept do, by more than half of their size.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import machine
from unembed.files import write_json

RUNS = (("npy", "parquet"), ("parquet", "jsonl"))
# With these the allocators return what was freed, at some cost in time: one arena, no cache of free blocks, and Arrow's
# memory from malloc too. Without them, what is resident follows how free blocks happen to lie.
GIVE_BACK = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_TRIM_THRESHOLD_": "65536",
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "ARROW_DEFAULT_MEMORY_POOL": "system",
}
BLOCK = 8192


def blocks(count: int, dimension: int, shards: str | None, seed: int, noise: float) -> Iterator[np.ndarray]:
    """Yield `count` unit vectors (n, dimension) float32: perturbed real ones, or random directions."""
    generator = np.random.default_rng(seed)
    real = None
    if shards is not None:
        from unembed.data.shards import ShardDataset

        dataset = ShardDataset(shards)
        real = dataset.gather(np.arange(len(dataset)))[2]
        dimension = real.shape[1]
    for start in range(0, count, BLOCK):
        size = min(BLOCK, count - start)
        rows = generator.standard_normal((size, dimension), dtype=np.float32)
        if real is not None:
            rows = real[generator.integers(len(real), size=size)] + rows * np.float32(noise / dimension**0.5)
        yield rows / np.linalg.norm(rows, axis=1, keepdims=True)


def write_npy(path: Path, count: int, dimension: int, vectors: Iterator[np.ndarray]) -> None:
    """Write the vectors behind their header."""
    with open(path, "wb") as stream:
        np.lib.format.write_array_header_1_0(
            stream, {"descr": "<f4", "fortran_order": False, "shape": (count, dimension)}
        )
        for block in vectors:
            stream.write(np.ascontiguousarray(block, dtype="<f4").tobytes())


def write_parquet(path: Path, dimension: int, vectors: Iterator[np.ndarray]) -> None:
    """Write ids and vectors, a row group a block, not compressed."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([("id", pa.int64()), ("embedding", pa.list_(pa.float32(), dimension))])
    with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False) as writer:
        done = 0
        for block in vectors:
            values = pa.FixedSizeListArray.from_arrays(pa.array(block.reshape(-1)), dimension)
            writer.write_table(pa.table([pa.array(range(done, done + len(block))), values], schema=schema))
            done += len(block)


def resident_mib(pid: int) -> tuple[float, float] | None:
    """Resident memory of a process, in all and without the pages of files, in MiB; None where it has ended."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    values = {
        line.split(":")[0]: line.split()[1] for line in text.splitlines() if line.startswith(("VmRSS", "RssAnon"))
    }
    return (int(values["VmRSS"]) / 1024, int(values["RssAnon"]) / 1024) if "VmRSS" in values else None


def finished_bytes(out: Path) -> int:
    """Bytes of the chunks of finished rows, which grow beside the file until it is put together."""
    sizes = 0
    for path in Path(f"{out}.partial").glob("chunk-*"):
        with contextlib.suppress(OSError):  # the folder goes when the file is whole
            sizes += path.stat().st_size
    return sizes


def stream(
    source: Path, out: Path, count: int, model: str, batch: int, variables: dict[str, str], every: float = 0.1
) -> dict[str, Any]:
    """Run the command line over a file, with variables of its environment, and watch it."""
    command = [sys.executable, "-m", "unembed", "invert", str(source), "--model", model, "--strategy", "prior"]
    began, used, samples = time.perf_counter(), cpu_seconds(), []
    command += ["--batch-size", str(batch), "--out", str(out), "--quiet"]
    process = subprocess.Popen(command, env={**os.environ, **variables})
    while process.poll() is None:
        seen = resident_mib(process.pid)
        written = finished_bytes(out)
        if seen is not None:
            samples.append((written, *seen))
        time.sleep(every)
    seconds, cpu = time.perf_counter() - began, cpu_seconds() - used
    if process.returncode:
        raise SystemExit(f"{source} ended with exit code {process.returncode}.")
    total = max(written for written, _, _ in samples) or 1
    curve = [(min(count, round(count * written / total)), rss, own) for written, rss, own in samples]
    early = [sample for sample in curve if sample[0] <= count // 10] or curve[:1]
    late = [sample for sample in curve if sample[0] > count // 10] or early[-1:]
    growth = max(rss for _, rss, _ in late) - max(rss for _, rss, _ in early)
    shown = curve[:: max(1, len(curve) // 40)]
    return {
        "read": source.suffix[1:],
        "written": out.suffix[1:],
        "rows": count,
        "rows_found": rows_of(out),
        "seconds": round(seconds, 1),
        "rows_per_second": round(count / seconds, 1),
        "cpu_seconds": round(cpu, 1),
        "rows_per_cpu_second": round(count / cpu, 1),
        "load": round(os.getloadavg()[0], 2),
        "input_mib": round(source.stat().st_size / 2**20, 1),
        "peak_mib": round(max(rss for _, rss, _ in curve), 1),
        "growth_mib": round(growth, 1),
        "kept_mib": round(own_between(curve, 0.7 * count, count) - own_between(curve, 0.1 * count, 0.4 * count), 1),
        "curve": [{"rows": rows, "resident_mib": round(rss, 1), "own_mib": round(own, 1)} for rows, rss, own in shown],
    }


def own_between(curve: list[tuple[int, float, float]], first: float, last: float) -> float:
    """Least memory without the pages of files, in MiB, of the samples between two numbers of rows.

    A batch takes and gives back some 25 MiB, so medians fall into one state or the other; what is kept lies below all.
    """
    inside = [own for rows, _, own in curve if first <= rows < last]
    if not inside:
        raise SystemExit("Memory was not sampled often enough: raise --count.")
    return min(inside)


def cpu_seconds() -> float:
    """Processor time of the processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def rows_of(path: Path) -> int:
    """Rows of the result; their ids must be 0, 1, 2, ..."""
    count = 0
    for count, name in enumerate(ids_of(path), 1):
        if name != count - 1:
            raise SystemExit(f"Row {count - 1} of {path} has the id {name}.")
    return count


def ids_of(path: Path) -> Iterator[Any]:
    """The ids of a result in their order."""
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        with pq.ParquetFile(path) as file:
            for part in file.iter_batches(columns=["id"]):
                yield from part["id"].to_pylist()
    else:
        with open(path, encoding="utf-8") as lines:
            for line in lines:
                yield json.loads(line)["id"]


def draw(runs: list[dict[str, Any]], path: Path) -> None:
    """Draw resident memory over the rows, one line a run."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.2), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for run in runs:
        label = f".{run['read']} ({run['input_mib']:,.0f} MiB) to .{run['written']}"
        curve = run["curve"]
        axes.plot([point["rows"] for point in curve], [point["resident_mib"] for point in curve], label=label)
    axes.set(xlabel="rows done", ylabel="resident memory, MiB", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, format="svg", metadata={"Date": None})


def main() -> None:
    """Parse the options, write the files, run, keep the figures, remove the files; exit 1 where memory grows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="default")
    parser.add_argument("--shards", help="real vectors to perturb")
    parser.add_argument("--folder", required=True, help="for the large files, which are removed again")
    parser.add_argument("--out", help="JSON file")
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--batch", type=int, default=4096, help="rows read at a time")
    parser.add_argument("--dimension", type=int, default=384, help="without --shards")
    parser.add_argument("--noise", type=float, default=0.2, help="length of the perturbation")
    parser.add_argument("--most", type=float, default=64.0, help="MiB that may be kept")
    parser.add_argument("--give-back", action="store_true", help="freed memory is returned at once; slower")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    folder = Path(args.folder)
    folder.mkdir(parents=True, exist_ok=True)
    dimension = next(blocks(1, args.dimension, args.shards, args.seed, args.noise)).shape[1]
    runs = []
    for kind, written in RUNS:
        source, out = folder / f"vectors.{kind}", folder / f"texts-of-{kind}.{written}"
        vectors = blocks(args.count, dimension, args.shards, args.seed, args.noise)
        if kind == "npy":
            write_npy(source, args.count, dimension, vectors)
        else:
            write_parquet(source, dimension, vectors)
        try:
            runs.append(stream(source, out, args.count, args.model, args.batch, GIVE_BACK if args.give_back else {}))
        finally:
            source.unlink()
            out.unlink(missing_ok=True)
        print(json.dumps({key: value for key, value in runs[-1].items() if key != "curve"}), flush=True)
    whole = all(run["rows_found"] == args.count and run["kept_mib"] <= args.most for run in runs)
    result = {
        "benchmark": "stream-prior",
        "model": args.model,
        "strategy": "prior",
        "count": args.count,
        "dimension": dimension,
        "batch": args.batch,
        "vectors": "real, perturbed" if args.shards else "random directions",
        "noise": args.noise,
        "seed": args.seed,
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        "flat": whole,
        "runs": runs,
        "machine": machine(),
    }
    if args.out:
        write_json(Path(args.out), result)
        draw(runs, Path(args.out).with_suffix(".svg"))
    raise SystemExit(0 if whole else 1)


if __name__ == "__main__":
    main()
