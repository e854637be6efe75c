"""What queries bring and cost: curves of every method, an ablation of the moves, and the cost of each budget.

    python -m benchmarks.experiments.refinement --test data/test --left-out data/left-out \
        --out docs/results --page docs/queries.md

Writes {set}-refinement-{method}.json for each set and method, ablation files into --out/extra, refinement.json with
costs, the figures, and the part of the page between its marks. What has a file of the same checkpoint, number of texts
and budgets is kept (--again measures it anew), so that it can be stopped and started. --only takes parts:
curves ablations costs page.
"""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import MatrixProducts, machine, matmul_rates
from reports.queries_page import SUMMARY, write_page
from reports.results import left_out_sets
from unembed.data.shards import ShardDataset
from unembed.errors import InputError
from unembed.evaluation.budgets import BUDGETS, evaluate_budgets
from unembed.evaluation.harness import write_result
from unembed.evaluation.sets import EvaluationSet
from unembed.files import make_folder, read_json, write_json
from unembed.inverter import Inverter
from unembed.refinement.refine import METHODS, Refine
from unembed.refinement.search import SearchConfig

PARTS = ("curves", "ablations", "costs", "page")
LEFT_OUT = ("scitldr", "cfpb-regulations")
_log = logging.getLogger("refinement")


class Runner:
    """Measures what has no file yet.

    Args:
        args: the command line.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.out = Path(args.out)
        self.inverter = Inverter.from_pretrained(args.model, args.device, args.precision)

    def sets(self) -> list[tuple[EvaluationSet, bool]]:
        """The sets, and whether their source was left out of training."""
        n, seed = self.args.n, self.args.seed
        found = []
        if self.args.test:
            found.append((EvaluationSet.from_rows(self.args.test_name, ShardDataset(self.args.test), n, seed), False))
        if self.args.left_out:
            others = left_out_sets(Path(self.args.left_out), n, seed)
            found += [(data, True) for data in others if data.name in self.args.sources]
        return found

    def methods(self) -> list[str]:
        """The methods that this checkpoint can do, of those asked for."""
        good = []
        for name in self.args.methods:
            try:
                self.inverter.invert(np.ones((1, self.inverter.dimension)), refine=Refine(1, name))
            except InputError as error:
                _log.info("%s is left out: %s", name, error.what)
            else:
                good.append(name)
        return good

    def curve(
        self,
        data: EvaluationSet,
        left_out: bool,
        method: str,
        folder: Path,
        name: str = "",
        search: SearchConfig | None = None,
        budgets: tuple[int, ...] | None = None,
    ) -> dict[str, Any]:
        """One curve, from its file where that is of the same run."""
        budgets = tuple(self.args.budgets) if budgets is None else budgets
        path = folder / f"{data.name}-refinement-{name or method}.json"
        if path.exists() and not self.args.again:
            old: dict[str, Any] = read_json(path)
            same = (old["checkpoint"]["sha256"], old["data"]["n"], [b["queries"] for b in old["budgets"]])
            if same == (self.inverter.sha256, len(data), sorted(budgets)):
                _log.info("kept %s", path)
                return old
        began = time.perf_counter()
        result = evaluate_budgets(
            self.inverter,
            data,
            budgets,
            method,
            name=name,
            search=search,
            seed=self.args.seed,
            batch_size=self.args.batch,
            left_out=left_out,
        )
        written = write_result(folder, result)
        last = result["budgets"][-1]["metrics"]["exact_match"]["value"]
        _log.info("%s: exact_match %.3f, %.0f s", written.name, last, time.perf_counter() - began)
        return result

    def ablations(self, data: EvaluationSet) -> list[dict[str, Any]]:
        """The search with every kind of move, without each one, and without any."""
        data = data.subset(self.args.n_ablation, self.args.seed)
        folder = self.out / "extra"
        make_folder(folder)
        base = SearchConfig()
        settings: dict[str, tuple[str, ...]] = {"all": base.moves}
        settings |= {f"without-{move}": tuple(m for m in base.moves if m != move) for move in base.moves}
        settings["none"] = ()
        found = []
        for name, moves in settings.items():
            search = SearchConfig(moves=moves)
            budgets = (max(self.args.ablation_budgets),) if name == "none" else tuple(self.args.ablation_budgets)
            found.append(self.curve(data, False, "search", folder, f"moves-{name}", search, budgets))
        return found

    def costs(self, data: EvaluationSet) -> list[dict[str, Any]]:
        """Queries, passes, seconds and the share in matrix products of each method and budget."""
        vectors = np.asarray(data.subset(self.args.n_cost, self.args.seed).vectors)
        rate = matmul_rates(str(self.inverter.device), self.args.matmul_seconds)[self.args.precision]
        rows = []
        for method in self.methods():
            for budget in self.args.budgets:
                options: dict[str, Any] = {"refine": Refine(budget, method), "batch_size": len(vectors)}
                if not budget and rows and any(not row["budget"] for row in rows):
                    continue
                with MatrixProducts() as products:  # counted in a run that is not timed
                    found = self.inverter.invert(vectors, **options)
                began = time.perf_counter()
                self.inverter.invert(vectors, **options)
                seconds = time.perf_counter() - began
                rows.append(
                    {
                        "method": method if budget else "no refinement",
                        "budget": budget,
                        "n": len(vectors),
                        "queries": float(np.mean([one.queries for one in found])),
                        "passes": float(np.mean([one.passes for one in found])),
                        "seconds": seconds / len(vectors),
                        "gflop_per_text": products.operations / len(vectors) / 1e9,
                        "share": products.operations / seconds / 1e9 / rate,
                    }
                )
                _log.info("%s, %d queries: %.2f s a text", method, budget, rows[-1]["seconds"])
        return rows


def slim(result: dict[str, Any]) -> dict[str, Any]:
    """What the table of ablations needs of a curve."""
    budgets = [{key: entry[key] for key in ("queries", "metrics")} for entry in result["budgets"]]
    return {"name": result["name"], "data": result["data"], "checkpoint": result["checkpoint"], "budgets": budgets}


def main() -> None:
    """Parse the options and run the parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="default")
    parser.add_argument("--device", default=None)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--test", default=None, help="shards of the test set")
    parser.add_argument("--test-name", default="english-test")
    parser.add_argument("--left-out", default=None, help="shards of the sources that were left out of training")
    parser.add_argument("--sources", nargs="+", default=list(LEFT_OUT), help="of --left-out, those that are run")
    parser.add_argument("--out", default="docs/results")
    parser.add_argument("--page", default=None, help="docs/queries.md, to be filled")
    parser.add_argument("-n", type=int, default=300, help="texts of each set")
    parser.add_argument("--n-ablation", type=int, default=100)
    parser.add_argument("--n-cost", type=int, default=32)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--budgets", nargs="+", type=int, default=list(BUDGETS))
    parser.add_argument("--ablation-budgets", nargs="+", type=int, default=[16, 64])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--matmul-seconds", type=float, default=1.0)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--again", action="store_true")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if args.threads:
        torch.set_num_threads(args.threads)
    make_folder(args.out)
    if set(args.only) - {"page"}:
        run(args)
    if "page" in args.only and args.page:
        write_page(args.out, args.page)


def run(args: argparse.Namespace) -> None:
    """Measure what was asked for."""
    if args.test is None and (args.left_out is None or {"ablations", "costs"} & set(args.only)):
        raise SystemExit("--test is missing: shards of the test set")
    runner = Runner(args)
    sets = runner.sets()
    summary = Path(args.out) / SUMMARY
    kept: dict[str, Any] = read_json(summary) if summary.exists() else {}
    kept["machine"] = machine()
    if "curves" in args.only:
        methods = runner.methods()
        for data, left_out in sets:
            for method in methods:
                runner.curve(data, left_out, method, Path(args.out))
    if "ablations" in args.only:
        kept["ablations"] = [slim(result) for result in runner.ablations(sets[0][0])]
        write_json(summary, kept)
    if "costs" in args.only:
        kept["costs"] = runner.costs(sets[0][0])
        write_json(summary, kept)


if __name__ == "__main__":
    main()
