"""Memory while inverting: resident memory must not grow with the number of vectors; one JSON line.

    python -m benchmarks.speed.invert_memory --model default --count 10000 --passes 1

The vectors lie in a file and are read and inverted in batches, as `unembed invert` does. Memory is read after every
batch; `growth_mib` is the largest value of the last half less the largest of the second quarter.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.common import emit, machine, peak_bytes, resident_bytes
from unembed.inverter import Inverter
from unembed.stores.opening import read_vectors


def main() -> None:
    """Parse the options, measure, print; exit 1 where memory grows by more than --most MiB."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="default")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--strategy", default="adaptive")
    parser.add_argument("--passes", type=int, default=1)
    parser.add_argument("--lengths", type=int, default=1)
    parser.add_argument("--most", type=float, default=64.0, help="MiB that may be added")
    parser.add_argument("--threads", type=int, default=0)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    inverter = Inverter.from_pretrained(args.model, device=args.device)
    options = {"strategy": args.strategy, "passes": args.passes, "lengths": args.lengths}
    resident = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vectors.npy"
        generator = np.random.default_rng(0)
        rows = generator.normal(size=(args.count, inverter.dimension)).astype(np.float32)
        np.save(path, rows / np.linalg.norm(rows, axis=1, keepdims=True))
        del rows
        start, done = time.perf_counter(), 0
        for batch in read_vectors(path, batch=args.batch):
            done += len(inverter.invert(batch.vectors, batch_size=args.batch, **options))
            resident.append(resident_bytes())
        seconds = time.perf_counter() - start
    quarter = max(1, len(resident) // 4)
    growth = (max(resident[2 * quarter :]) - max(resident[quarter : 2 * quarter] or resident[:1])) / 2**20
    emit(
        {
            "benchmark": "memory",
            "model": inverter.name,
            "sha256": inverter.sha256,
            "count": done,
            "batch": args.batch,
            **options,
            "texts_per_second": done / seconds,
            "resident_mib": [round(resident[i] / 2**20, 1) for i in np.linspace(0, len(resident) - 1, 11).astype(int)],
            "growth_mib": round(growth, 1),
            "peak_mib": round(peak_bytes() / 2**20, 1),
            "flat": growth <= args.most,
            "machine": machine(),
        }
    )
    raise SystemExit(0 if growth <= args.most else 1)


if __name__ == "__main__":
    main()
