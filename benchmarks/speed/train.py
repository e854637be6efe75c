"""Speed of training: texts a second of a recipe's steps, as one JSON line.

    python -m benchmarks.speed.train recipes/default.toml --set data.shards=data/train

The steps are the loop's own (`training/stepper.py`): draw, score, backward, clipping, optimizer, average. Closed forms
are fitted before the clock starts. `share` is the part of the measured matrix-multiply rate that the arithmetic of the
design (6 A n, and 6 x rows x columns x width for the head) says is used.
"""

from __future__ import annotations

import argparse

import torch

from benchmarks.common import emit, machine, matmul_rates
from unembed.training.estimate import measure_pace
from unembed.training.recipes.recipe import Recipe
from unembed.training.stepper import make_task


def main() -> None:
    """Parse the options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="A.B=C")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--warmup", type=int, default=6, help="steps before the clock starts (compilation)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--matmul-seconds", type=float, default=1.0, help="for measuring the rate of each dtype")
    args = parser.parse_args()
    recipe = Recipe.load(args.recipe, args.overrides)
    if recipe.run.threads:
        torch.set_num_threads(recipe.run.threads)
    task = make_task(recipe, torch.device(args.device))
    rates = matmul_rates(args.device, args.matmul_seconds)
    pace = measure_pace(recipe, task, warmup=args.warmup, steps=args.steps)
    gflops = pace.operations / pace.seconds / 1e9
    part = recipe.objective
    emit(
        {
            "benchmark": "train",
            "recipe": args.recipe,
            "overrides": args.overrides,
            "parameters": task.notes()["parameters"],
            "precision": pace.precision,
            "compiled": recipe.run.compiles(args.device),
            "batch_size": recipe.data.batch_size,
            "shortlist": part.shortlist_frequent + part.shortlist_sampled if part.shortlist_frequent else None,
            "steps": args.steps,
            "texts_per_second": round(pace.texts_per_second, 1),
            "seconds_per_step": round(pace.seconds / pace.steps, 4),
            "gflops": float(f"{gflops:.4g}"),
            "share": float(f"{gflops / rates[pace.precision]:.4g}"),
            "matmul_gflops": rates,
            "machine": machine(),
        }
    )


if __name__ == "__main__":
    main()
