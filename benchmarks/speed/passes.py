"""Quality against passes: every parallel strategy at 1 to 32 passes, the causal ones beside, one length tried.

    python -m benchmarks.speed.passes --test data/test --out docs/results/passes.json \
        --figure docs/results/passes-curve.svg

Runs that the file holds for the same checkpoint and texts are kept, so that it can be stopped and started. --page puts
the tables into docs/strategies.md between its markers, writes the CSV file beside --out, and measures nothing.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from reports.marks import fill
from reports.plots import frontier
from unembed.data.shards import ShardDataset
from unembed.decoding.config import CAUSAL_STRATEGIES, STRATEGIES
from unembed.evaluation.harness import Setting, evaluate_set
from unembed.evaluation.sets import EvaluationSet
from unembed.evaluation.tables import cell, table, write_csv
from unembed.files import read_json, write_json
from unembed.inverter import Inverter

PASSES = (1, 2, 4, 8, 16, 32)
KEPT = ("strategy", "options", "lengths", "passes", "queries", "seconds", "data", "seed", "bootstrap", "metrics")
SHOWN = ("token_f1", "token_accuracy", "exact_match", "bleu")


def settings(inverter: Inverter) -> list[Setting]:
    """Parallel strategies at each number of passes, left to right with beams, the checkpoint's default."""
    found = [
        Setting(name, {"passes": passes, "lengths": 1}, f"{name}, {passes} passes")
        for name in STRATEGIES
        if name not in CAUSAL_STRATEGIES and name != "prior"
        for passes in PASSES
    ]
    found.append(Setting("prior", {}, "prior"))
    if inverter.denoiser.config.causal:
        found += [Setting("left-to-right", {"beam": beam}, f"left-to-right, beam {beam}") for beam in (1, 2, 4, 8)]
        found += [Setting("draft-correct", {"passes": passes}, f"draft-correct, beam 1, {passes}") for passes in (2, 4)]
    return [*found, Setting(inverter.resolve({}).strategy, {}, "default", default=True)]


def page(rows: list[dict[str, Any]]) -> str:
    """The tables of the page: the parallel strategies by passes, the others with all that is shown."""
    parallel = [row for row in rows if row["strategy"] not in (*CAUSAL_STRATEGIES, "prior")]
    by_name = {row["name"]: row for row in parallel}
    wide = [
        [f"`{name}`", *(cell("token_f1", by_name[f"{name}, {k} passes"]["metrics"]["token_f1"]) for k in PASSES)]
        for name in dict.fromkeys(row["strategy"] for row in parallel)
    ]
    others = [
        [f"`{row['name']}`", f"{row['passes']:.1f}", *(cell(name, row["metrics"].get(name)) for name in SHOWN)]
        for row in sorted(rows, key=lambda row: (row["strategy"], row["passes"]))
        if row not in parallel
    ]
    first = rows[0]
    return "\n".join([
        f"n = {first['data']['n']} of {first['data']['name']}, seed {first['seed']}, checkpoint "
        f"`{first['stamp']['checkpoint'][:8]}`, 95% bootstrap intervals. Mean token_f1 of the strategies that start "
        "from masks, by the most passes that a draft may take:\n",
        table(["strategy", "1 pass", *(f"{k} passes" for k in PASSES[1:])], wide),
        "The others, whose passes follow from the beam and the length:\n",
        table(["run", "passes per text", *SHOWN], others),
        "All numbers: [passes.csv](results/passes.csv).\n",
    ])  # fmt: skip


def main() -> None:
    """Measure what is missing, then draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="default")
    parser.add_argument("--test", help="shards")
    parser.add_argument("--name", default="english-test")
    parser.add_argument("-n", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--out", default="docs/results/passes.json")
    parser.add_argument("--figure", default="docs/results/passes-curve.svg")
    parser.add_argument("--page", metavar="FILE", help="fill the table of this page; measure nothing")
    args = parser.parse_args()
    out = Path(args.out)
    rows: list[dict[str, Any]] = read_json(out) if out.exists() else []
    if not args.page:
        if args.threads:
            torch.set_num_threads(args.threads)
        inverter = Inverter.from_pretrained(args.model, precision=args.precision)
        data = EvaluationSet.from_rows(args.name, ShardDataset(args.test), args.n, args.seed)
        stamp = {"checkpoint": inverter.sha256, "n": len(data), "seed": args.seed, "precision": args.precision}
        rows = [row for row in rows if row["stamp"] == stamp]
        for setting in settings(inverter):
            if any(row["name"] == setting.label for row in rows):
                continue
            result = evaluate_set(inverter, data, setting, seed=args.seed, batch_size=args.batch)
            part = {key: result[key] for key in KEPT}
            rows.append({"name": setting.label, "default": setting.default, "stamp": stamp, **part})
            write_json(out, rows)
            print(f"{setting.label}: token_f1 {result['metrics']['token_f1']['value']:.3f}, {result['seconds']:.0f} s")
    frontier(rows, args.figure)
    if args.page:
        fill(args.page, "passes", page(rows))
        named = [
            {"run": r["name"], **{k: r[k] for k in ("strategy", "passes", "seconds")}, **r["metrics"]} for r in rows
        ]
        write_csv(out.with_suffix(".csv"), named)


if __name__ == "__main__":
    main()
