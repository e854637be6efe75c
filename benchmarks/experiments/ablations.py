"""What each part brings, at equal wall-clock and equal seeds.

Every variant trains for the same minutes on one core from the same recipe with one change; two run side by side, each
on a core of its own. Results go to docs/results/ablations.json, which docs/results.md and docs/log.md quote.

    python -m benchmarks.experiments.ablations --shards SHARDS --validation SHARDS --minutes 8 \
        --out docs/results/ablations.json
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from unembed.machine import describe

NEW = ["model.layers=4", "model.heads=6", "optimizer.lr=1.2e-3", "optimizer.warmup=50", "objective.causal_share=0.5"]
ADAMW = ["optimizer.matrices='adamw'"]
PAPER = ["model.backbone='paper'", "model.prefix_tokens=0", "model.embedding_dim=0", "model.time_conditioning=true"]
PRINTED = ["objective.masking='time'", "objective.schedule='exponential'", "objective.loss_weight='printed'"]
DERIVED = ["objective.loss_weight='bound'"]
VARIANTS: dict[str, tuple[str, list[str]]] = {
    "base": ("whitening, 8 prefix tokens, canvas of n, causal share 0.5, shortlist", []),
    "no-causal": ("no causal rows", ["objective.causal_share=0.0"]),
    "log-odds": ("token prior as gated bias", ["model.token_prior=true"]),
    "no-whitening": ("vectors scaled only", ["model.whiten=false"]),
    "no-prefix": ("no prefix tokens, AdaLN alone", ["model.prefix_tokens=0"]),
    "eos-canvas": ("canvas of 33 with learnt end", ["model.canvas='eos'"]),
    "full-softmax": ("no shortlist", ["objective.shortlist_frequent=0"]),
    "all-causal": ("causal rows only", ["objective.causal_share=1.0"]),
    "bound-weight": ("loss weight n/k", ["objective.loss_weight='bound'"]),
    "vector-drop": ("vector dropped in a tenth of the texts", ["objective.vector_drop=0.1"]),
    "time": ("time as an input, counts drawn", ["model.time_conditioning=true"]),
    "time-drawn": ("times drawn, linear schedule, weight 1", ["objective.masking='time'"]),
    "cosine": ("times drawn, cosine schedule, weight 1", ["objective.masking='time'", "objective.schedule='cosine'"]),
    "factored": ("modulation through 64 dimensions", ["model.adaln='factored'"]),
    "muon": ("Muon for the blocks' matrices", ["optimizer.matrices='muon'"]),
    "paper-network": ("equations 5 to 10 of 2602.11047, everything else alike", [*PAPER]),
    "paper-objective": ("and its schedule and weight as printed", [*PAPER, *PRINTED]),
    "paper-bound": ("and its schedule with the weight that belongs to it", [*PAPER, *PRINTED, *DERIVED]),
    # Of the default recipe (--recipe recipes/default.toml), not of the small one.
    "adaln": ("default recipe: 4 new AdaLN-Zero blocks of 384", [*NEW, *ADAMW]),
    "adaln-full-softmax": ("no shortlist", [*NEW, *ADAMW, "objective.shortlist_frequent=0"]),
    "adaln-muon": ("4 new blocks, Muon for their matrices", [*NEW, "optimizer.matrices='muon'"]),
}

CHILD = """
import json, sys, torch
torch.set_num_threads(1)
from unembed.training.loop import train
from unembed.training.recipes.recipe import Recipe
recipe, out, minutes, *overrides = sys.argv[1:]
result = train(Recipe.load(recipe, overrides), out, max_time=minutes + "m")
print(json.dumps(result.__dict__))
"""


def start(name: str, arguments: argparse.Namespace, core: int) -> subprocess.Popen[str]:
    """Start one variant on one core."""
    out = Path(arguments.runs) / name
    overrides = [
        f"data.shards='{arguments.shards}'",
        f"validation.shards='{arguments.validation}'",
        f"run.seed={arguments.seed}",
        f"validation.decoded={arguments.n}",
        f"data.max_texts={arguments.texts}",
        "run.threads=1",
        *VARIANTS[name][1],
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", CHILD, arguments.recipe, str(out), str(arguments.minutes), *overrides]
    out.mkdir(parents=True, exist_ok=True)
    log = open(out / "stderr.txt", "w")
    return subprocess.Popen(
        ["taskset", "-c", str(core), *command], env=environment, stdout=subprocess.PIPE, stderr=log, text=True
    )


def with_intervals(metrics: dict[str, Any]) -> dict[str, Any]:
    """Put each value and its interval together: {"value", "low", "high"}; figures without one stay numbers."""
    out: dict[str, Any] = {}
    for key, value in metrics.items():
        if key.endswith("/interval"):
            continue
        span = metrics.get(f"{key}/interval")
        out[key] = value if span is None else {"value": value, "low": span[0], "high": span[1]}
    return out


def main() -> None:
    """Run the chosen variants two at a time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="recipes/tiny.toml")
    parser.add_argument("--shards", required=True)
    parser.add_argument("--validation", required=True)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--texts", type=int, default=300_000, help="training texts")
    parser.add_argument("--n", type=int, default=500, help="held-out texts decoded")
    parser.add_argument("--cores", nargs="*", type=int, default=[0, 1], help="one variant runs on each")
    parser.add_argument("--runs", default="runs/ablations")
    parser.add_argument("--out", default="docs/results/ablations.json")
    small = [name for name in VARIANTS if not name.startswith("adaln")]
    parser.add_argument("--variants", nargs="*", default=small)
    arguments = parser.parse_args()
    out = Path(arguments.out)
    torch.set_num_threads(1)  # as each variant has
    machine = describe()["summary"]
    waiting = list(arguments.variants)
    running: dict[int, tuple[str, subprocess.Popen[str]]] = {}
    while waiting or running:
        for core in arguments.cores:
            if core not in running and waiting:
                name = waiting.pop(0)
                running[core] = (name, start(name, arguments, core))
        time.sleep(1)
        for core, (name, process) in list(running.items()):
            if process.poll() is None:
                continue
            del running[core]
            text = process.stdout.read() if process.stdout else ""
            if process.returncode:
                sys.stderr.write(f"{name} failed with {process.returncode}; see {arguments.runs}/{name}/stderr.txt\n")
                continue
            rows = json.loads(out.read_text()) if out.exists() else []
            result = json.loads(text.splitlines()[-1])
            rows = [r for r in rows if r["name"] != name] + [
                {
                    "name": name,
                    "setting": VARIANTS[name][0],
                    "overrides": VARIANTS[name][1],
                    "recipe": arguments.recipe,
                    "machine": machine,
                    "minutes": arguments.minutes,
                    "cores": 1,
                    "seed": arguments.seed,
                    "n": arguments.n,
                    "data": arguments.validation,
                    "texts_seen": result["texts"],
                    "steps": result["steps"],
                    "metrics": with_intervals(result["metrics"]),
                }
            ]
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
