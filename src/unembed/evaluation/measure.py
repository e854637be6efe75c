"""From recovered ids to a report: every metric with its 95% interval, in bins, beside its floor.

- `measure`: the part of a result file that depends on what came back.
- `reliability`: mean confidence against what was realised, in ten bins, with the expected calibration error.
- `LENGTH_BINS`, `COSINE_BINS`: the bins that every table uses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from unembed.evaluation.sets import EvaluationSet
from unembed.metrics import text
from unembed.metrics.bootstrap import Statistic, summary
from unembed.metrics.cosine import floor_cosine, row_cosine

LENGTH_BINS: tuple[tuple[int, int], ...] = ((1, 8), (9, 16), (17, 31), (32, 32))
COSINE_BINS: tuple[tuple[float, float], ...] = (
    (-1.0, 0.5),
    (0.5, 0.6),
    (0.6, 0.7),
    (0.7, 0.8),
    (0.8, 0.9),
    (0.9, 1.01),
)
RESAMPLES = 1000


def _bins(
    statistics: dict[str, Statistic], labels: Sequence[str], members: Sequence[np.ndarray], seed: int
) -> list[dict[str, Any]]:
    out = []
    for label, member in zip(labels, members, strict=True):
        row: dict[str, Any] = {"bin": label, "n": int(member.sum())}
        if member.any():
            row["metrics"] = {
                name: summary(value.select(member), RESAMPLES, seed) for name, value in statistics.items()
            }
        out.append(row)
    return out


def length_bins(statistics: dict[str, Statistic], lengths: np.ndarray, seed: int = 0) -> list[dict[str, Any]]:
    """Bin by the reference's length; texts above the last bin go into one bin more.

    Args:
        statistics: metrics by name, over n texts.
        lengths: (n,) in tokens.
        seed: seed of the intervals.
    """
    edges = list(LENGTH_BINS)
    top = edges[-1][1]
    if len(lengths) and lengths.max() > top:
        edges.append((top + 1, int(lengths.max())))
    labels = [str(low) if low == high else f"{low}-{high}" for low, high in edges]
    return _bins(statistics, labels, [(lengths >= low) & (lengths <= high) for low, high in edges], seed)


def cosine_bins(statistics: dict[str, Statistic], nearest: np.ndarray, seed: int = 0) -> list[dict[str, Any]]:
    """Bin by the cosine (n,) to the nearest training text: how far a text is from what was seen."""
    labels = [
        f"below {high}" if low == -1.0 else f"{low} and above" if high > 1 else f"{low}-{high}"
        for low, high in COSINE_BINS
    ]
    return _bins(statistics, labels, [(nearest >= low) & (nearest < high) for low, high in COSINE_BINS], seed)


def reliability(confidence: np.ndarray, realised: np.ndarray, bins: int = 10) -> dict[str, Any]:
    """Compare stated confidence with what came true (Guo et al. 2017, arXiv 1706.04599, eq. 3).

    Args:
        confidence: (n,) in [0, 1].
        realised: (n,) in [0, 1], for instance token_f1.
        bins: number of equal-width bins of the confidence.

    Returns:
        {"bins": [{"low", "high", "n", "confidence", "realised"}], "ece"}: the means of each bin that is not empty, and
        the expected calibration error sum over bins of n_b / n |realised_b - confidence_b|.
    """
    confidence, realised = np.asarray(confidence, dtype=np.float64), np.asarray(realised, dtype=np.float64)
    which = np.clip((confidence * bins).astype(int), 0, bins - 1)
    rows, error = [], 0.0
    for index in range(bins):
        member = which == index
        if not member.any():
            continue
        stated, true = float(confidence[member].mean()), float(realised[member].mean())
        error += float(member.mean()) * abs(true - stated)
        low, high = index / bins, (index + 1) / bins
        rows.append({"low": low, "high": high, "n": int(member.sum()), "confidence": stated, "realised": true})
    return {"bins": rows, "ece": error}


def measure(
    preds: Sequence[Sequence[int]],
    data: EvaluationSet,
    *,
    display: Callable[[Sequence[int]], str] | None = None,
    embed: Callable[[Sequence[Sequence[int]]], np.ndarray] | None = None,
    nearest: np.ndarray | None = None,
    confidence: Sequence[float] | None = None,
    p_exact: Sequence[float] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Score recovered texts against a set.

    Args:
        preds: n recovered texts, token ids.
        data: the references and their vectors.
        display: ids to display text, for BLEU.
        embed: recovered ids to vectors (n, d), for the cosine to the target and its floor.
        nearest: (n,) cosine of each target to the nearest training text, for the bins.
        confidence: n expected values of token_f1, for the calibration.
        p_exact: n probabilities of an exact match, for the calibration.
        seed: seed of intervals and of the floor's pairs.

    Returns:
        {"metrics": {name: {value, low, high}}, "floors", "bins", "calibration", "bleu_signature", "bootstrap"}.
    """
    statistics = text.text_statistics(preds, data.ids, display)
    floors: dict[str, Any] = {}
    if embed is not None:
        vectors = embed(preds)
        statistics["cosine"] = Statistic.mean(row_cosine(vectors, data.vectors))
        floors["cosine"] = summary(Statistic.mean(floor_cosine(data.vectors, data.vectors, seed)), RESAMPLES, seed)
    report: dict[str, Any] = {
        "metrics": {name: summary(value, RESAMPLES, seed) for name, value in statistics.items()},
        "floors": floors,
        "bins": {"length": length_bins(statistics, data.lengths, seed)},
        "bootstrap": {"resamples": RESAMPLES, "level": 0.95, "seed": seed},
    }
    if display is not None:
        report["bleu_signature"] = text.bleu_signature()
    if nearest is not None:
        report["bins"]["nearest_training_cosine"] = cosine_bins(statistics, nearest, seed)
    calibration = {}
    if confidence is not None:
        calibration["token_f1"] = reliability(np.asarray(confidence), statistics["token_f1"].per_text)
    if p_exact is not None:
        calibration["exact_match"] = reliability(np.asarray(p_exact), statistics["exact_match"].per_text)
    if calibration:
        report["calibration"] = calibration
    return report
