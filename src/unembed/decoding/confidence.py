"""How far to trust a draft: features, and a calibration fitted on validation texts.

Contents: `FEATURES`, `draft_features`, `features_of`, `Calibration`, `isotonic`, `calibration_for`.

A draft becomes a few numbers; a ridge regression (for token_f1) and a logistic regression (for exact match) turn them
into one score each, and an isotonic regression by pool-adjacent-violators turns a score into an expectation that never
falls as the score rises. Stored are the two linear maps and at most 64 knots for each of the two. Pure numpy.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from unembed.checks import anything, listing, mapping, number, table, text, whole
from unembed.decoding.choosing import agreement
from unembed.decoding.trace import Draft
from unembed.errors import CheckpointError, DataError

FEATURES = ("mean_log_prob", "least_log_prob", "log_prior_length", "log_length", "agreement", "likelihood_gap")
KNOTS = 64
_FLOOR = -20.0  # log-probabilities below it count as it


def draft_features(draft: Draft) -> np.ndarray:
    """Describe a draft by the numbers that `FEATURES` names: (6,) float64.

    The last two compare it to its alternatives: the mean token F1 to them (1 without any), and by how much its
    log-likelihood per token exceeds that of the best of them that differs (0 without any).
    """
    logs = np.log(np.maximum(np.array(draft.token_confidence or (1.0,)), math.exp(_FLOOR)))
    rivals = [other.log_likelihood / max(other.length, 1) for other in draft.alternatives if other.ids != draft.ids]
    gap = draft.log_likelihood / max(draft.length, 1) - max(rivals) if rivals else 0.0
    return np.array(
        [
            logs.mean(),
            logs.min(),
            max(draft.log_prior_length, _FLOOR),
            math.log(max(draft.length, 1)),
            agreement(draft.ids, [other.ids for other in draft.alternatives]),
            min(max(gap, _FLOOR), -_FLOOR),
        ]
    )


def features_of(drafts: Sequence[Draft]) -> np.ndarray:
    """Describe n drafts: (n, 6), as `draft_features` each, but many drafts without alternatives at once."""
    if not drafts:
        return np.zeros((0, len(FEATURES)))
    if any(draft.alternatives for draft in drafts):
        return np.stack([draft_features(draft) for draft in drafts])
    confidence = [draft.token_confidence or (1.0,) for draft in drafts]
    counts = np.array([len(row) for row in confidence])
    flat = np.fromiter(itertools.chain.from_iterable(confidence), np.float64, int(counts.sum()))
    logs, starts = np.log(np.maximum(flat, math.exp(_FLOOR))), np.cumsum(counts) - counts
    columns = (
        np.add.reduceat(logs, starts) / counts,
        np.minimum.reduceat(logs, starts),
        np.maximum([draft.log_prior_length for draft in drafts], _FLOOR),
        np.log(np.maximum([draft.length for draft in drafts], 1)),
        np.ones(len(drafts)),
        np.zeros(len(drafts)),
    )
    return np.stack(columns, axis=1)


def isotonic(score: np.ndarray, value: np.ndarray, knots: int = KNOTS) -> tuple[np.ndarray, np.ndarray]:
    """Fit a function that never falls, by pool-adjacent-violators (Ayer et al. 1955) over equally filled bins.

    Args:
        score: (n,) float.
        value: (n,) float.
        knots: the most knots; bins hold at least 20 texts where there are as many.

    Returns:
        Strictly rising x and never falling y, both (k,) with k <= knots; read them by linear interpolation.
    """
    order = np.argsort(score, kind="stable")
    score, value = np.asarray(score, dtype=np.float64)[order], np.asarray(value, dtype=np.float64)[order]
    bins = max(1, min(knots, len(score) // 20))
    blocks: list[list[float]] = []  # weight, mean score, mean value
    for part in np.array_split(np.arange(len(score)), bins):
        blocks.append([float(len(part)), float(score[part].mean()), float(value[part].mean())])
        while len(blocks) > 1 and (blocks[-2][2] >= blocks[-1][2] or blocks[-2][1] >= blocks[-1][1]):
            weight, x, y = blocks.pop()
            last = blocks[-1]
            total = last[0] + weight
            last[1], last[2] = (last[0] * last[1] + weight * x) / total, (last[0] * last[2] + weight * y) / total
            last[0] = total
    return np.array([b[1] for b in blocks]), np.array([b[2] for b in blocks])


def _ridge(x: np.ndarray, y: np.ndarray, strength: float = 1.0) -> np.ndarray:
    """Weights (f,) of standardised features for centred y."""
    return np.linalg.solve(x.T @ x + strength * np.eye(x.shape[1]), x.T @ (y - y.mean()))


def _logistic(x: np.ndarray, y: np.ndarray, strength: float = 1.0, steps: int = 30) -> np.ndarray:
    """Weights (f,) by Newton's method with a ridge penalty; the offset is fitted and dropped."""
    design = np.hstack([x, np.ones((len(x), 1))])
    penalty = np.diag([strength] * x.shape[1] + [1e-3])
    w = np.zeros(design.shape[1])
    for _ in range(steps):
        p = 1 / (1 + np.exp(-np.clip(design @ w, -30, 30)))
        gradient = design.T @ (y - p) - penalty @ w
        curvature = (design * (p * (1 - p) + 1e-9)[:, None]).T @ design + penalty
        move = np.linalg.solve(curvature, gradient)
        w += move
        if np.abs(move).max() < 1e-8:
            break
    return w[:-1]


