"""What a student encoder knows: its cosine to the encoder, and which of a beam's drafts it would take without a query.

    python -m benchmarks.experiments.student --data shards/validation -n 300 --out docs/results/student.json

Drafts are those of left-to-right with a beam of 8. The likelihood's choice, the student's choice (the draft whose
vector, as the student guesses it, lies nearest to the given one) and the best choice there is stand side by side.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from benchmarks.common import machine
from unembed.data.shards import ShardDataset
from unembed.evaluation.sets import EvaluationSet
from unembed.files import write_json
from unembed.inverter import Inverter
from unembed.metrics.bootstrap import Statistic, summary
from unembed.metrics.text import id_statistics
from unembed.refinement.forecast import Forecaster


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="default")
    parser.add_argument("--data", required=True, help="validation shards")
    parser.add_argument("-n", type=int, default=300)
    parser.add_argument("--beam", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    inverter = Inverter.from_pretrained(args.model, device="cpu", precision="auto")
    if inverter.student is None:
        raise SystemExit("This checkpoint has no student; train one from recipes/student.toml.")
    data = EvaluationSet.from_rows("english-validation", ShardDataset(args.data), args.n, args.seed)
    target = torch.nn.functional.normalize(torch.from_numpy(data.vectors).float(), dim=1)
    table = inverter.denoiser.embedding.weight
    forecaster = Forecaster(inverter.student.student, table, target, table.dtype)
    own = forecaster.encode([tuple(ids) for ids in data.ids])
    cosine = (own * target).sum(1).numpy()
    drafts = inverter.drafts(data.vectors, strategy="left-to-right", beam=args.beam)
    options = [list(dict.fromkeys([d.ids, *(a.ids for a in d.alternatives)])) for d in drafts]
    guess = forecaster.encode([ids for part in options for ids in part])
    choices: dict[str, list[tuple[int, ...]]] = {"likelihood": [], "student": [], "best": []}
    at = 0
    for text, (part, truth) in enumerate(zip(options, data.ids, strict=True)):
        near = (guess[at : at + len(part)] @ target[text]).numpy()
        at += len(part)
        overlap = id_statistics([list(ids) for ids in part], [truth] * len(part))["token_f1"].scores
        assert overlap is not None
        choices["likelihood"].append(part[0])
        choices["student"].append(part[int(near.argmax())])
        choices["best"].append(part[int(np.argmax(overlap))])
    found = {}
    for name, chosen in choices.items():
        rows = id_statistics([list(ids) for ids in chosen], data.ids)
        found[name] = {metric: summary(rows[metric]) for metric in ("exact_match", "token_f1", "token_accuracy")}
    result = {
        "model": inverter.sha256,
        "student": inverter.student.notes,
        "data": {"name": data.name, "n": len(data), "seed": args.seed},
        "machine": machine(),
        "beam": args.beam,
        "cosine": summary(Statistic.mean(cosine)),
        "choice": found,
    }
    write_json(args.out, result)
    for name, row in found.items():
        print(name, {metric: round(value["value"], 3) for metric, value in row.items()})


if __name__ == "__main__":
    main()
