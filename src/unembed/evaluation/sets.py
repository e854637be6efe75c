"""What is inverted, and what it is compared with: evaluation sets and a seeded sample of the training set.

- `EvaluationSet`: reference ids and their vectors, with a name and a seeded subset.
- `TrainingSample`: vectors and ids of a seeded part of the training set (200,000 texts by default), for the nearest
  neighbour baseline, the bins by distance from training, unigram counts and the mean vector.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from unembed.errors import DataError
from unembed.metrics.cosine import nearest_cosine

NEIGHBOURS = 200_000
_BLOCK = 8192


class SetRows(Protocol):
    """What a set is read from: `data.shards.ShardDataset`, or anything like it."""

    def __len__(self) -> int:
        """Return the number of texts."""
        ...

    def gather(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return padded ids (m, longest), lengths (m,) and vectors (m, d) of the texts of `index` (m,)."""
        ...


def _read(rows: SetRows, chosen: np.ndarray) -> Iterator[tuple[list[np.ndarray], np.ndarray]]:
    for start in range(0, len(chosen), _BLOCK):
        ids, lengths, vectors = rows.gather(chosen[start : start + _BLOCK])
        yield [row[:length] for row, length in zip(ids, lengths, strict=True)], vectors


def seeded_subset(size: int, n: int | None, seed: int) -> np.ndarray:
    """Draw `n` of `size` rows without replacement, in ascending order; all of them where `n` is None or too large."""
    if n is None or n >= size:
        return np.arange(size)
    return np.sort(np.random.default_rng([seed, size]).choice(size, size=n, replace=False))


@dataclass(frozen=True)
class EvaluationSet:
    """Texts whose vectors are inverted.

    Attributes:
        name: the set's name in every result, for instance "english-test".
        ids: n references, token ids without special tokens.
        vectors: (n, d) float32, the vectors of exactly these texts.
        of: how many texts the set had before a subset was drawn.
        seed: seed of the subset, None where it is whole.
    """

    name: str
    ids: Sequence[Sequence[int]]
    vectors: np.ndarray
    of: int = 0
    seed: int | None = None

    def __post_init__(self) -> None:
        """Check that texts and vectors belong together."""
        if len(self.ids) != len(self.vectors) or not len(self.ids) or np.ndim(self.vectors) != 2:
            raise DataError(
                f"The set {self.name!r} has {len(self.ids)} texts and vectors of shape {np.shape(self.vectors)}.",
                "Pass one vector for each text, and at least one text.",
            )
        if not self.of:
            object.__setattr__(self, "of", len(self.ids))

    def __len__(self) -> int:
        """Return the number of texts."""
        return len(self.ids)

    @property
    def lengths(self) -> np.ndarray:
        """(n,) lengths of the references in tokens."""
        return np.array([len(row) for row in self.ids], dtype=np.int64)

    def subset(self, n: int | None, seed: int = 0) -> EvaluationSet:
        """Draw `n` texts without replacement; the same `n` and `seed` give the same texts."""
        chosen = seeded_subset(len(self), n, seed)
        ids = [self.ids[i] for i in chosen]
        return EvaluationSet(self.name, ids, np.asarray(self.vectors)[chosen], self.of, seed)

    @classmethod
    def from_rows(cls, name: str, rows: SetRows, n: int | None = None, seed: int = 0) -> EvaluationSet:
        """Read `n` seeded rows of a shard dataset; the others are never read."""
        chosen = seeded_subset(len(rows), n, seed)
        parts = list(_read(rows, chosen))
        ids = [row.tolist() for texts, _ in parts for row in texts]
        vectors = np.concatenate([part for _, part in parts]) if parts else np.zeros((0, 1))
        return cls(name, ids, vectors.astype(np.float32), len(rows), seed)


@dataclass(frozen=True)
class TrainingSample:
    """A seeded part of the training set, held in memory as float16 (200,000 x 384: 154 MB).

    Attributes:
        vectors: (m, d) float16.
        tokens: all ids of the m texts behind each other, (t,).
        offsets: (m + 1,), text i is tokens[offsets[i]:offsets[i + 1]].
        of: size of the whole training set.
        seed: seed of the draw.
    """

    vectors: np.ndarray
    tokens: np.ndarray
    offsets: np.ndarray
    of: int
    seed: int

    def __len__(self) -> int:
        """Return the number of texts."""
        return len(self.vectors)

    def ids(self, index: int) -> list[int]:
        """Return the token ids of text `index`."""
        return [int(i) for i in self.tokens[self.offsets[index] : self.offsets[index + 1]]]

    @property
    def mean(self) -> np.ndarray:
        """(d,) float32, the mean vector: what a decoder is given when it is given nothing."""
        total = np.zeros(self.vectors.shape[1], dtype=np.float64)
        for part in self._blocks():
            total += part.sum(axis=0, dtype=np.float64)
        return (total / len(self)).astype(np.float32)

    def _blocks(self) -> Iterator[np.ndarray]:
        for start in range(0, len(self), 16384):
            yield self.vectors[start : start + 16384]

    def unigram(self, vocab_size: int) -> np.ndarray:
        """(V,) float64, the relative frequency of each token."""
        counts = np.bincount(self.tokens.astype(np.int64), minlength=vocab_size).astype(np.float64)
        frequencies: np.ndarray = counts / counts.sum()
        return frequencies

    def nearest(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Index and cosine of the nearest text of the sample for each of `vectors` (n, d)."""
        return nearest_cosine(vectors, self.vectors)

    @classmethod
    def from_arrays(
        cls, vectors: np.ndarray, ids: Sequence[Sequence[int]], n: int | None = NEIGHBOURS, seed: int = 0
    ) -> TrainingSample:
        """Draw from arrays in memory."""
        chosen = seeded_subset(len(vectors), n, seed)
        return cls._gather([np.asarray(ids[i]) for i in chosen], np.asarray(vectors)[chosen], len(vectors), seed)

    @classmethod
    def from_rows(cls, rows: SetRows, n: int | None = NEIGHBOURS, seed: int = 0) -> TrainingSample:
        """Draw from a shard dataset; only the chosen rows are read."""
        ids: list[np.ndarray] = []
        vectors: list[np.ndarray] = []
        for texts, part in _read(rows, seeded_subset(len(rows), n, seed)):
            ids += [row.astype(np.int32) for row in texts]
            vectors.append(part.astype(np.float16))
        return cls._gather(ids, np.concatenate(vectors or [np.zeros((0, 1))]), len(rows), seed)

    @classmethod
    def _gather(cls, ids: list[np.ndarray], vectors: np.ndarray, of: int, seed: int) -> TrainingSample:
        if not ids:
            raise DataError("The training sample is empty.", "Point at shards that hold at least one text.")
        offsets = np.concatenate([[0], np.cumsum([len(row) for row in ids])])
        return cls(vectors.astype(np.float16, copy=False), np.concatenate(ids).astype(np.int32), offsets, of, seed)
