"""How much does it help an attacker to know part of the text: tokens, words, the beginning, the length?

    python -m benchmarks.experiments.constraints --test shards/test -n 300 --precision bf16

Each scenario is decoded under its constraints and compared with a control that puts what is known into the
unconstrained result: tokens at their positions, missing words at the end, a result cut to the length. Writes a JSON
file, a Markdown table (`--table`) and a figure (`--figure`). `--only-report` makes the last two from the JSON.
`--resume` keeps the rows that the JSON holds already.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reports.marks import fill
from reports.plots import known_plot
from unembed.data.shards import ShardDataset
from unembed.evaluation.sets import EvaluationSet
from unembed.evaluation.tables import cell, write_csv
from unembed.evaluation.tables import table as markdown
from unembed.files import write_json
from unembed.inverter import Inverter
from unembed.metrics.bootstrap import summary
from unembed.metrics.partial import unknown_statistics
from unembed.metrics.text import bleu_signature, text_statistics

SHARES = (0.1, 0.25, 0.5)
STRATEGIES: dict[str, dict[str, Any]] = {"default": {}, "adaptive": {"strategy": "adaptive", "lengths": 1}}
KEPT = ("token_f1", "token_f1_unknown", "token_accuracy", "token_accuracy_unknown", "exact_match", "bleu")
LABELS = {
    "nothing": "nothing",
    "length": "the length",
    "positions": "{} of the tokens, with their positions",
    "words": "{} of the tokens, as words without positions",
    "prefix": "the first {} of the tokens",
}


class Scenario:
    """What is known of each text, as options of `Inverter.invert`, and the control.

    Args:
        kind: nothing, length, positions, words or prefix.
        share: of the tokens that are known.
        data: the texts.
        inverter: for its tokenizer.
        seed: of the positions that are drawn; the same for positions and words.
    """

    def __init__(self, kind: str, share: float, data: EvaluationSet, inverter: Inverter, seed: int) -> None:
        self.kind, self.share, self.refs = kind, share, [[int(i) for i in ids] for ids in data.ids]
        rng = np.random.default_rng([seed, int(100 * share)])
        glued = [s[:1] not in ("", " ") for s in inverter.tokenizer.surfaces]
        self.known: list[set[int]] = []
        for ids in self.refs:
            count = max(1, round(share * len(ids))) if share else 0
            order = [int(i) for i in rng.permutation(len(ids))]
            if kind == "words":  # tokens that are whole words, so that a word list can name them
                last = len(ids) - 1
                order = [i for i in order if not glued[ids[i]] and (i == last or not glued[ids[i + 1]])]
            self.known.append(set(range(count)) if kind == "prefix" else set(order[:count]))
        self.options: dict[str, Any] = {}
        if kind in ("positions", "prefix"):
            given = np.full((len(self.refs), inverter.max_length), -1)
            for row, places in zip(given, zip(self.refs, self.known, strict=True), strict=True):
                for i in places[1]:
                    row[i] = places[0][i]
            self.options["given"] = given
        elif kind == "words":
            names = [inverter.tokenizer.tokens(ids) for ids in self.refs]
            self.options["required"] = [[n[i] for i in sorted(k)] for n, k in zip(names, self.known, strict=True)]
        elif kind == "length":
            self.options["length"] = [len(ids) for ids in self.refs]

    def control(self, found: Sequence[Sequence[int]]) -> list[list[int]]:
        """Put what is known into results that were found without it."""
        out = []
        for pred, ref, known in zip(found, self.refs, self.known, strict=True):
            ids = list(pred)
            if self.kind == "length":
                ids = ids[: len(ref)]
            elif self.kind == "words":
                ids += (Counter(ref[i] for i in known) - Counter(ids)).elements()
            else:
                for i in sorted(known):
                    ids[i : i + 1] = [ref[i]]  # behind the end it is appended
            out.append(ids)
        return out


def scores(preds: Sequence[Sequence[int]], scenario: Scenario, inverter: Inverter, seed: int) -> dict[str, Any]:
    """The metrics of `KEPT`, each with its interval."""
    found = text_statistics(preds, scenario.refs, inverter.tokenizer.detokenize)
    found |= unknown_statistics(preds, scenario.refs, scenario.known)
    return {name: summary(found[name], seed=seed) for name in KEPT}


def held(preds: Sequence[Sequence[int]], scenario: Scenario) -> float:
    """Share of results that satisfy the constraints; 1 unless something is broken."""
    right = []
    for pred, ref, known in zip(preds, scenario.refs, scenario.known, strict=True):
        if scenario.kind == "length":
            right.append(len(pred) == len(ref))
        elif scenario.kind == "words":
            right.append(not Counter(ref[i] for i in known) - Counter(pred))
        else:
            right.append(all(i < len(pred) and pred[i] == ref[i] for i in known))
    return float(np.mean(right))


def table(result: dict[str, Any]) -> str:
    """The Markdown table of a result: the strategy of its first rows, decoded beside the control."""
    shown = ("token_f1_unknown", "token_accuracy_unknown", "exact_match")
    strategy = result["rows"][0]["strategy"]
    body = []
    for row in result["rows"]:
        if row["strategy"] == strategy:
            cells = [cell(name, row.get(how, {}).get(name)) for name in shown for how in ("decoded", "control")]
            body.append([LABELS[row["known"]].format(f"{row['share']:.0%}"), *cells])
    head = ["known", "token_f1", "control", "token_accuracy", "control", "exact_match", "control"]
    text = (
        f"{result['data']['name']}, n = {result['data']['n']}, seed {result['seed']}, `{strategy}`, checkpoint "
        f"{result['checkpoint'][:8]}, {result['precision']}; 95% bootstrap intervals over texts. `token_f1` and "
        "`token_accuracy` count the tokens that were not known. All metrics, and the strategy `adaptive`: "
        "[constraints.csv](results/constraints.csv).\n"
    )
    return f"{text}\n{markdown(head, body)}"


def spread(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Every number of a result, a row for each scenario decoded and each control."""
    named = ("strategy", "known", "share", "known_tokens", "passes", "satisfied")
    rows = [(row, how) for row in result["rows"] for how in ("decoded", "control") if how in row]
    return [{**{key: row[key] for key in named}, "how": how, **row[how]} for row, how in rows]


