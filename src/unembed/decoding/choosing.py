"""From a finished canvas to drafts: their scores, and which one is given back.

Contents: `choose`, `agreement`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from unembed.decoding.canvas import Canvas
from unembed.decoding.config import DecodeConfig
from unembed.decoding.trace import Draft, Trace
from unembed.metrics.text import token_f1


def choose(canvas: Canvas, config: DecodeConfig, judged: Tensor | None = None) -> list[Draft]:
    """Score the drafts of each text and put the best first.

    The likelihood score is length_weight log p(n | v) + log-likelihood / n^length_power.

    Args:
        canvas: without masks.
        config: choose, length_weight, length_power.
        judged: (D, n) pseudo-log-likelihoods that replace those at commitment in the score.

    Returns:
        One draft for each text, the others as its alternatives.
    """
    written = canvas.written()
    counted = (canvas.log_prob if judged is None else judged) * (written & canvas.free)
    likelihood = counted.double().sum(1)
    if judged is None:
        likelihood = likelihood + canvas.end_log_prob.double()
    weight = config.length_weight
    if weight is None:
        weight = 0.0 if config.strategy == "left-to-right" and judged is None else 1.0
    kept = (written & (canvas.ids != canvas.end_id)).cpu()
    kept[:, canvas_limit(canvas) :] = False
    ids, probability = canvas.ids.cpu(), canvas.log_prob.exp().cpu()
    passes, prior, spent = canvas.passes.tolist(), canvas.prior.double().tolist(), canvas.spent.tolist()
    groups: list[list[Draft]] = [[] for _ in spent]
    for i, text in enumerate(canvas.text.tolist()):
        tokens = tuple(ids[i, kept[i]].tolist())
        total = float(likelihood[i])
        groups[text].append(
            Draft(
                ids=tokens,
                token_confidence=tuple(probability[i, kept[i]].tolist()),
                log_likelihood=total,
                log_prior_length=prior[i],
                length=len(tokens),
                passes=passes[i],
                spent=spent[text],
                score=weight * prior[i] + total / max(len(tokens), 1) ** config.length_power,
                trace=Trace(tuple(canvas.history[i])) if canvas.history[i] else None,
            )
        )
    return [_best(group, config.choose) for group in groups]


def canvas_limit(canvas: Canvas) -> int:
    """Longest text in tokens: the canvas without the place of its last end token."""
    return canvas.ids.shape[1] - (canvas.end_id >= 0)


def agreement(draft: tuple[int, ...], others: Sequence[tuple[int, ...]]) -> float:
    """Mean token F1 of a draft to the others; 1 for a draft alone."""
    return token_f1([draft] * len(others), others) if others else 1.0


def _best(drafts: list[Draft], how: str) -> Draft:
    if how == "mbr":
        ids = [draft.ids for draft in drafts]
        means = [agreement(ids[i], ids[:i] + ids[i + 1 :]) for i in range(len(ids))]
        order = sorted(range(len(drafts)), key=lambda i: (-means[i], -drafts[i].score))
        ranked = [replace(drafts[i], score=means[i]) for i in order]
    else:
        ranked = sorted(drafts, key=lambda draft: -draft.score)
    return replace(ranked[0], alternatives=tuple(ranked[1:]))
