"""Fits the surrogate that ranks refinement's proposals, and says how well it ranks.

    python -m benchmarks.experiments.fit_surrogate --data data/validation -n 60 --write \
        --out docs/results/surrogate.json

A short search runs on validation texts; some of the drafts that it asked are expanded without any cut, and a random
half and a promising half of the proposals are asked. The change of the cosine is then regressed on the features of each
kind of move (ridge). Texts are split in two: weights from four fifths, the figures from the rest. With --write the
weights go into the student's file of the checkpoint.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unembed.checkpoint.shipped import find_checkpoint
from unembed.checkpoint.student_file import StudentFile, read_student, write_student
from unembed.data.shards import ShardDataset
from unembed.decoding.loop import finish
from unembed.evaluation.sets import EvaluationSet
from unembed.files import write_json
from unembed.inverter import Inverter
from unembed.network.denoiser import autocast
from unembed.network.difference import DifferencePrior
from unembed.refinement.forecast import Forecaster
from unembed.refinement.moves import Mover, MoverConfig
from unembed.refinement.queries import CachedEncoder, rounds
from unembed.refinement.search import Search, SearchConfig
from unembed.refinement.slots import Expansion
from unembed.refinement.surrogate import MOVES, PLAIN, Surrogate

RIDGE = np.array([1e-6, 1e-4, 1e-2, 1e-6, 1e-6])  # of constant, log-likelihood, whitened, plain, forecast; per sample


def explore(
    inverter: Inverter, student: StudentFile | None, data: EvaluationSet, each: int, seed: int
) -> list[dict[str, Any]]:
    """Ask proposals around drafts of a short search: one dict of text, move, features and true change each."""
    denoiser, rng = inverter.denoiser, np.random.default_rng(seed)
    target = torch.nn.functional.normalize(torch.from_numpy(data.vectors).float(), dim=1)
    drafts = inverter.drafts(data.vectors, strategy="left-to-right", beam=4)
    candidates = [[d.ids, *(a.ids for a in d.alternatives)] for d in drafts]
    encoder = CachedEncoder(inverter.encoder, inverter.tokenizer)
    search = Search(denoiser, target, candidates, encoder, SearchConfig(first=4), student=student)
    finish(rounds(search, 48))
    parents, texts = [], []
    for text, result in enumerate(search.histories):
        ranked = sorted((a for a in result.asked if 0 < len(a.ids) and a.cosine < 0.9999), key=lambda a: -a.cosine)
        for k in sorted({0, 1, len(ranked) // 4, len(ranked) // 2} & set(range(len(ranked)))):
            parents.append(ranked[k])
            texts.append(text)
    with torch.inference_mode(), autocast(denoiser):
        condition = denoiser.condition(target)
        lengths = denoiser.length_log_probs(target)
    vectors = encoder.encode([a.text for a in parents])
    own = torch.from_numpy(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    forecaster = None
    if student is not None:
        forecaster = Forecaster(student.student, denoiser.embedding.weight, target, denoiser.embedding.weight.dtype)
    mover = Mover(denoiser, forecaster, config=MoverConfig(look=1000, most=1000))
    rows: list[dict[str, Any]] = []
    for start in range(0, len(parents), 32):
        part = slice(start, start + 32)
        with torch.inference_mode():
            difference = DifferencePrior(denoiser)(target[texts[part]], own[part])
        expansion = Expansion([a.ids for a in parents[part]], texts[part], difference, condition, lengths)
        proposals, _ = finish(mover(expansion, own[part]))
        for parent, text, many in zip(parents[part], texts[part], proposals, strict=True):
            promising = sorted(many, key=lambda p: -max(p.gain, p.features[3]))[: each // 2]
            others = [many[i] for i in rng.permutation(len(many))[: each - len(promising)]]
            chosen = list({p.ids: p for p in [*promising, *others]}.values())
            settled = encoder.settle([p.ids for p in chosen])
            kept = [(p, s[0]) for p, s in zip(chosen, settled, strict=True) if s[1] == p.ids]
            if not kept:
                continue
            answers = encoder.encode([s for _, s in kept])
            answers = answers / np.linalg.norm(answers, axis=1, keepdims=True)
            for (proposal, _), cosine in zip(kept, answers @ target[text].numpy(), strict=True):
                change = float(cosine) - parent.cosine
                rows.append({"text": text, "move": proposal.move, "features": proposal.features,
                             "change": change, "group": (text, parent.ids)})  # fmt: skip
    return rows


def fit(rows: list[dict[str, Any]], clip: float) -> dict[str, list[float]]:
    """Ridge regression for each kind of move that is there; a kind with few samples takes the weights of all."""

    def design(part: list[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
        x = np.array([[1.0, *r["features"]] for r in part])
        x[:, 1] = x[:, 1].clip(-clip, clip)
        return x, np.array([r["change"] for r in part])

    def solve(part: list[dict[str, Any]]) -> list[float]:
        x, y = design(part)
        return [float(v) for v in np.linalg.solve(x.T @ x / len(x) + np.diag(RIDGE), x.T @ y / len(x))]

    every = solve(rows)
    parts = {move: [r for r in rows if r["move"] == move] for move in MOVES}
    return {move: solve(part) if len(part) >= 200 else every for move, part in parts.items() if part}


def judge(rows: list[dict[str, Any]], surrogate: Surrogate) -> dict[str, Any]:
    """Correlation of guess and truth by move, and the truth about the eight that a draft's ranking puts first."""
    groups: dict[Any, list[tuple[float, float]]] = defaultdict(list)
    moves: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for r in rows:
        pair = (surrogate.gain(r["move"], r["features"]), r["change"])
        groups[r["group"]].append(pair)
        moves[r["move"]].append(pair)
    first = [max(t for _, t in sorted(g, key=lambda p: -p[0])[:8]) for g in groups.values()]
    best = [max(t for _, t in g) for g in groups.values()]
    return {
        "correlation": {m: float(np.corrcoef(np.array(v).T)[0, 1]) for m, v in moves.items() if len(v) > 20},
        "n": {m: len(v) for m, v in moves.items()},
        "best_of_first_8": float(np.mean(first)),
        "best_of_all": float(np.mean(best)),
        "drafts": len(groups),
    }