def main() -> None:
    """Run the scenarios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="default")
    parser.add_argument("--test")
    parser.add_argument("-n", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", choices=("fp32", "bf16", "auto"), default="fp32")
    parser.add_argument("--strategies", nargs="*", default=list(STRATEGIES))
    parser.add_argument("--out", default="docs/results/constraints.json")
    parser.add_argument("--table", default="docs/constraints.md", help="page with marks where the table goes")
    parser.add_argument("--figure", default="docs/results/constraints.svg")
    parser.add_argument("--only-report", action="store_true")
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if not args.only_report:
        torch.set_num_threads(args.threads)
        run(args)
    result = json.loads(Path(args.out).read_text(encoding="utf-8"))
    fill(args.table, "table", table(result))
    write_csv(Path(args.out).with_suffix(".csv"), spread(result))
    known_plot(result, args.figure)


def run(args: argparse.Namespace) -> None:
    """Decode every scenario; the JSON is written after each."""
    inverter = Inverter.from_pretrained(args.model, device="cpu", precision=args.precision)
    data = EvaluationSet.from_rows("english-test", ShardDataset(args.test), args.n, args.seed)
    result: dict[str, Any] = {
        "data": {"name": data.name, "n": len(data), "of": data.of},
        "seed": args.seed,
        "checkpoint": inverter.sha256,
        "encoder": inverter.identity.name,
        "precision": inverter.precision,
        "bootstrap": {"resamples": 1000, "level": 0.95, "seed": args.seed},
        "bleu_signature": bleu_signature(),
        "rows": [],
    }
    done: dict[tuple[str, float, str], dict[str, Any]] = {}
    if args.resume and Path(args.out).exists():
        before = json.loads(Path(args.out).read_text(encoding="utf-8"))
        if any(before[key] != result[key] for key in ("data", "seed", "checkpoint", "precision")):
            raise SystemExit(f"{args.out} was measured with other settings; give another --out.")
        done = {(row["known"], row["share"], row["setting"]): row for row in before["rows"]}
    kinds = [("nothing", 0.0), ("length", 0.0)]
    kinds += [(kind, share) for kind in ("positions", "words", "prefix") for share in SHARES]
    plain: dict[str, list[tuple[int, ...]]] = {}
    for kind, share in kinds:
        scenario = Scenario(kind, share, data, inverter, args.seed)
        for name in args.strategies:
            options = STRATEGIES[name]
            if kind != "nothing" and (kind, share, name) in done:  # the controls need the results without knowledge
                result["rows"].append(done[kind, share, name])
                continue
            began = time.perf_counter()
            found = inverter.invert(data.vectors, **options, **scenario.options)
            seconds = time.perf_counter() - began
            preds = [recovery.token_ids for recovery in found]
            row: dict[str, Any] = {
                "strategy": inverter.resolve(options).strategy,
                "setting": name,
                "options": {**(inverter.model.defaults if name == "default" else {}), **options},
                "known": kind,
                "share": share,
                "known_tokens": float(np.mean([len(k) for k in scenario.known])),
                "passes": float(np.mean([recovery.passes for recovery in found])),
                "satisfied": held(preds, scenario),
                "decoded": scores(preds, scenario, inverter, args.seed),
            }
            if kind == "nothing":
                plain[name] = preds
            else:
                row["control"] = scores(scenario.control(plain[name]), scenario, inverter, args.seed)
            result["rows"].append(row)
            shown = "  ".join(f"{k} {row['decoded'][k]['value']:.3f}" for k in KEPT)
            logging.info("%s %s %s  %s  %.0f s", row["strategy"], kind, share or "", shown, seconds)
            if not done or kind != "nothing":
                write_json(Path(args.out), result)
    write_json(Path(args.out), result)


if __name__ == "__main__":
    main()