@dataclass(frozen=True)
class Calibration:
    """From features to the expected token_f1 and to P(exact).

    Attributes:
        mean: (f,) of the features on the validation texts.
        scale: (f,) their standard deviations.
        f1_weights: (f,) linear map to the score behind `f1_x`.
        f1_x, f1_y: knots of the expected token_f1.
        exact_weights: (f,) linear map to the score behind `exact_x`.
        exact_x, exact_y: knots of P(exact).
        n: validation texts.
        settings: how they were decoded (strategy, passes, ...).
    """

    mean: np.ndarray
    scale: np.ndarray
    f1_weights: np.ndarray
    f1_x: np.ndarray
    f1_y: np.ndarray
    exact_weights: np.ndarray
    exact_x: np.ndarray
    exact_y: np.ndarray
    n: int = 0
    settings: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def fit(
        cls, features: np.ndarray, f1: np.ndarray, exact: np.ndarray, settings: Mapping[str, Any] | None = None
    ) -> Calibration:
        """Fit on validation texts that the network was not trained on.

        Args:
            features: (n, f) of `draft_features`.
            f1: (n,) token_f1 of each draft.
            exact: (n,) whether it equals its reference.
            settings: how the drafts were decoded.

        Raises:
            DataError: fewer than 2 texts, shapes that do not belong together, or values that are not finite.
        """
        x = np.asarray(features, dtype=np.float64)
        f1, exact = np.asarray(f1, dtype=np.float64), np.asarray(exact, dtype=np.float64)
        if x.ndim != 2 or len(x) < 2 or f1.shape != (len(x),) or exact.shape != (len(x),):
            raise DataError(
                f"Features {x.shape}, token_f1 {f1.shape} and exact {exact.shape} cannot be calibrated.",
                "Pass at least two rows of features and one value of each kind for each row.",
            )
        if not (np.isfinite(x).all() and np.isfinite(f1).all() and np.isfinite(exact).all()):
            raise DataError("Features or scores hold NaN or infinite values.", "Leave those texts out.")
        mean, scale = x.mean(0), x.std(0)
        scale = np.where(scale > 1e-9, scale, 1.0)
        z = (x - mean) / scale
        f1_weights, exact_weights = _ridge(z, f1), _logistic(z, exact)
        f1_x, f1_y = isotonic(z @ f1_weights, f1)
        exact_x, exact_y = isotonic(z @ exact_weights, exact)
        return cls(mean, scale, f1_weights, f1_x, f1_y, exact_weights, exact_x, exact_y, len(x), dict(settings or {}))

    def apply(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Expected token_f1 (n,) and P(exact) (n,), both in [0, 1], from features (n, f)."""
        z = (np.asarray(features, dtype=np.float64) - self.mean) / self.scale
        f1 = np.interp(z @ self.f1_weights, self.f1_x, self.f1_y)
        exact = np.interp(z @ self.exact_weights, self.exact_x, self.exact_y)
        return np.clip(f1, 0, 1), np.clip(exact, 0, 1)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, six significant digits."""
        out: dict[str, Any] = {"features": list(FEATURES)}
        for name in _ARRAYS:
            out[name] = [float(f"{value:.6g}") for value in getattr(self, name)]
        return {**out, "n": self.n, "settings": self.settings}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Calibration:
        """Rebuild from `to_dict`.

        Raises:
            CheckpointError: a key is missing, or the features are not this version's.
        """
        try:
            _SCHEMA(values, "calibration")
            if tuple(values["features"]) != FEATURES:
                raise ValueError("it uses other features")
            arrays = {name: np.array(values[name], dtype=np.float64) for name in _ARRAYS}
            if any(len(arrays[name]) != len(FEATURES) for name in ("mean", "scale", "f1_weights", "exact_weights")):
                raise ValueError("its maps have the wrong length")
            for x, y in (("f1_x", "f1_y"), ("exact_x", "exact_y")):
                if not 1 <= len(arrays[x]) == len(arrays[y]) <= KNOTS or (np.diff(arrays[x]) < 0).any():
                    raise ValueError(f"{x} and {y} are not knots")
            if (arrays["scale"] <= 0).any():
                raise ValueError("a scale is not above 0")
            return cls(**arrays, n=values["n"], settings=values["settings"])
        except ValueError as error:
            raise CheckpointError(
                f"The calibration of the checkpoint cannot be read ({error}).",
                "Fit it again with `unembed evaluate`, or remove calibration.json.",
            ) from error


_ARRAYS = ("mean", "scale", "f1_weights", "f1_x", "f1_y", "exact_weights", "exact_x", "exact_y")
_SCHEMA = table(
    {
        "features": listing(text(40), 1, 20),
        **dict.fromkeys(_ARRAYS, listing(number(-1e9, 1e9), 1, KNOTS)),
        "n": whole(0, 10**12),
        "settings": mapping(anything, 100),
    }
)


def read_calibrations(stored: Any) -> dict[str, Calibration]:
    """Read all calibrations of a checkpoint, by strategy; "" for one that names none.

    Raises:
        CheckpointError: the stored values cannot be read.
    """
    if stored is None:
        return {}
    if "features" in stored:
        only = Calibration.from_dict(stored)
        return {str(only.settings.get("strategy", "")): only}
    return {strategy: Calibration.from_dict(values) for strategy, values in stored.items()}


def calibration_for(stored: Mapping[str, Any] | None, strategy: str) -> Calibration | None:
    """Find the calibration of a strategy among those of a checkpoint.

    Args:
        stored: `Calibration.to_dict()` by strategy, or one such dictionary alone, or None.
        strategy: the strategy that will be used.

    Returns:
        Its calibration, or None: the probabilities of another strategy's drafts mean other things.

    Raises:
        CheckpointError: the stored values cannot be read.
    """
    if not stored:
        return None
    if "features" in stored:
        only = Calibration.from_dict(stored)
        return only if only.settings.get("strategy", strategy) == strategy else None
    return Calibration.from_dict(stored[strategy]) if strategy in stored else None
