"""Batches for training: texts of one length together, about the same number of tokens in each, in a seeded order.

Contents: `Group`, `Feed`, `bucket_of`, `pad_group`.

Rows of a batch have exactly the same length, so nothing is padded and the canvas gives nothing away that the network
is not told anyway (design, decisions 2 and 10). With buckets, texts are padded to one of a few lengths and batches of
a bucket have one size: few static shapes, which a compiler on a GPU wants. The order depends on the seed and the epoch
alone: a run resumes at any step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from unembed.errors import DataError


class Dataset(Protocol):
    """What a feed needs of `data.shards.ShardDataset`."""

    lengths: np.ndarray

    def gather(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return ids (B, n) int64, lengths (B,) and vectors (B, d) float32 of the rows."""
        ...


@dataclass(frozen=True)
class Group:
    """Texts that go through the network together.

    Attributes:
        ids: (B, n) int64.
        vectors: (B, d) float32.
        lengths: (B,) int64 where rows are padded to n; None where all have n tokens.
    """

    ids: np.ndarray
    vectors: np.ndarray
    lengths: np.ndarray | None = None

    def __len__(self) -> int:
        """Return the number of texts B."""
        return len(self.ids)


def bucket_of(lengths: np.ndarray, buckets: tuple[int, ...]) -> np.ndarray:
    """The smallest bucket that holds each length; a length above all of them stays as it is."""
    edges = np.asarray(sorted(buckets))
    place = np.searchsorted(edges, lengths)
    return np.where(place < len(edges), edges[np.minimum(place, len(edges) - 1)], lengths)


class Feed:
    """Deterministic batches of a dataset.

    Args:
        dataset: texts and vectors.
        batch_size: texts of mean length in a batch; batches of short texts hold more, of long ones fewer.
        seed: of the order.
        rows: (N,) the rows that may be used; None for all.
        buckets: lengths that texts are padded to; batches that are not full are then left out. Empty: exact lengths.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        seed: int,
        rows: np.ndarray | None = None,
        buckets: tuple[int, ...] = (),
    ) -> None:
        self.dataset = dataset
        self.seed = seed
        self.rows = np.arange(len(dataset.lengths)) if rows is None else np.asarray(rows)
        lengths = np.asarray(dataset.lengths)[self.rows]
        self.buckets = tuple(buckets)
        mean = max(float(lengths.mean()), 1.0)
        if self.buckets:
            lengths = bucket_of(lengths, self.buckets)
        order = np.argsort(lengths, kind="stable")
        self._sorted = self.rows[order]
        values, starts, counts = np.unique(lengths[order], return_index=True, return_counts=True)
        self._groups = list(zip(values.tolist(), starts.tolist(), counts.tolist(), strict=True))
        self._tokens = batch_size * mean
        self._most = 2 * batch_size
        self._epoch = -1
        self._step = 0
        self._batches: list[np.ndarray] = []
        self.batches_per_epoch = sum(self._batches_of(n, count) for n, _, count in self._groups)
        if not self.batches_per_epoch:
            raise DataError(
                f"{len(self.rows)} texts fill no batch of the buckets.", "Use smaller batches, or more texts."
            )

    def _size(self, length: int) -> int:
        return max(1, min(round(self._tokens / length), self._most))

    def _batches_of(self, length: int, count: int) -> int:
        size = self._size(length)
        return count // size if self.buckets else -(-count // size)

    def _load(self, epoch: int) -> None:
        if epoch == self._epoch:
            return
        rng = np.random.default_rng([self.seed, epoch])
        batches = []
        for length, start, count in self._groups:
            rows = self._sorted[start : start + count][rng.permutation(count)]
            size = self._size(length)
            starts = [i * size for i in range(self._batches_of(length, count))]
            batches += [np.sort(rows[i : i + size]) for i in starts]
        self._batches = [batches[i] for i in rng.permutation(len(batches))]
        self._epoch = epoch

    def next(self) -> list[Group]:
        """Return the next batch, here always as one group."""
        self._step += 1
        return self.at(self._step - 1)

    def at(self, step: int) -> list[Group]:
        """Return batch number `step`, counted over all epochs."""
        return [self._padded(step) if self.buckets else Group(*self.batch(step))]

    def skip(self, batches: int) -> int:
        """Leave out some batches, which others take, and return the number of the first of them."""
        self._step += batches
        return self._step - batches

    def _rows_of(self, step: int) -> np.ndarray:
        epoch, position = divmod(step, self.batches_per_epoch)
        self._load(epoch)
        return self._batches[position]

    def _padded(self, step: int) -> Group:
        ids, lengths, vectors = self.dataset.gather(self._rows_of(step))
        width = int(bucket_of(np.asarray(lengths), self.buckets).max())
        return pad_group(np.asarray(ids), np.asarray(lengths), vectors, width)

    def state(self) -> dict[str, int]:
        """Where the next batch stands, as JSON values."""
        return {"step": self._step}

    def restore(self, state: dict[str, int]) -> None:
        """Go on from a state."""
        self._step = state["step"]

    def batch(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Return ids (B, n) int64 and vectors (B, d) float32 of batch number `step`, counted over all epochs."""
        ids, lengths, vectors = self.dataset.gather(self._rows_of(step))
        return np.asarray(ids)[:, : int(lengths[0])], vectors


def pad_group(ids: np.ndarray, lengths: np.ndarray, vectors: np.ndarray, width: int) -> Group:
    """Pad ids (B, n) to `width` columns with zeros; what stands behind a length is never read."""
    padded = np.zeros((len(ids), width), dtype=np.int64)
    n = min(width, ids.shape[1])
    padded[:, :n] = ids[:, :n]
    return Group(padded, vectors, np.asarray(lengths, dtype=np.int64))
