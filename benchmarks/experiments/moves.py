"""What each kind of move brings to the search: queries spent on it, how often it was nearest so far, cosine gained.

    python -m benchmarks.experiments.moves --data shards/test -n 100 --page docs/queries.md \
        --out docs/results/moves.json

One run of the search with corrections. A move's gain is what it added to the best cosine so far; gains of a text
add up to the way from its first draft to its last. Intervals are 95%, over texts.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import machine
from reports.marks import fill
from unembed.data.shards import ShardDataset
from unembed.decoding.loop import finish
from unembed.evaluation.sets import EvaluationSet
from unembed.evaluation.tables import table
from unembed.files import read_json, write_json
from unembed.inverter import Inverter
from unembed.metrics.bootstrap import Statistic, summary
from unembed.refinement.queries import CachedEncoder, History, rounds
from unembed.refinement.search import Search
from unembed.refinement.surrogate import MOVES


def account(found: list[History]) -> dict[str, Any]:
    """Queries, hits and gain of each kind of move."""
    names = ("draft", *MOVES)
    asked, hits, gain = (np.zeros((len(found), len(names))) for _ in range(3))
    for row, result in enumerate(found):
        best = None
        for one in result.asked:
            column = names.index(one.move)
            asked[row, column] += 1
            if best is None or one.cosine > best:
                hits[row, column] += best is not None
                gain[row, column] += 0.0 if best is None else one.cosine - best
                best = one.cosine
    total = gain.sum(axis=1)
    out = {}
    for column, name in enumerate(names):
        if asked[:, column].any():
            out[name] = {
                "queries": summary(Statistic.mean(asked[:, column])),
                "nearer": summary(Statistic(np.stack([hits[:, column], asked[:, column]], axis=1))),
                "share_of_gain": summary(Statistic(np.stack([gain[:, column], total], axis=1))),
            }
    return out


def report(result: dict[str, Any]) -> str:
    """The table of the page, and what it is of."""
    rows = []
    for name, row in sorted(result["moves"].items(), key=lambda item: -item[1]["share_of_gain"]["value"]):
        cells = [f"{row[key]['value']:.{d}f} [{row[key]['low']:.{d}f}, {row[key]['high']:.{d}f}]"
                 for key, d in (("queries", 1), ("nearer", 3), ("share_of_gain", 3))]  # fmt: skip
        rows.append([f"`{name}`", *cells])
    told = (
        f"{result['data']['name']}, n = {result['data']['n']}, seed {result['data']['seed']}, "
        f"{result['queries']} queries, combined; mean cosine of the first draft {result['first']['value']:.3f}, "
        f"of the last {result['last']['value']:.3f}."
    )
    shown = table(["move", "queries per text", "share that was nearer", "share of the cosine gained"], rows)
    return f"{told}\n\n{shown}"


def main() -> None:
    """Run, count, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="default")
    parser.add_argument("--data", help="shards; without, only the page is filled")
    parser.add_argument("--name", default="english-test")
    parser.add_argument("-n", type=int, default=100)
    parser.add_argument("--queries", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--page", type=Path)
    args = parser.parse_args()
    if args.data:
        inverter = Inverter.from_pretrained(args.model, device="cpu", precision="auto")
        data = EvaluationSet.from_rows(args.name, ShardDataset(args.data), args.n, args.seed)
        drafts = inverter.drafts(data.vectors, strategy="left-to-right", beam=8)
        search = Search(
            inverter.denoiser,
            torch.from_numpy(data.vectors),
            [[draft.ids, *(other.ids for other in draft.alternatives)] for draft in drafts],
            CachedEncoder(inverter.encoder, inverter.tokenizer),
            student=inverter.student,
            corrector=inverter.corrector,
        )
        finish(rounds(search, args.queries))
        found = search.histories
        first = [result.asked[0].cosine for result in found]
        last = [max(one.cosine for one in result.asked) for result in found]
        write_json(
            args.out,
            {
                "model": inverter.sha256,
                "data": {"name": data.name, "n": len(data), "seed": args.seed},
                "machine": machine(),
                "queries": args.queries,
                "first": summary(Statistic.mean(first)),
                "last": summary(Statistic.mean(last)),
                "moves": account(found),
            },
        )
    if args.page:
        fill(args.page, "moves", report(read_json(args.out)))


if __name__ == "__main__":
    main()