def main() -> None:
    """Explore, fit, judge, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="default")
    parser.add_argument("--data", required=True, help="validation shards")
    parser.add_argument("-n", type=int, default=60)
    parser.add_argument("--each", type=int, default=48, help="proposals asked of a draft")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--write", action="store_true", help="store the weights in the checkpoint's student file")
    args = parser.parse_args()
    inverter = Inverter.from_pretrained(args.model, device="cpu", precision="auto")
    folder = find_checkpoint(args.model)
    file = read_student(folder, inverter.sha256)
    data = EvaluationSet.from_rows("english-validation", ShardDataset(args.data), args.n, args.seed)
    began = time.perf_counter()
    rows = explore(inverter, file, data, args.each, args.seed)
    train, test = [r for r in rows if r["text"] % 5], [r for r in rows if not r["text"] % 5]
    weights = fit(train, PLAIN.clip)
    fitted = Surrogate({**PLAIN.weights, **{move: tuple(w) for move, w in weights.items()}})
    result = {
        "model": inverter.sha256,
        "student": file is not None,
        "data": {"name": data.name, "n": args.n, "seed": args.seed},
        "samples": len(rows),
        "seconds": time.perf_counter() - began,
        "weights": weights,
        "held_out": {"fitted": judge(test, fitted), "guessed": judge(test, PLAIN)},
    }
    write_json(args.out, result)
    print(result["held_out"])
    if args.write and file is not None:
        file.surrogate = {**file.surrogate, **fit(rows, PLAIN.clip)}
        write_student(folder, file, inverter.sha256)


if __name__ == "__main__":
    main()
