"""Pairs of a text and a draft, on their way into training: batches in a seeded order, and parts that come in later.

Contents: `PairBatch`, `PairFeed`, `PairFolder`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unembed.data.shards import ShardDataset
from unembed.training.draft_pairs import KINDS, Pairs


@dataclass
class PairBatch:
    """B texts of one length with their drafts.

    Attributes:
        ids: (B, n) true texts.
        vectors: (B, d) their vectors.
        drafts: (B, m) padded drafts.
        lengths: (B,) tokens of each draft.
        own: (B, d) vectors of the drafts.
        kinds: (B,) index into `KINDS`.
    """

    ids: Tensor
    vectors: Tensor
    drafts: Tensor
    lengths: Tensor
    own: Tensor
    kinds: np.ndarray


class PairFeed:
    """Batches of pairs whose texts have one length, in a seeded order, without end.

    Args:
        dataset: the texts.
        pairs: the drafts.
        batch_size: texts of mean length in a batch.
        seed: of the order.
        shares: of each kind in an epoch, see `CorrectorRun.shares`.
    """

    def __init__(
        self,
        dataset: ShardDataset,
        pairs: Pairs,
        batch_size: int,
        seed: int,
        shares: Mapping[str, float] | None = None,
    ) -> None:
        self.dataset, self.pairs = dataset, pairs
        self._kinds: list[tuple[np.ndarray, float]] = []
        for name, share in (shares or {}).items():
            mine = np.flatnonzero(pairs.kinds == KINDS.index(name))
            if len(mine) and share > 0:
                self._kinds.append((mine, share))
        self._lengths = np.asarray(dataset.lengths)[pairs.rows].astype(np.int64)
        self._tokens = batch_size * max(float(self._lengths.mean()), 1.0)
        self._most = 2 * batch_size
        self._seed = seed

    def batches(self, epoch: int) -> list[np.ndarray]:
        """The pairs of each batch of an epoch."""
        rng = np.random.default_rng([self._seed, epoch])
        order = rng.permutation(len(self._lengths))
        if self._kinds:  # as many of each kind as its share says, none twice
            size = min(len(mine) / share for mine, share in self._kinds)
            taken = [rng.permutation(mine)[: max(1, int(size * share))] for mine, share in self._kinds]
            order = rng.permutation(np.concatenate(taken))
        order = order[np.argsort(self._lengths[order], kind="stable")]
        cut: list[np.ndarray] = []
        for n in np.unique(self._lengths):
            mine = order[self._lengths[order] == n]
            size = max(1, min(round(self._tokens / n), self._most))
            cut += [mine[i : i + size] for i in range(0, len(mine), size)]
        return [cut[i] for i in rng.permutation(len(cut))]

    def __iter__(self) -> Iterator[PairBatch]:
        """Yield batches, epoch after epoch."""
        epoch = 0
        while True:
            for index in self.batches(epoch):
                yield self.take(index)
            epoch += 1

    def take(self, index: np.ndarray) -> PairBatch:
        """Read the pairs of `index`, whose texts have one length."""
        pairs = self.pairs.take(index)
        ids, lengths, vectors = self.dataset.gather(pairs.rows)
        longest = int(pairs.lengths.max())
        return PairBatch(
            torch.from_numpy(ids[:, : int(lengths[0])]),
            torch.from_numpy(vectors),
            torch.from_numpy(pairs.drafts[:, :longest].astype(np.int64)),
            torch.from_numpy(pairs.lengths.astype(np.int64)),
            torch.from_numpy(pairs.vectors.astype(np.float32)),
            pairs.kinds,
        )


class PairFolder:
    """A folder that parts of pairs are still written into.

    Args:
        folder: where `PairMaker` writes.
        rows: texts of the shards; pairs of later texts are left out.
    """

    def __init__(self, folder: str | Path, rows: int) -> None:
        self._folder, self._rows = Path(folder), rows
        self._known: set[Path] = set()

    def fresh(self) -> Pairs | None:
        """Read the parts that came in since the last time; None where there are none.

        Raises:
            DataError: a part is damaged.
        """
        new = sorted(set(self._folder.rglob("*.npz")) - self._known)
        self._known.update(new)
        if not new:
            return None
        found = functools.reduce(Pairs.join, [Pairs.load_part(path) for path in new])
        return found.take(np.flatnonzero(found.rows < self._rows))
