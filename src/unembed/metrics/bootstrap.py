"""Statistics over texts, and how far they would move on another draw of texts.

- `Statistic`: per-text sums and the rule that turns their total into one value, so that micro-averages and corpus BLEU
  are resampled as exactly as means are.
- `interval`: the percentile bootstrap interval of a statistic or of plain per-text values (Efron, 1979).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from unembed.errors import InputError

_BLOCK = 4_000_000  # resampling weights held at once; 32 MB


def mean_of(totals: np.ndarray) -> np.ndarray:
    """Divide the first column of `totals` (..., 2) by the second; 0 where the second is 0."""
    numerator, denominator = totals[..., 0], totals[..., 1]
    ratio: np.ndarray = np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator != 0)
    return ratio


@dataclass(frozen=True)
class Statistic:
    """A value computed from sums over texts.

    Args:
        rows: (n, k) float64, what each text contributes, for instance (correct tokens, tokens).
        combine: maps totals (..., k) to values (...). Default: column 0 over column 1.
        scores: (n,) the value of each text alone, where it has one; for bins, calibration and plots.
    """

    rows: np.ndarray
    combine: Callable[[np.ndarray], np.ndarray] = mean_of
    scores: np.ndarray | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Check the shape: a statistic over no texts has no value."""
        if self.rows.ndim != 2 or len(self.rows) == 0:
            raise InputError(
                f"A statistic needs at least one text, got rows of shape {self.rows.shape}.",
                "Pass at least one prediction with its reference.",
            )

    @classmethod
    def mean(cls, values: Any) -> Statistic:
        """Make the plain mean of per-text `values` (n,)."""
        values = np.asarray(values, dtype=np.float64).reshape(-1)
        return cls(np.stack([values, np.ones_like(values)], axis=1), scores=values)

    def __len__(self) -> int:
        """Return the number of texts."""
        return len(self.rows)

    @property
    def value(self) -> float:
        """The statistic over all texts."""
        return float(self.combine(self.rows.sum(axis=0)))

    @property
    def per_text(self) -> np.ndarray:
        """(n,) the value of each text alone."""
        return self.scores if self.scores is not None else self.combine(self.rows)

    def select(self, index: np.ndarray) -> Statistic:
        """Restrict to the texts of `index` (integers or a boolean mask)."""
        return Statistic(self.rows[index], self.combine, None if self.scores is None else self.scores[index])


def interval(
    values: Statistic | np.ndarray | list[float], n: int = 1000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval over texts.

    Texts are drawn with replacement `n` times; the draws depend on `seed` and on the number of texts alone, so two
    statistics of the same texts are resampled alike.

    Args:
        values: a `Statistic`, or per-text values (n_texts,) whose mean is meant.
        n: number of resamples.
        seed: seed of the draws.
        level: coverage, 0.95 for a 95% interval.

    Returns:
        (low, high).

    Raises:
        InputError: no text, or a level outside (0, 1), or no resamples.
    """
    statistic = values if isinstance(values, Statistic) else Statistic.mean(values)
    if not 0 < level < 1 or n < 1:
        raise InputError(
            f"An interval of level {level} from {n} resamples does not exist.", "Use 0 < level < 1 and n of at least 1."
        )
    size = len(statistic)
    generator = np.random.default_rng([seed, size])
    drawn = []
    step = max(1, _BLOCK // size)
    for start in range(0, n, step):
        count = min(step, n - start)
        weights = generator.multinomial(size, np.full(size, 1.0 / size), size=count).astype(np.float64)
        drawn.append(statistic.combine(weights @ statistic.rows))
    tail = (1 - level) / 2
    low, high = np.quantile(np.concatenate(drawn), [tail, 1 - tail])
    return float(low), float(high)


def summary(statistic: Statistic, n: int = 1000, seed: int = 0) -> dict[str, float]:
    """Return {"value", "low", "high"}: the form in which every result file holds a metric."""
    low, high = interval(statistic, n=n, seed=seed)
    return {"value": statistic.value, "low": low, "high": high}
