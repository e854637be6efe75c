"""Whether a vector looks like those that the model learnt from: a number from 0 to 1, and what it looks like instead.

Contents: `FitScore`, `Judged`, `REASONS`, `LIMIT`, `KNOTS`.

Three statistics of a whitened vector z, each large where something is off:

    vector     the energy |z|^2 (squared Mahalanobis distance): another encoder, pooling, rotation, random numbers
    long       log p(long) / p(usual) of a linear classifier: a text longer than those learnt from (a chunk)
    language   the same for texts of other languages

Each becomes the share of held-out texts whose statistic is as large or larger. The smallest of these shares, corrected
for having chosen among k of them (Šidák 1967), is the fit: uniform on texts like the held-out ones, whatever k. The
classifiers have seen long texts and other languages on purpose (outlier exposure, arXiv 1812.04606); the energy has
seen usual texts alone, and so needs no idea of what may come. Pure numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from unembed.errors import DataError

LIMIT = 0.01
"""A fit below it counts as a misfit: one text in a hundred of those that fit is taken for one."""

REASONS = ("vector", "long", "language")
KNOTS = 64
_CLIP = 6.0  # coordinates beyond it tell of the energy, which has its own statistic


@dataclass(frozen=True)
class Judged:
    """What is known of n vectors.

    Attributes:
        fit: (n,) in [0, 1], share of held-out texts whose vectors look as unusual or more.
        misfit: for each what it looks like, one of `REASONS`; None where the fit is `LIMIT` or more.
        trust: (n,) in [0, 1], share of the calibrated token_f1 that comes true at this fit.
    """

    fit: np.ndarray
    misfit: list[str | None]
    trust: np.ndarray

    def head(self, count: int) -> Judged:
        """The first so many."""
        return Judged(self.fit[:count], self.misfit[:count], self.trust[:count])


@dataclass(frozen=True)
class FitScore:
    """Statistics of the held-out texts' vectors.

    Attributes:
        reasons: names of the statistics: "vector", and those of the classifiers.
        weights: (k - 1, d) float32, the classifiers' weights for z.
        offsets: (k - 1,) float32.
        knots: (k, KNOTS) float64, never falling: the statistic that a share `tails` of the held-out texts reaches.
        tails: (KNOTS,) float64, falling from 1 to one text of n.
        trust_x: (k, m) rising values of the statistic, at which `trust_y` says what share of the calibrated token_f1
            comes true.
        trust_y: (k, m) in [0, 1], never rising.
        n: held-out texts.
    """

    reasons: tuple[str, ...]
    weights: np.ndarray
    offsets: np.ndarray
    knots: np.ndarray
    tails: np.ndarray
    trust_x: np.ndarray
    trust_y: np.ndarray
    n: int

    @classmethod
    def of(
        cls,
        z: np.ndarray,
        weights: np.ndarray | None = None,
        offsets: np.ndarray | None = None,
        names: tuple[str, ...] = (),
    ) -> FitScore:
        """Describe held-out texts.

        Args:
            z: whitened vectors (n, d).
            weights, offsets: (k - 1, d) and (k - 1,) of classifiers, if there are any.
            names: (k - 1) of `REASONS`, what the classifiers tell.

        Raises:
            DataError: fewer than 20 texts.
        """
        if len(z) < 20:
            raise DataError(f"{len(z)} texts are too few to learn what fits.", "Give at least 20 held-out texts.")
        weights = np.zeros((0, z.shape[1]), np.float32) if weights is None else np.asarray(weights, np.float32)
        offsets = np.zeros(0, np.float32) if offsets is None else np.asarray(offsets, np.float32)
        tails = np.geomspace(1.0, 1.0 / len(z), KNOTS)
        found = _statistics(z, weights, offsets)
        knots = np.quantile(found, 1.0 - tails, axis=1).T
        none = np.zeros((len(found), 1))
        return cls(("vector", *names), weights, offsets, knots, tails, none, none + 1.0, len(z))

    def with_trust(self, z: np.ndarray, kinds: Sequence[str | None], claimed: np.ndarray, true: np.ndarray) -> FitScore:
        """Measure what comes true of the calibrated token_f1, statistic by statistic.

        Texts that fit keep theirs: nothing is lowered below the value that one held-out text in twenty exceeds.

        Args:
            z: whitened vectors (n, d) of texts that fit and texts that do not.
            kinds: for each one of `reasons`, None for those that fit.
            claimed: (n,) the token_f1 that the calibration expects.
            true: (n,) the token_f1 that came of it.
        """
        found, m = _statistics(z, self.weights, self.offsets), 24
        trust_x, trust_y = np.zeros((len(found), m)), np.ones((len(found), m))
        for i, (row, reason) in enumerate(zip(found, self.reasons, strict=True)):
            start = float(np.interp(np.log(20.0), -np.log(self.tails), self.knots[i]))
            mine = np.array([kind in (None, reason) for kind in kinds]) & (row > start)
            trust_x[i] = start + np.arange(m)
            order = np.flatnonzero(mine)[np.argsort(row[mine], kind="stable")]
            if len(order) < 20:
                continue
            parts = np.array_split(order, min(m - 1, len(order) // 20))
            ratio = [min(float(true[part].sum() / claimed[part].sum()), 1.0) for part in parts]
            x, y = [start, *(float(row[part].mean()) for part in parts)], [1.0, *np.minimum.accumulate(ratio)]
            x, y = x + [x[-1] + 1 + j for j in range(m - len(x))], y + [y[-1]] * (m - len(y))
            trust_x[i], trust_y[i] = x, y
        return replace(self, trust_x=trust_x, trust_y=trust_y)

    def __call__(self, z: np.ndarray) -> Judged:
        """Judge whitened vectors (n, d)."""
        found = _statistics(z, self.weights, self.offsets)
        shares = np.stack(
            [np.exp(np.interp(row, knots, np.log(self.tails))) for row, knots in zip(found, self.knots, strict=True)]
        )
        fit = 1.0 - (1.0 - shares.min(0)) ** len(shares)
        misfit = [self.reasons[i] if low else None for low, i in zip(fit < LIMIT, shares.argmin(0), strict=True)]
        trust = np.stack(
            [np.interp(row, x, y) for row, x, y in zip(found, self.trust_x, self.trust_y, strict=True)]
        ).min(0)
        return Judged(fit, misfit, trust)


def _statistics(z: np.ndarray, weights: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """(k, n): the energy, then what the classifiers say."""
    z = np.asarray(z, dtype=np.float32)
    energy = (z.astype(np.float64) ** 2).sum(1)
    return np.concatenate((energy[None], (np.clip(z, -_CLIP, _CLIP) @ weights.T + offsets).T), dtype=np.float64)
