"""What training data looks like, whether it is cached or embedded online.

Contents: `Batch`, `BatchState`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from unembed.errors import DataError

if TYPE_CHECKING:
    import numpy as np


class Batch(NamedTuple):
    """What every source of training data yields.

    Attributes:
        ids: (B, longest) int64, filled up with the pad id after each text.
        lengths: (B,) int64.
        vectors: (B, d) float32, what the encoder makes of exactly these tokens.
    """

    ids: np.ndarray
    lengths: np.ndarray
    vectors: np.ndarray


@dataclass(frozen=True)
class BatchState:
    """Where a run is: `position` batches of epoch `epoch` (from 0) have been taken."""

    epoch: int = 0
    position: int = 0

    def __post_init__(self) -> None:
        """Check that both are counts."""
        if self.epoch < 0 or self.position < 0:
            raise DataError(f"Epoch {self.epoch}, batch {self.position} does not exist.", "Count from 0.")
