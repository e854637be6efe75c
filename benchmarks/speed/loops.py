r"""The training loop of two source trees, in turns on a quiet machine: positions a second and share of the matmul rate.

    git worktree add /tmp/old b807b43
    python -m benchmarks.speed.loops --old /tmp/old/src --shards data/train --validation data/validation \
        --out docs/results/loops.json

Both measure themselves (`unembed train --dry-run --json`) with the same small recipe of keys that both know. They
draw batches of other lengths, so compare positions a second and the share, not texts a second.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.common import machine, matmul_rates

ROOT = Path(__file__).resolve().parents[2]
RECIPE = """
[model]
layers = 4
token_prior = true
[data]
shards = {shards}
batch_size = 256
[objective]
causal_share = {causal}
shortlist_frequent = 3000
shortlist_sampled = 1500
[optimizer]
lr = 1.2e-3
[run]
max_time = "60m"
compile = "no"
threads = {threads}
[validation]
shards = {validation}
"""


def measure(source: Path, recipe: Path, cores: str) -> dict[str, Any]:
    """What a source tree says of itself."""
    command = [sys.executable, "-m", "unembed", "train", str(recipe), "--dry-run", "--json", "--quiet"]
    done = subprocess.run(
        ["taskset", "-c", cores, *command],
        env={**os.environ, "PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> None:
    """Measure in turns and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", type=Path, required=True, help="src of the older tree")
    parser.add_argument("--shards", required=True)
    parser.add_argument("--validation", required=True)
    parser.add_argument("--causal", type=float, default=0.5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    rows: dict[str, list[dict[str, Any]]] = {"old": [], "new": []}
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder) / "recipe.toml"
        values = {key: json.dumps(str(Path(getattr(args, key)).resolve())) for key in ("shards", "validation")}
        recipe.write_text(RECIPE.format(**values, causal=args.causal, threads=args.threads))
        for _ in range(args.rounds):
            for name, source in (("old", args.old), ("new", ROOT / "src")):
                rows[name].append(measure(source, recipe, f"0-{args.threads - 1}"))
                print(name, round(rows[name][-1]["texts_per_second"], 1), flush=True)
    rates = matmul_rates()
    result: dict[str, Any] = {"recipe": RECIPE, "causal_share": args.causal, "rounds": args.rounds, "matmul": rates}
    for name, found in rows.items():
        pace = [one["texts_per_second"] for one in found]
        positions = [one["pace"].get("positions", one["pace"].get("tokens")) for one in found]
        seconds = [one["pace"]["seconds"] for one in found]
        texts = [one["pace"]["texts"] for one in found]
        flops = [one["pace"]["operations"] / one["pace"]["seconds"] / 1e9 for one in found]
        result[name] = {
            "texts_per_second": {"all": pace, "median": statistics.median(pace)},
            "positions_per_text": statistics.median(a / b for a, b in zip(positions, texts, strict=True)),
            "positions_per_second": statistics.median(a / b for a, b in zip(positions, seconds, strict=True)),
            "share": statistics.median(flops) / rates[found[0]["pace"]["precision"]],
            "precision": found[0]["pace"]["precision"],
        }
    args.out.write_text(json.dumps({**result, "machine": machine()}, indent=2) + "\n")


if __name__ == "__main__":
    main()
