"""Batches from cached shards, behind the same two methods as online embedding.

Contents: `CachedBatches`.
"""

from __future__ import annotations

from collections.abc import Iterator

from unembed.data.batches import Batch, BatchState, LengthBatches
from unembed.data.shards import ShardDataset
from unembed.errors import DataError


class CachedBatches:
    """Rows of a `ShardDataset` in the order of a `LengthBatches` sampler.

    Args:
        dataset: the shards.
        sampler: over `dataset.lengths`.

    Raises:
        DataError: the sampler was made for another number of texts.
    """

    def __init__(self, dataset: ShardDataset, sampler: LengthBatches) -> None:
        """Check that both fit together."""
        if len(sampler.lengths) != len(dataset):
            raise DataError(
                f"The sampler has {len(sampler.lengths)} texts, the shards {len(dataset)}.",
                "Make it from the lengths of these shards.",
            )
        self.dataset = dataset
        self.sampler = sampler

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Batches of one epoch, without the first `start`, of which nothing is read."""
        for index in self.sampler.epoch(epoch, start):
            yield Batch(*self.dataset.gather(index))

    def forever(self, state: BatchState | None = None) -> Iterator[tuple[Batch, BatchState]]:
        """Batches of epoch after epoch, each with the state to resume from behind it."""
        for index, after in self.sampler.forever(state):
            yield Batch(*self.dataset.gather(index)), after
