"""Everything behind docs/results.md: one JSON file a run, then the page and its figures.

    python -m reports.results --model default --test data/test --left-out data/left-out --train data/train

Runs that have a file of the same checkpoint already are skipped (--again repeats them), so that it can be stopped and
started. --only NAME ... takes some of the parts: default strategies baselines left-out page.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reports.plots import calibration_plot, length_plot, passes_curve
from reports.results_page import read_results, write_page
from unembed.checkpoint.shipped import find_checkpoint
from unembed.data.shards import ShardDataset
from unembed.decoding.config import CAUSAL_STRATEGIES, STRATEGIES
from unembed.errors import DataError
from unembed.evaluation import baselines, harness
from unembed.evaluation.sets import EvaluationSet, TrainingSample
from unembed.files import read_json
from unembed.inverter import Inverter
from unembed.priors.fit import ClosedForm, fit_closed_form

PARTS = ("default", "strategies", "baselines", "left-out", "page")
RATES = (0.15, 0.5, 1.0)
_log = logging.getLogger("results")


def shard_batches(dataset: Any, max_length: int, most: int) -> Iterator[tuple[Any, Any, Any]]:
    """Yield what `fit_closed_form` reads, from at most `most` texts spread over the shards."""
    rows = np.arange(len(dataset))
    if most and most < len(rows):
        rows = np.sort(np.random.default_rng(0).choice(rows, size=most, replace=False))
    for start in range(0, len(rows), 8192):
        ids, lengths, vectors = dataset.gather(rows[start : start + 8192])
        padded = np.zeros((len(ids), max_length), dtype=np.int64)
        padded[:, : ids.shape[1]] = ids
        yield torch.from_numpy(padded), torch.from_numpy(lengths), torch.from_numpy(vectors)


def fit_priors(dataset: Any, inverter: Inverter, most: int) -> ClosedForm:
    """Fit the closed-form baseline on the training shards."""
    return fit_closed_form(
        shard_batches(dataset, inverter.max_length, most), inverter.tokenizer.size, inverter.max_length
    )


def left_out_sets(path: Path, n: int, seed: int) -> list[EvaluationSet]:
    """One set for each source of the shards, or for each folder of shards under `path`."""
    if not (path / "manifest.json").is_file():
        folders = sorted(folder for folder in path.iterdir() if (folder / "manifest.json").is_file())
        return [EvaluationSet.from_rows(folder.name, ShardDataset(folder), n, seed) for folder in folders]
    dataset = ShardDataset(path)
    sets = []
    for index, name in enumerate(dataset.source_names):
        rows = np.flatnonzero(np.asarray(dataset.sources) == index)
        if len(rows):
            sets.append(EvaluationSet.from_rows(name, Part(dataset, rows), n, seed))
    return sets


class Part:
    """Some rows of a dataset, as a dataset."""

    def __init__(self, dataset: ShardDataset, rows: np.ndarray) -> None:
        self.dataset, self.rows = dataset, rows

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.rows)

    def gather(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the rows of `index` as the dataset does."""
        return self.dataset.gather(self.rows[index])


def trained_on(dataset: ShardDataset, model: str) -> Part:
    """The rows of the training shards that a checkpoint was trained on: without the sources that its recipe leaves out.

    Otherwise a nearest neighbour of a text of such a source would be its own document.
    """
    excluded = read_json(find_checkpoint(model) / "recipe.json").get("data", {}).get("exclude_sources", ())
    left_out = [i for i, name in enumerate(dataset.source_names) if name in excluded]
    return Part(dataset, np.flatnonzero(~np.isin(np.asarray(dataset.sources), left_out)))


