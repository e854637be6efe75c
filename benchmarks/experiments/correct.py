"""What a corrector brings: left-to-right drafts, corrected 0, 1, 2, 4 and 8 times, beside best-of at equal queries.

    python -m benchmarks.experiments.correct --data shards/validation -n 300 --out docs/results/correct.json

k corrections cost k + 1 queries: the draft is asked too. Best-of asks the same draft and samples of the same network.
The nearest draft so far counts, for both. A third arm begins with the true texts, some positions of which the denoiser
filled anew (`training/pairs/draft_pairs.py`): what a search sees near its end. Texts are scored on token ids, with
95% bootstrap intervals.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import machine
from unembed.checkpoint.corrector_file import CORRECTOR_FILE, corrector_notes, read_corrector
from unembed.checkpoint.shipped import find_checkpoint
from unembed.data.shards import ShardDataset
from unembed.decoding.loop import finish
from unembed.evaluation.sets import EvaluationSet, seeded_subset
from unembed.files import sha256_file, write_json
from unembed.inverter import Inverter
from unembed.metrics.bootstrap import Statistic, summary
from unembed.metrics.text import id_statistics
from unembed.refinement.correction import Correction
from unembed.refinement.queries import CachedEncoder, History, Method, rounds
from unembed.refinement.search import Search, SearchConfig
from unembed.training.pairs.draft_pairs import PairMaker
from unembed.training.pairs.pair_files import Texts

SHOWN = ("exact_match", "token_f1", "token_accuracy", "edit_similarity")
BINS = ((1, 8), (9, 16), (17, 31), (32, 32))


def scores(found: list[History], data: EvaluationSet, queries: int, chosen: np.ndarray) -> dict[str, Any]:
    """Metrics of the nearest drafts among the first `queries`, over the texts of `chosen`."""
    best = [found[i].best(queries) for i in chosen]
    ids = [list(asked.ids) if asked is not None else [] for asked in best]
    rows = id_statistics(ids, [data.ids[i] for i in chosen])
    cosines = np.array([asked.cosine if asked is not None else 0.0 for asked in best])
    return {name: summary(rows[name]) for name in SHOWN} | {"cosine": summary(Statistic.mean(cosines))}


def curve(found: list[History], data: EvaluationSet, counts: list[int]) -> dict[str, Any]:
    """The metrics after each number of corrections, over all texts and by length."""
    lengths = data.lengths
    out: dict[str, Any] = {}
    for count in counts:
        row = scores(found, data, count + 1, np.arange(len(data)))
        for low, high in BINS:
            inside = np.flatnonzero((lengths >= low) & (lengths <= high))
            if len(inside):
                row[f"length {low}-{high}"] = {"n": len(inside), **scores(found, data, count + 1, inside)}
        row["queries"] = float(np.mean([min(result.queries, count + 1) for result in found]))
        out[str(count)] = row
    return out


def run(method: Method, queries: int) -> list[History]:
    """Spend the queries."""
    finish(rounds(method, queries))
    return method.histories


def main() -> None:
    """Parse the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="default")
    parser.add_argument("--corrector", help="its file; default: the one beside the model's weights")
    parser.add_argument("--data", required=True, help="shards")
    parser.add_argument("--name", default="english-validation")
    parser.add_argument("-n", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, nargs="+", default=[0, 1, 2, 4, 8])
    parser.add_argument("--beam", type=int, default=1)
    parser.add_argument("--temperature", type=float, default=0.5, help="of the samples of best-of")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    inverter = Inverter.from_pretrained(args.model, device="cpu", precision=args.precision)
    corrector = read_corrector(args.corrector, inverter.denoiser) if args.corrector else inverter.corrector
    if corrector is None:
        sys.exit(f"{args.model} has no corrector: name one with --corrector.")
    path = Path(args.corrector) if args.corrector else find_checkpoint(args.model) / CORRECTOR_FILE
    dataset = ShardDataset(args.data)
    data = EvaluationSet.from_rows(args.name, dataset, args.n, args.seed)
    vectors = torch.from_numpy(data.vectors)
    most = max(args.rounds)
    began = time.monotonic()
    greedy = [draft.ids for draft in inverter.drafts(data.vectors, strategy="left-to-right", beam=1)]
    seconds = {"draft": time.monotonic() - began}
    began = time.monotonic()
    encoder = CachedEncoder(inverter.encoder, inverter.tokenizer)
    first = [[ids] for ids in greedy]
    corrected = run(Correction(corrector, inverter.denoiser, vectors, first, encoder, args.beam), most + 1)
    seconds["correct"] = time.monotonic() - began
    began = time.monotonic()
    samples = inverter.drafts(
        data.vectors, strategy="left-to-right", beam=1, samples=most, temperature=args.temperature
    )
    drafts = [[ids, d.ids, *(a.ids for a in d.alternatives)] for ids, d in zip(greedy, samples, strict=True)]
    encoder = CachedEncoder(inverter.encoder, inverter.tokenizer)
    config = SearchConfig(first=most + 1, ask=most + 1, moves=())
    best_of = run(Search(inverter.denoiser, vectors, drafts, encoder, config), most + 1)
    seconds["best-of"] = time.monotonic() - began
    began = time.monotonic()
    maker = PairMaker(inverter.denoiser, inverter.tokenizer, inverter.encoder.encode)
    texts = Texts.read(dataset, seeded_subset(len(dataset), args.n, args.seed))
    filled, _ = maker.filled(texts, args.seed)
    encoder = CachedEncoder(inverter.encoder, inverter.tokenizer)
    made = [[tuple(ids)] for ids in filled]
    near = run(Correction(corrector, inverter.denoiser, vectors, made, encoder, args.beam), most + 1)
    seconds["filled"] = time.monotonic() - began
    notes = corrector_notes(path)
    write_json(
        args.out,
        {
            "data": {"name": args.name, "n": len(data), "of": data.of, "seed": args.seed},
            "encoder": inverter.identity.name,
            "checkpoint": {"name": inverter.name, "sha256": inverter.sha256},
            "corrector": {**notes, "file_sha256": sha256_file(path), "bytes": os.path.getsize(path)},
            "draft": {"strategy": "left-to-right", "beam": 1},
            "beam": args.beam,
            "temperature": args.temperature,
            "precision": inverter.precision,
            "seconds": {name: round(value, 1) for name, value in seconds.items()},
            "passes": float(np.mean([result.passes for result in corrected])),
            "machine": machine(),
            "corrections": curve(corrected, data, args.rounds),
            "best-of": curve(best_of, data, args.rounds),
            "filled": curve(near, data, args.rounds),
        },
    )
    for name, found in (("correct", corrected), ("best-of", best_of), ("filled", near)):
        for count in args.rounds:
            row = scores(found, data, count + 1, np.arange(len(data)))
            print(name, count, {key: round(value["value"], 4) for key, value in row.items()}, flush=True)


if __name__ == "__main__":
    main()
