"""What comes back for how many queries: one refinement gives the whole curve, because the best of the first k is kept.

Contents: `BUDGETS`, `evaluate_budgets`, `budget_steps`.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from unembed.decoding.loop import finish
from unembed.errors import InputError
from unembed.evaluation.harness import embedder, frame
from unembed.evaluation.measure import measure
from unembed.evaluation.sets import EvaluationSet
from unembed.refinement.refine import DEFAULT, Refine
from unembed.refinement.search import SearchConfig
from unembed.refinement.session import Refinement, Round

if TYPE_CHECKING:
    from unembed.inverter import Inverter

BUDGETS = (0, 1, 4, 16, 64, 256)
KEPT = ("exact_match", "token_f1", "token_accuracy", "bleu", "edit_similarity", "cosine")
EXAMPLES = 8


def evaluate_budgets(inverter: Inverter, data: EvaluationSet, *args: Any, **options: Any) -> dict[str, Any]:
    """What `budget_steps` ends with, with its arguments."""
    return finish(budget_steps(inverter, data, *args, **options))


def budget_steps(
    inverter: Inverter,
    data: EvaluationSet,
    budgets: Sequence[int] = BUDGETS,
    method: str = DEFAULT,
    *,
    search: SearchConfig | None = None,
    name: str = "",
    seed: int = 0,
    batch_size: int | None = None,
    left_out: bool = False,
    options: dict[str, Any] | None = None,
) -> Generator[Round | None, None, dict[str, Any]]:
    """Invert a set with queries and score what a budget of each size brings back.

    Args:
        inverter: the model, with its encoder.
        data: the set, already cut to the n texts that are wanted.
        budgets: numbers of queries per text; 0 is the decode without any.
        method: a key of `METHODS`.
        search: options of the search.
        name: of the result; the method's where empty.
        seed: of decoding and intervals.
        batch_size: vectors refined together.
        left_out: whether the set's source was left out of training.
        options: of the first decode.

    Yields:
        What a session yields.

    Returns:
        JSON values: what every result states, `refinement`, `search`, and `budgets`, one entry a budget with `queries`
        (the budget), `spent` (mean queries per text), `passes` and `seconds` (per text, until the last text of its
        batch had come to that budget; the first drafts are made for the largest), `matched`, and what `measure`
        returns.

    Raises:
        InputError: budgets or a method that make no sense.
        EncoderError: the encoder fails.
    """
    wanted = sorted(set(budgets))
    if not wanted or wanted[0] < 0:
        raise InputError(f"The budgets are {list(budgets)}.", "Give whole numbers of at least 0, such as 0,4,16,64.")
    options = {"seed": seed, **(options or {})}
    config = inverter.resolve(options)
    embed = embedder(inverter, inverter.encoder)
    common = {"display": inverter.tokenizer.detokenize, "embed": embed, "seed": seed}
    result: dict[str, Any] = {
        "kind": "refinement",
        "name": name or method,
        **frame(inverter, data, seed, left_out),
        "strategy": config.strategy,
        "options": asdict(config),
        "refinement": method,
        "search": None,
        "student": None,
        "budgets": [],
    }
    if wanted[0] == 0:
        began = time.perf_counter()
        found = inverter.invert(data.vectors, batch_size=batch_size, **options)
        seconds = time.perf_counter() - began
        cost = {"spent": 0.0, "passes": float(np.mean([one.passes for one in found])), "seconds": seconds / len(data)}
        row: dict[str, Any] = {"queries": 0, **cost, "matched": None}
        result["budgets"].append({**row, **_scores([list(one.token_ids) for one in found], data, common)})
        wanted = wanted[1:]
    if not wanted:
        return result
    size = batch_size or 64
    refine = Refine(wanted[-1], method, search=search)
    session = inverter.session(data.vectors, refine, batch_size=size, **asdict(config))
    result["search"] = {**asdict(session.search), "tolerance": session.tolerance}
    result["student"] = inverter.student is not None
    yield from session
    done = session.results()
    for budget in wanted:
        best = [one.best(budget) for one in done]
        preds = [list(point.ids) if point is not None else [] for point in best]
        matched = [point is not None and point.cosine >= 1 - session.tolerance for point in best]
        row = {"queries": budget, **_cost(done, budget, size), "matched": float(np.mean(matched))}
        result["budgets"].append({**row, **_scores(preds, data, common)})
    result["examples"] = [
        {
            "text": inverter.tokenizer.detokenize(list(data.ids[i])),
            "recovered": inverter.tokenizer.detokenize(list(done[i].drafts[0].ids)),
            "cosine": done[i].cosine,
            "queries": done[i].queries,
        }
        for i in range(min(EXAMPLES, len(data)))
    ]
    return result


def _scores(preds: list[list[int]], data: EvaluationSet, common: dict[str, Any]) -> dict[str, Any]:
    """The metrics that a curve shows, over all texts and by length."""
    report = measure(preds, data, **common)
    report["metrics"] = {name: report["metrics"][name] for name in KEPT}
    for row in report["bins"]["length"]:
        if "metrics" in row:
            row["metrics"] = {name: row["metrics"][name] for name in KEPT}
    return report


def _cost(done: Sequence[Refinement], budget: int, size: int) -> dict[str, Any]:
    """What a text had cost on average when its batch had come to a budget."""
    queries = [max((k for k in one.spent if k <= budget), default=0) for one in done]
    passes = seconds = 0.0
    for start in range(0, len(done), size):
        moments = [
            one.spent[k] for one, k in zip(done[start : start + size], queries[start : start + size], strict=True) if k
        ]
        passes += max((moment.passes for moment in moments), default=0)
        seconds += max((moment.seconds for moment in moments), default=0.0)
    return {"spent": float(np.mean(queries)), "passes": passes / len(done), "seconds": seconds / len(done)}
