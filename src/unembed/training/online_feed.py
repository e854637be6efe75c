"""Training batches that are embedded when they are asked for.

Contents: `OnlineFeed`, `Sample`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from unembed.data.batch import Batch, BatchState
from unembed.data.feed import Group
from unembed.data.online import OnlineBatches
from unembed.errors import DataError


class OnlineFeed:
    """The same methods as `Feed`, over texts instead of shards.

    A batch of `OnlineBatches` holds texts of similar length; it is split by exact length, so that nothing is padded.

    Args:
        batches: the source.
    """

    batches_per_epoch = 0
    """Unknown before the texts are read: an online run needs steps or a time box."""

    def __init__(self, batches: OnlineBatches) -> None:
        self._source = batches
        self._state = BatchState()
        self._stream: Iterator[tuple[Batch, BatchState]] | None = None

    def next(self) -> list[Group]:
        """Return the next batch as groups of one length."""
        if self._stream is None:
            self._stream = self._source.forever(self._state)
        batch, self._state = next(self._stream)
        return [
            Group(batch.ids[rows, : int(n)], batch.vectors[rows])
            for n in np.unique(batch.lengths)
            for rows in [batch.lengths == n]
        ]

    def halve(self) -> bool:
        """A stream's batches keep their size."""
        return False

    def state(self) -> dict[str, int]:
        """Where the next batch is, as JSON values."""
        return {"epoch": self._state.epoch, "position": self._state.position}

    def restore(self, state: dict[str, int]) -> None:
        """Continue from a state."""
        self._state = BatchState(state["epoch"], state["position"])
        self._stream = None


@dataclass
class Sample:
    """Some texts of an online source, embedded once: what the closed-form parts are fitted on. A `Dataset`.

    Attributes:
        ids: (N, max_length) int64, padded.
        lengths: (N,) int64.
        vectors: (N, d) float32.
    """

    ids: np.ndarray
    lengths: np.ndarray
    vectors: np.ndarray

    @classmethod
    def draw(cls, source: OnlineBatches, texts: int, max_length: int) -> Sample:
        """Take the first `texts` texts of an epoch of their own (fewer where there are fewer).

        Raises:
            DataError: no text.
        """
        ids: list[np.ndarray] = []
        lengths: list[np.ndarray] = []
        vectors: list[np.ndarray] = []
        for batch in itertools.islice(source.epoch(-1 % (1 << 31)), -(-texts // source.batch_size)):
            padded = np.zeros((len(batch.ids), max_length), dtype=np.int64)
            padded[:, : batch.ids.shape[1]] = batch.ids
            ids.append(padded)
            lengths.append(batch.lengths)
            vectors.append(batch.vectors)
        if not ids:
            raise DataError("The texts give no batch.", "Check the files: none of their texts can be kept.")
        return cls(np.concatenate(ids), np.concatenate(lengths), np.concatenate(vectors))

    def gather(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See `ShardDataset.gather`."""
        return self.ids[index], self.lengths[index], self.vectors[index]
