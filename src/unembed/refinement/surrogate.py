"""What a proposal is, and how its worth is guessed before it costs a query.

Contents: `MOVES`, `Proposal`, `Surrogate`, `PLAIN`, `FORECAST`, `fitted`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from unembed.errors import CheckpointError

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


# Guessed, for checkpoints without a student; a student's file brings weights that were fitted with it.
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
# For a student that nothing was fitted with.
FORECAST = Surrogate(dict.fromkeys(MOVES, (0.0, 0.0, 0.0, 0.0, 1.0)))


def fitted(weights: Mapping[str, Sequence[float]]) -> Surrogate:
    """The surrogate of a student's file; moves without weights rely on the student alone.

    Args:
        weights: move -> five numbers.

    Raises:
        CheckpointError: another number of weights.
    """
    found = dict(FORECAST.weights)
    for move, row in weights.items():
        if len(row) != 5:
            raise CheckpointError(
                f"The student's surrogate has {len(row)} weights for {move}, not 5.", "Fetch the checkpoint again."
            )
        found[move] = (row[0], row[1], row[2], row[3], row[4])
    return Surrogate(found)