class Runner:
    """Runs what has no file yet and writes it.

    Args:
        args: the command line.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.inverter = Inverter.from_pretrained(args.model, args.device, args.precision)
        self.encoder = None if args.no_cosine else self.inverter.encoder
        self.train = trained_on(ShardDataset(args.train), args.model)
        self.sample = TrainingSample.from_rows(self.train, args.neighbours, args.seed)
        self.nearest: dict[tuple[str, int], np.ndarray] = {}

    def save(self, name: str, make: Callable[[], dict[str, Any]]) -> None:
        """Run `make` and write its result, where there is none of this checkpoint."""
        path = Path(self.args.out) / name
        if path.exists() and not self.args.again:
            old = read_json(path)
            if old.get("checkpoint", {}).get("sha256") == self.inverter.sha256 and old.get("seed") == self.args.seed:
                _log.info("kept %s", path)
                return
        start = time.perf_counter()
        result = make()
        written = harness.write_result(self.args.out, result)
        if written != path:
            raise DataError(f"{written} was written where {path} was expected.", "Report this.")
        value = result["metrics"]["token_f1"]
        _log.info("%s: token_f1 %.3f, %.0f s", written.name, value["value"], time.perf_counter() - start)

    def common(self, data: EvaluationSet) -> dict[str, Any]:
        """Arguments that every run takes."""
        key = (data.name, len(data))
        if key not in self.nearest:
            self.nearest[key] = self.sample.nearest(data.vectors)[1]
        known = {"sample": self.sample, "nearest": self.nearest[key], "encoder": self.encoder}
        return {**known, "seed": self.args.seed}

    def strategy(self, data: EvaluationSet, setting: harness.Setting, rates: Any = (), left_out: bool = False) -> None:
        """One strategy on one set."""
        self.save(
            f"{data.name}-{setting.label}.json",
            lambda: harness.evaluate_set(
                self.inverter,
                data,
                setting,
                rates=rates,
                left_out=left_out,
                batch_size=self.args.batch,
                progress=self.args.progress,
                **self.common(data),
            ),
        )

    def baseline(self, data: EvaluationSet, name: str, left_out: bool = False) -> None:
        """One baseline on one set."""

        def make() -> dict[str, Any]:
            config, seed = self.inverter.resolve({"seed": self.args.seed}), self.args.seed
            preds, passes, seconds = baselines.run_baseline(
                name, self.inverter, data, self.sample, config, seed, self.parts
            )
            known = {"seconds": seconds, "passes": passes, "left_out": left_out, **self.common(data)}
            return harness.evaluate_baseline(name, preds, self.inverter, data, **known)

        self.save(f"{data.name}-baseline-{name}.json", make)

    def parts(self) -> Any:
        """The closed-form parts, fitted on the training shards."""
        return fit_priors(self.train, self.inverter, self.args.prior_texts)


def draw(out: Path) -> None:
    """Render the page, and the figures beside the JSON files."""
    results, _ = read_results(out)
    write_page(out, out.parent / "results.md")
    inside = [r for r in results if not r.get("left_out")]
    if any(r["kind"] == "strategy" for r in inside):
        passes_curve(inside, out / "passes.svg")
        length_plot(
            [r for r in inside if r.get("default") or r["name"] == "nearest-neighbour"] or inside, out / "length.svg"
        )
    for r in inside:
        if r.get("default") and r.get("calibration"):
            calibration_plot(r, out / "calibration.svg")


def main() -> None:
    """Parse the options and run the parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="default")
    parser.add_argument("--device", default=None)
    parser.add_argument("--precision", choices=("fp32", "bf16", "auto"), default="fp32")
    parser.add_argument("--test", required=True, help="shards of the test set")
    parser.add_argument("--test-name", default="english-test")
    parser.add_argument("--left-out", default=None, help="shards of the sources that were left out of training")
    parser.add_argument("--train", required=True, help="shards of the training set, for baselines and neighbours")
    parser.add_argument("--out", default="docs/results")
    parser.add_argument("-n", type=int, default=1000, help="texts for the default strategy and the baselines")
    parser.add_argument("--n-strategies", type=int, default=300, help="texts for each other strategy")
    parser.add_argument("--n-left-out", type=int, default=500, help="texts of each source left out")
    parser.add_argument("--neighbours", type=int, default=200_000)
    parser.add_argument("--prior-texts", type=int, default=0, help="texts that the closed form is fitted on; 0: all")
    parser.add_argument("--strategies", nargs="+", default=None)
    parser.add_argument("--passes", nargs="*", type=int, default=[1, 2, 4, 8, 16], help="the default with so many")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--no-cosine", action="store_true")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--progress", action="store_true")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if args.threads:
        torch.set_num_threads(args.threads)
    if set(args.only) - {"page"}:
        run(Runner(args), args)
    if "page" in args.only:
        draw(Path(args.out))


def run(runner: Runner, args: argparse.Namespace) -> None:
    """Measure what was asked for."""
    default = runner.inverter.resolve({}).strategy
    test = ShardDataset(args.test)
    whole = EvaluationSet.from_rows(args.test_name, test, args.n, args.seed)
    if "default" in args.only:
        runner.strategy(whole, harness.Setting(default, default=True), RATES)
    if "strategies" in args.only:
        part = EvaluationSet.from_rows(args.test_name, test, args.n_strategies, args.seed)
        causal = runner.inverter.denoiser.config.causal
        names = args.strategies or [n for n in STRATEGIES if n != default and (causal or n not in CAUSAL_STRATEGIES)]
        if runner.inverter.denoiser.token_prior is None:
            names = [n for n in names if n != "prior"]
        for name in names:
            runner.strategy(part, harness.Setting(name))
        for passes in () if default in ("left-to-right", "prior") else args.passes:  # those have no number of passes
            runner.strategy(part, harness.Setting(default, {"passes": passes}, f"{default}-{passes}-passes"))
    if "baselines" in args.only:
        for name in baselines.BASELINES:
            runner.baseline(whole, name)
    if "left-out" in args.only and args.left_out:
        for data in left_out_sets(Path(args.left_out), args.n_left_out, args.seed):
            runner.strategy(data, harness.Setting(default, default=True), left_out=True)
            runner.baseline(data, "nearest-neighbour", left_out=True)


if __name__ == "__main__":
    main()
