"""The same denoiser in several vector spaces: each run on the same texts, beside its baselines; docs/encoders.md.

    python -m benchmarks.experiments.spaces data/spaces --spaces minilm minilm-256 lsa --out docs/results/spaces.json

Under ROOT lie, for each space, runs/NAME (a run of `unembed train`), train/NAME and test/NAME (shards that
`spaces_shards.py` wrote). Spaces that the file holds for the same checkpoint are kept (--again repeats them), so that
it can be stopped and started; --page fills the table of docs/encoders.md from it and measures nothing.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import Any

import torch

from reports.marks import fill
from reports.results import fit_priors, trained_on
from unembed.data.shards import ShardDataset
from unembed.decoding.config import CAUSAL_STRATEGIES
from unembed.evaluation import baselines, harness
from unembed.evaluation.sets import EvaluationSet, TrainingSample
from unembed.evaluation.tables import cell, table
from unembed.files import read_json, write_json
from unembed.inverter import Inverter

SHOWN = ("token_f1", "token_accuracy", "exact_match", "cosine")
BASELINES = ("random-tokens", "unconditional", "nearest-neighbour", "closed-form")
_log = logging.getLogger("spaces")


def training(run: Path) -> dict[str, Any]:
    """What a run says of itself: texts and steps done, and its time in minutes."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    last = [line for line in lines if line["kind"] == "train"][-1]
    recipe = read_json(run / "checkpoint" / "recipe.json")
    return {
        "texts_seen": last["texts"],
        "steps": last["step"],
        "minutes": round(last["seconds"] / 60, 1),
        "seed": recipe["run"]["seed"],
        "threads": recipe["run"]["threads"],
    }


def settings(inverter: Inverter) -> list[harness.Setting]:
    """The default strategy, and left to right with a beam of 4 where the network can."""
    default = inverter.resolve({}).strategy
    found = [harness.Setting(default, default=True)]
    if inverter.denoiser.config.causal and "left-to-right" in CAUSAL_STRATEGIES:
        found.append(harness.Setting("left-to-right", {"beam": 4}))
    return found


def measure(root: Path, name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Every run in one space."""
    checkpoint = root / "runs" / name / "checkpoint"
    inverter = Inverter.from_pretrained(str(checkpoint), "cpu", "fp32")
    shards = ShardDataset(root / "train" / name)
    inverter.use_encoder(shards.identity.name)  # they are of this machine, and so may name a folder
    train = trained_on(shards, str(checkpoint))
    data = EvaluationSet.from_rows(args.test_name, ShardDataset(root / "test" / name), args.n, args.seed)
    sample = TrainingSample.from_rows(train, args.neighbours, args.seed)
    nearest = sample.nearest(data.vectors)[1]
    common = {"nearest": nearest, "encoder": inverter.encoder, "seed": args.seed}
    runs = []
    for setting in settings(inverter):
        _log.info("%s: %s", name, setting.label)
        runs.append(harness.evaluate_set(inverter, data, setting, **common))
    for baseline in BASELINES:
        _log.info("%s: baseline %s", name, baseline)
        config = inverter.resolve({"seed": args.seed})
        preds, passes, seconds = baselines.run_baseline(
            baseline, inverter, data, sample, config, args.seed, lambda: fit_priors(train, inverter, args.prior_texts)
        )
        runs.append(
            harness.evaluate_baseline(baseline, preds, inverter, data, seconds=seconds, passes=passes, **common)
        )
    kept = ("kind", "name", "default", "strategy", "options", "passes", "queries", "seconds", "metrics", "floors")
    return {
        "space": name,
        "encoder": inverter.identity.name.partition(":")[0],
        "dimension": inverter.identity.dimension,
        "checkpoint": inverter.sha256,
        "training": {"texts": len(train), **training(root / "runs" / name)},
        "neighbours": len(sample),
        "data": runs[0]["data"],
        "machine": runs[0]["machine"],
        "runs": [{key: run[key] for key in kept if key in run} | {"examples": run.get("examples")} for run in runs],
    }


def page(value: dict[str, Any]) -> str:
    """The part of docs/encoders.md between the markers."""
    spaces = value["spaces"]
    data = spaces[0]["data"]
    rows = []
    for space in spaces:
        floor = next((r["floors"]["cosine"] for r in space["runs"] if "cosine" in r.get("floors", {})), None)
        for run in space["runs"]:
            label = f"baseline: {run['name']}" if run["kind"] == "baseline" else f"`{run['name']}`"
            scores = [cell(name, run["metrics"].get(name)) for name in SHOWN]
            rows.append([space["space"], label, f"{run.get('passes') or 0:.0f}", *scores])
        rows.append([space["space"], "random pairs of texts", "-", "-", "-", "-", cell("cosine", floor)])
    trained = [
        [
            s["space"],
            str(s["dimension"]),
            f"{s['training']['texts']:,}",
            f"{s['training']['texts_seen']:,}",
            f"{s['training']['steps']:,}",
            f"{s['training']['minutes']:.0f}",
        ]
        for s in spaces
    ]
    return "\n".join(
        [
            "## Three spaces",
            "",
            "The same network, recipe, texts and number of steps in each space. Made by",
            "`benchmarks/experiments/spaces.py` from `docs/results/spaces.json`; no number here is typed. Vectors of",
            "LSA hold no order: what counts there is `token_f1`, and the order that comes back is the network's guess.",
            "",
            table(["space", "dimensions", "texts there", "texts seen", "steps", "minutes"], trained),
            f"{data['name']}, n = {data['n']} of {data['of']} texts (seed {data['seed']}), no queries, 95% bootstrap "
            "intervals. `cosine` is in each",
            "space's own vectors and is comparable only to the floor of its own space.",
            "",
            table(["space", "run", "passes", *SHOWN], rows, left=2),
            *value.get("notes", []),
            "",
        ]
    )


def main() -> None:
    """Parse the options, measure, and fill the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", nargs="?", help="folder with runs/, train/ and test/")
    parser.add_argument("--spaces", nargs="+", default=["minilm", "minilm-256", "lsa"])
    parser.add_argument("--test-name", default="english-test")
    parser.add_argument("-n", type=int, default=300)
    parser.add_argument("--neighbours", type=int, default=200_000)
    parser.add_argument("--prior-texts", type=int, default=0, help="texts that the closed form is fitted on; 0: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", default="docs/results/spaces.json")
    parser.add_argument("--docs", default="docs/encoders.md")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--page", action="store_true", help="only fill the table")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(args.threads)
    out = Path(args.out)
    value = read_json(out) if out.exists() else {"kind": "spaces", "spaces": []}
    if not args.page:
        if args.root is None:
            parser.error("name the folder with the runs, or ask for --page")
        known = {s["space"]: s for s in value["spaces"]}
        for name in args.spaces:
            sha = Inverter.from_pretrained(str(Path(args.root) / "runs" / name / "checkpoint"), "cpu").sha256
            if args.again or known.get(name, {}).get("checkpoint") != sha:
                known[name] = measure(Path(args.root), name, args)
            value["spaces"] = [known[n] for n in args.spaces if n in known]
            write_json(out, value)
    fill(args.docs, "spaces", page(value))


if __name__ == "__main__":
    main()
