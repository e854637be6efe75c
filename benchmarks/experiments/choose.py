"""Which strategy drafts best on held-out validation texts: the evidence for the default of `DecodeConfig`.

    python -m benchmarks.experiments.choose --model runs/default/checkpoint --validation shards/validation -n 300

Writes one JSON file with a row a setting: metrics with 95% intervals, passes, seconds. The test set is never touched.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

import torch

from unembed.data.shards import ShardDataset
from unembed.evaluation.harness import Setting, evaluate_set
from unembed.evaluation.sets import EvaluationSet
from unembed.files import write_json
from unembed.inverter import Inverter

SHOWN = ("token_f1", "token_accuracy", "exact_match", "bleu")
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "greedy": ("left-to-right", {}),
    "beam-8": ("left-to-right", {"beam": 8}),
    "beam-16": ("left-to-right", {"beam": 16}),
    "beam-8-student-50": ("left-to-right", {"beam": 8, "choose": "student", "student_weight": 50.0}),
    "beam-8-student-100": ("left-to-right", {"beam": 8, "choose": "student", "student_weight": 100.0}),
    "beam-8-student-200": ("left-to-right", {"beam": 8, "choose": "student", "student_weight": 200.0}),
    "beam-16-student-50": ("left-to-right", {"beam": 16, "choose": "student", "student_weight": 50.0}),
    "beam-16-student-100": ("left-to-right", {"beam": 16, "choose": "student", "student_weight": 100.0}),
    "beam-16-student-200": ("left-to-right", {"beam": 16, "choose": "student", "student_weight": 200.0}),
    "beam-16-student": (
        "left-to-right",
        {"beam": 16, "choose": "student", "student_weight": 60.0, "length_power": 0.25, "length_weight": 0.5},
    ),
    "beam-8-correct-4-student": (
        "draft-correct",
        {"beam": 8, "passes": 4, "remask_rate": 0.3, "choose": "student", "student_weight": 100.0},
    ),
    "beam-32-student-100": ("left-to-right", {"beam": 32, "choose": "student", "student_weight": 100.0}),
    "beam-32-student": (
        "left-to-right",
        {"beam": 32, "choose": "student", "student_weight": 100.0, "length_power": 0.25, "length_weight": 0.5},
    ),
    "samples-16-student-100": (
        "left-to-right",
        {"samples": 16, "temperature": 0.5, "choose": "student", "student_weight": 100.0},
    ),
    "beam-4-correct-4": ("draft-correct", {"beam": 4, "passes": 4, "remask_rate": 0.3}),
    "adaptive-8": ("adaptive", {"passes": 8}),
    "confidence-16": ("confidence", {"passes": 16}),
}


def main() -> None:
    """Evaluate the chosen settings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="default")
    parser.add_argument("--validation", required=True)
    parser.add_argument("-n", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--precision", choices=("fp32", "bf16", "auto"), default="fp32")
    parser.add_argument("--settings", nargs="*", default=list(SETTINGS))
    parser.add_argument("--out", default="docs/results/extra/choose.json")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if args.threads:
        torch.set_num_threads(args.threads)
    inverter = Inverter.from_pretrained(args.model, precision=args.precision)
    data = EvaluationSet.from_rows("english-validation", ShardDataset(args.validation), args.n, args.seed)
    rows = []
    for name in args.settings:
        strategy, options = SETTINGS[name]
        result = evaluate_set(inverter, data, Setting(strategy, options, name), seed=args.seed)
        kept = ("name", "strategy", "options", "seed", "data", "encoder", "checkpoint", "passes", "seconds", "metrics")
        rows.append({key: result[key] for key in kept})
        figures = result["metrics"]
        shown = "  ".join(f"{k} {figures[k]['value']:.3f}" for k in SHOWN)
        logging.info("%-26s %s  passes %.0f  %.0f s", name, shown, result["passes"], result["seconds"])
        write_json(Path(args.out), rows)


if __name__ == "__main__":
    main()
