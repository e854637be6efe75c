"""What a proposal is, and how its worth is guessed before it costs a query.

Contents: `MOVES`, `Proposal`, `Surrogate`, `PLAIN`, `FORECAST`.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

MOVES = ("replace", "insert", "delete", "pair", "swap", "exchange", "shift", "reorder", "correct")
Features = tuple[float, float, float, float]
NOTHING: Features = (0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Proposal:
    """A draft that has not been asked yet.

    Attributes:
        ids: its tokens.
        move: how it differs from the draft it came from.
        features: change of log-likelihood (nats, clipped), change of the difference prior in the whitened and in the
            plain metric, change of the cosine that a student forecasts (0 without a student).
        gain: expected change of the cosine.
    """

    ids: tuple[int, ...]
    move: str
    features: Features
    gain: float


@dataclass(frozen=True)
class Surrogate:
    """Linear guess of the change of the cosine that a proposal brings.

    Attributes:
        weights: move -> (constant, and a weight for each of `Proposal.features`).
        clip: log-likelihood changes are cut to this many nats.
    """

    weights: dict[str, tuple[float, float, float, float, float]]
    clip: float = 8.0

    def token_gain(self, move: str, change: Tensor, whitened: Tensor, plain: Tensor) -> Tensor:
        """Order tokens for one masked position; the constant is left out, all arguments of one shape."""
        _, a, b, c, _ = self.weights[move]
        return a * change.clamp(-self.clip, self.clip) + b * whitened + c * plain

    def gain(self, move: str, features: Features) -> float:
        """Expected change of the cosine."""
        constant, a, b, c, s = self.weights[move]
        change = min(max(features[0], -self.clip), self.clip)
        return constant + a * change + b * features[1] + c * features[2] + s * features[3]


# Fitted by benchmarks/fit_surrogate.py on validation texts (docs/log.md).
PLAIN = Surrogate(
    {
        "replace": (-0.025, 0.0005, 0.0006, 0.05, 0.0),
        "insert": (-0.013, 0.002, 0.001, 0.1, 0.0),
        "delete": (-0.04, 0.004, 0.0, 0.3, 0.0),
        "pair": (-0.035, 0.001, 0.0001, 0.2, 0.0),
        "swap": (-0.01, 0.0025, 0.0, 0.0, 0.0),
        "exchange": (-0.03, 0.0, 0.0, 0.0, 0.0),
        "shift": (-0.03, 0.0, 0.0, 0.0, 0.0),
        "reorder": (-0.005, 0.001, 0.0, 0.0, 0.0),
        "correct": (0.0, 0.001, 0.0, 0.0, 0.0),
    }
)
FORECAST = Surrogate(
    {
        "replace": (0.0, 0.0, 0.0, 0.0, 1.0),
        "insert": (0.0, 0.0, 0.0, 0.0, 1.0),
        "delete": (0.0, 0.0, 0.0, 0.0, 1.0),
        "pair": (0.0, 0.0, 0.0, 0.0, 1.0),
        "swap": (0.0, 0.0, 0.0, 0.0, 1.0),
        "exchange": (0.0, 0.0, 0.0, 0.0, 1.0),
        "shift": (0.0, 0.0, 0.0, 0.0, 1.0),
        "reorder": (0.0, 0.0, 0.0, 0.0, 1.0),
        "correct": (0.0, 0.0, 0.0, 0.0, 1.0),
    }
)
