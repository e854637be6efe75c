"""Batches for training: texts of one length together, about the same number of tokens in each, in a seeded order.

Contents: `LengthGroup`, `Dataset`, `Feed`.

Rows of a batch have exactly the same length, so nothing is padded and the canvas gives nothing away that the network
does not know anyway. The order depends on the seed and the epoch alone: a run resumes at any step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

_LEAST = 8
"""Texts of mean length below which a batch is not made smaller when memory runs out."""


class Dataset(Protocol):
    """What a feed needs of `data.shards.ShardDataset`."""

    lengths: np.ndarray

    def gather(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return ids (B, n) int64, lengths (B,) and vectors (B, d) float32 of the rows."""
        ...


@dataclass(frozen=True)
class LengthGroup:
    """Texts of one length that go through the network together.

    Attributes:
        ids: (B, n) int64.
        vectors: (B, d) float32.
        fitted: (B,) bool, texts that the closed-form parts were fitted on; None for none of them.
    """

    ids: np.ndarray
    vectors: np.ndarray
    fitted: np.ndarray | None = None

    def __len__(self) -> int:
        """Return the number of texts B."""
        return len(self.ids)


class Feed:
    """Deterministic batches of a dataset.

    Args:
        dataset: texts and vectors.
        batch_size: texts of mean length in a batch; batches of short texts hold more, of long ones fewer.
        seed: of the order.
        rows: (N,) the rows that may be used; None for all.
        fitted: (dataset,) bool, rows that the closed-form parts were fitted on; None for none.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        seed: int,
        rows: np.ndarray | None = None,
        fitted: np.ndarray | None = None,
    ) -> None:
        self.dataset = dataset
        self.seed = seed
        self.rows = np.arange(len(dataset.lengths)) if rows is None else np.asarray(rows)
        self.fitted = fitted
        self._texts = batch_size
        self._step = 0
        self._plan(batch_size)

    def _plan(self, texts: int) -> None:
        """Cut an epoch into batches that hold this many texts of mean length."""
        lengths = np.asarray(self.dataset.lengths)[self.rows]
        order = np.argsort(lengths, kind="stable")
        self._sorted = self.rows[order]
        values, starts, counts = np.unique(lengths[order], return_index=True, return_counts=True)
        self._groups = list(zip(values.tolist(), starts.tolist(), counts.tolist(), strict=True))
        self._texts = texts
        self._tokens = texts * max(float(lengths.mean()), 1.0)
        self._epoch = -1
        self._batches: list[np.ndarray] = []
        self.batches_per_epoch = sum(-(-count // self._size(n)) for n, _, count in self._groups)

    def _size(self, length: int) -> int:
        return max(1, min(round(self._tokens / length), 2 * self._texts))

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

    def halve(self) -> bool:
        """Continue with batches of half the size, from a new epoch on; false where they are as small as they get."""
        if self._texts < 2 * _LEAST:
            return False
        epoch = self._step // self.batches_per_epoch + 1
        self._plan(self._texts // 2)
        self._step = epoch * self.batches_per_epoch
        return True

    def next(self) -> list[LengthGroup]:
        """Return the next batch, here always as one group."""
        self._step += 1
        return [self.at(self._step - 1)]

    def peek(self) -> list[LengthGroup]:
        """Return the next batch without moving on."""
        return [self.at(self._step)]

    def at(self, step: int) -> LengthGroup:
        """Return batch number `step`, counted over all epochs."""
        epoch, position = divmod(step, self.batches_per_epoch)
        self._load(epoch)
        rows = self._batches[position]
        ids, lengths, vectors = self.dataset.gather(rows)
        known = None if self.fitted is None else self.fitted[rows]
        return LengthGroup(np.asarray(ids)[:, : int(lengths[0])], vectors, known)

    def state(self) -> dict[str, int]:
        """Where the next batch is, as JSON values."""
        return {"step": self._step, "texts": self._texts}

    def restore(self, state: dict[str, int]) -> None:
        """Continue from a state."""
        if state.get("texts", self._texts) != self._texts:
            self._plan(state["texts"])
        self._step = state["step"]
