"""Speed of training: texts a second of a recipe's steps, as one JSON line.

    python benchmarks/train.py recipes/default.toml --set data.shards=data/train

The steps are those of `unembed train`: masks, shortlist, forward, backward, clipping, AdamW, EMA. Closed forms are
fitted before the clock starts. `share` is the part of the measured matrix-multiply rate that the arithmetic of the
design (6 A n, and 6 x rows x columns x width for the head) says is used.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import torch
from common import emit, machine, matmul_rates

from unembed.model.block import Block
from unembed.training import step as step_module
from unembed.training.ema import Ema
from unembed.training.memory import keep_memory, resolve_precision
from unembed.training.optimizer import make_optimizer
from unembed.training.prepare import prepare
from unembed.training.recipe import Recipe
from unembed.training.shortlist import Shortlist


class Arithmetic:
    """Counts positions and head cells by standing before `rows_loss`."""

    def __init__(self) -> None:
        self.positions = 0
        self.cells = 0
        self.inner = step_module.rows_loss

    def __call__(self, denoiser: Any, condition: Any, rows: Any, columns: Any, *rest: Any) -> Any:
        """Count, then do what `rows_loss` does."""
        self.positions += rows.ids.numel()
        self.cells += len(rows.owner) * len(columns.correction)
        return self.inner(denoiser, condition, rows, columns, *rest)


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
    keep_memory()
    device = torch.device(args.device)
    precision = resolve_precision(recipe.run.precision, device)
    prepared = prepare(recipe)
    denoiser = prepared.denoiser.to(device)
    compiled = recipe.run.compile == "yes" or (recipe.run.compile == "auto" and device.type == "cuda")
    if compiled:
        for module in denoiser.modules():
            if isinstance(module, Block):
                module.compile(dynamic=not recipe.data.buckets)
    optimizer = make_optimizer(denoiser, recipe.optimizer)
    ema = Ema(denoiser, recipe.optimizer.ema)
    part = recipe.objective
    shortlist = None
    if part.shortlist_frequent:
        allowed = ~denoiser.banned.cpu()
        shortlist = Shortlist(prepared.counts, allowed, part.shortlist_frequent, part.shortlist_sampled)
    arithmetic = Arithmetic()
    loss = step_module.StepLoss(denoiser, part, shortlist, prepared.counts, precision, recipe.data.noise)
    generator = torch.Generator().manual_seed(recipe.run.seed)
    denoiser.train()
    rates = matmul_rates(args.device, args.matmul_seconds)
    operations: list[float] = []
    seconds: list[float] = []
    texts: list[int] = []
    active = denoiser.parameter_counts()["blocks"]
    width = denoiser.embedding.weight.shape[1]
    step_module.rows_loss = arithmetic  # type: ignore[assignment]
    for index in range(args.warmup + args.steps):
        arithmetic.positions = arithmetic.cells = 0
        start = time.perf_counter()
        groups = prepared.feed.next()
        optimizer.zero_grad(set_to_none=True)
        for group in groups:
            lengths = None if group.lengths is None else torch.from_numpy(group.lengths)
            loss.backward(torch.from_numpy(group.ids), torch.from_numpy(group.vectors), generator, 1.0, lengths)
        torch.nn.utils.clip_grad_norm_(denoiser.parameters(), recipe.optimizer.clip)
        optimizer.step()
        ema.update(denoiser, index)
        if device.type == "cuda":
            torch.cuda.synchronize()
        if index >= args.warmup:
            seconds.append(time.perf_counter() - start)
            texts.append(sum(len(group) for group in groups))
            operations.append(6.0 * active * arithmetic.positions + 6.0 * arithmetic.cells * width)
    step_module.rows_loss = arithmetic.inner
    total = float(np.sum(seconds))
    gflops = float(np.sum(operations)) / total / 1e9
    emit(
        {
            "benchmark": "train",
            "recipe": args.recipe,
            "overrides": args.overrides,
            "parameters": denoiser.parameter_counts(),
            "precision": precision,
            "compiled": compiled,
            "batch_size": recipe.data.batch_size,
            "shortlist": part.shortlist_frequent + part.shortlist_sampled if shortlist else None,
            "steps": args.steps,
            "texts_per_second": round(sum(texts) / total, 1),
            "seconds_per_step": round(total / args.steps, 4),
            "gflops": float(f"{gflops:.4g}"),
            "share": float(f"{gflops / rates[precision]:.4g}"),
            "matmul_gflops": rates,
            "machine": machine(),
        }
    )


if __name__ == "__main__":
    main()
