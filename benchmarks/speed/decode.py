"""Speed of decoding: texts a second for each strategy at several batch sizes, as one JSON line.

    python -m benchmarks.speed.decode --model default --vectors examples/vectors.parquet

Each cell repeats a batch until --seconds have passed. `share` is the part of the measured matrix-multiply rate of the
dtype that the formula (2 A n a pass, and the head) says is used; `share_padded` counts padding too.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import torch

from benchmarks.common import Counter, emit, machine, matmul_rates
from unembed.decoding.config import CAUSAL_STRATEGIES, STRATEGIES
from unembed.inverter import Inverter


def read_some(path: str, column: str | None, count: int) -> np.ndarray:
    """Read the first `count` vectors of a store, from the start again where it holds fewer."""
    from unembed.stores.opening import read_vectors

    rows: list[np.ndarray] = []
    for batch in read_vectors(path, column=column):
        rows.append(batch.vectors)
        if sum(map(len, rows)) >= count:
            break
    vectors = np.concatenate(rows)
    return np.resize(vectors, (count, vectors.shape[1]))


def measure(inverter: Inverter, vectors: np.ndarray, seconds: float, options: dict[str, Any]) -> dict[str, float]:
    """Decode one batch again and again; operations are counted in a run that is not timed."""
    counter = Counter(inverter.denoiser)
    with counter.counting():
        found = inverter.invert(vectors, batch_size=len(vectors), **options)
    took: list[float] = []
    end = time.perf_counter() + seconds
    while not took or time.perf_counter() < end:
        start = time.perf_counter()
        inverter.invert(vectors, batch_size=len(vectors), **options)
        took.append(time.perf_counter() - start)
    median = float(np.median(took))
    return {
        "seconds": median,
        "repeats": len(took),
        "texts_per_second": len(vectors) / median,
        "passes": float(np.mean([recovery.passes for recovery in found])),
        "gflop_per_text": counter.forward_operations / len(vectors) / 1e9,
        "gflops": counter.forward_operations / median / 1e9,
        "padding": 1 - counter.positions / max(counter.padded, 1),
    }


def main() -> None:
    """Parse the options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="default")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--vectors", default="examples/vectors.parquet")
    parser.add_argument("--column", default=None)
    parser.add_argument("--strategies", nargs="+", default=None, help="default: every strategy that the model can run")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 32, 256])
    parser.add_argument("--seconds", type=float, default=3.0, help="at least so long for each cell")
    parser.add_argument("--passes", type=int, default=None)
    parser.add_argument("--lengths", type=int, default=None)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="dtype of the inverter's matmuls")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--matmul-seconds", type=float, default=1.0, help="for measuring the rate of each dtype")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    inverter = Inverter.from_pretrained(args.model, args.device, args.precision)
    names = args.strategies
    if names is None:
        names = [n for n in STRATEGIES if n != "prior"]  # it has no pass
        names = [name for name in names if inverter.denoiser.config.causal or name not in CAUSAL_STRATEGIES]
    given = {name: value for name in ("passes", "lengths") if (value := getattr(args, name)) is not None}
    rates = matmul_rates(args.device, args.matmul_seconds)
    vectors = read_some(args.vectors, args.column, max(args.batches))
    runs = []
    for name in names:
        for batch in args.batches:
            run = measure(inverter, vectors[:batch], args.seconds, {"strategy": name, **given})
            run["share"] = run["gflops"] / rates[args.precision]
            run["share_padded"] = run["share"] / (1 - run["padding"])
            rounded = {key: float(f"{value:.4g}") for key, value in run.items()}
            runs.append({"strategy": name, "batch": batch, **given, **rounded})
    emit(
        {
            "benchmark": "decode",
            "model": inverter.name,
            "sha256": inverter.sha256,
            "parameters": inverter.denoiser.parameter_counts(),
            "precision": args.precision,
            "machine": machine(),
            "matmul_gflops": rates,
            "runs": runs,
        }
    )


if __name__ == "__main__":
    main()
