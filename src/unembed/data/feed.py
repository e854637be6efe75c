"""Batches for training: texts of one length together, about the same number of tokens in each, in a seeded order.

Contents: `Feed`.

Rows of a batch have exactly the same length, so nothing is padded and the canvas gives nothing away that the network
is not told anyway (design, decisions 2 and 10). The order depends on the seed and the epoch alone: a run resumes at
any step.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np


class Dataset(Protocol):
    """What a feed needs of `data.shards.ShardDataset`."""

    lengths: np.ndarray

    def gather(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return ids (B, n) int64, lengths (B,) and vectors (B, d) float32 of the rows."""
        ...


class Feed:
    """Deterministic batches of a dataset.

    Args:
        dataset: texts and vectors.
        batch_size: texts of mean length in a batch; batches of short texts hold more, of long ones fewer.
        seed: of the order.
        rows: (N,) the rows that may be used; None for all.
    """

    def __init__(self, dataset: Dataset, batch_size: int, seed: int, rows: np.ndarray | None = None) -> None:
        self.dataset = dataset
        self.seed = seed
        self.rows = np.arange(len(dataset.lengths)) if rows is None else np.asarray(rows)
        lengths = np.asarray(dataset.lengths)[self.rows]
        order = np.argsort(lengths, kind="stable")
        self._sorted = self.rows[order]
        values, starts, counts = np.unique(lengths[order], return_index=True, return_counts=True)
        self._groups = list(zip(values.tolist(), starts.tolist(), counts.tolist(), strict=True))
        self._tokens = batch_size * max(float(lengths.mean()), 1.0)
        self._most = 2 * batch_size
        self._epoch = -1
        self._step = 0
        self._batches: list[np.ndarray] = []
        self.batches_per_epoch = sum(-(-count // self._size(n)) for n, _, count in self._groups)

    def _size(self, length: int) -> int:
        return max(1, min(round(self._tokens / length), self._most))

    def _load(self, epoch: int) -> None:
        if epoch == self._epoch:
            return
        rng = np.random.default_rng([self.seed, epoch])
        batches = []
        for length, start, count in self._groups:
            rows = self._sorted[start : start + count][rng.permutation(count)]
            size = self._size(length)
            batches += [np.sort(rows[i : i + size]) for i in range(0, count, size)]
        self._batches = [batches[i] for i in rng.permutation(len(batches))]
        self._epoch = epoch

    def next(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return the next batch as groups of one length (here always one group): ids (B, n), vectors (B, d)."""
        group = self.batch(self._step)
        self._step += 1
        return [group]

    def state(self) -> dict[str, int]:
        """Where the next batch stands, as JSON values."""
        return {"step": self._step}

    def restore(self, state: dict[str, int]) -> None:
        """Go on from a state."""
        self._step = state["step"]

    def batch(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Return ids (B, n) int64 and vectors (B, d) float32 of batch number `step`, counted over all epochs."""
        epoch, position = divmod(step, self.batches_per_epoch)
        self._load(epoch)
        ids, lengths, vectors = self.dataset.gather(self._batches[position])
        return np.asarray(ids)[:, : int(lengths[0])], vectors
