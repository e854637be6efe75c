"""Training batches from a pack: token ids of one length, some of them crops, embedded when they are asked for.

Contents: `PackFeed`, `crops`, `PackSample`.

Every text is drawn once an epoch, whole or cut to a run of its words, so that its vector is never the same text twice.
The order and the cuts depend on the seed and the epoch alone: a run resumes at any step.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from unembed.data.feed import LengthGroup
from unembed.data.pack import Pack

_LEAST = 8

Embed = Callable[[Tensor], Tensor]
"""ids (B, n) of one length -> vectors (B, d) float32."""


def crops(pack: Pack, rows: np.ndarray, share: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Cut a share of texts to a run of whole words.

    Args:
        pack: the texts.
        rows: (N,) which of them.
        share: of the texts that are cut.
        rng: of which, and where.

    Returns:
        First token (N,) in `pack.tokens`, and length (N,), of what is left of each text; at least one token.
    """
    start, length = pack.starts[rows], pack.lengths[rows]
    size = 1 + (rng.random(len(rows)) * length).astype(np.int64)
    begin = start + (rng.random(len(rows)) * (length - size + 1)).astype(np.int64)
    end = begin + size - 1  # the last token that stays
    cut = rng.random(len(rows)) < share
    # A cut that falls into a word takes the whole word in, as far as the text goes.
    for _ in range(int(length.max(initial=1))):
        inside = cut & (begin > start) & pack.continues[pack.tokens[begin]]
        if not inside.any():
            break
        begin = begin - inside
    last = start + length - 1
    for _ in range(int(length.max(initial=1))):
        behind = np.minimum(end + 1, last)
        inside = cut & (end < last) & pack.continues[pack.tokens[behind]]
        if not inside.any():
            break
        end = end + inside
    return np.where(cut, begin, start), np.where(cut, end - begin + 1, length)


class PackFeed:
    """The same methods as `Feed`, over a pack.

    Args:
        pack: texts as tokens.
        embed: the encoder on token ids.
        batch_size: texts of mean length in a batch.
        seed: of order and cuts.
        rows: (N,) the texts that may be used; None for all.
        fitted: (pack,) bool, texts that the closed-form parts were fitted on; None for none. A crop counts as another
            text.
        crop: share of the texts that are cut.
    """

    def __init__(
        self,
        pack: Pack,
        embed: Embed,
        batch_size: int,
        seed: int,
        rows: np.ndarray | None = None,
        fitted: np.ndarray | None = None,
        crop: float = 0.0,
    ) -> None:
        self.pack, self.embed, self.seed, self.crop, self.fitted = pack, embed, seed, crop, fitted
        self.rows = np.arange(len(pack)) if rows is None else np.asarray(rows)
        self._texts = batch_size
        self._epoch = self._position = 0
        self._loaded = -1
        self.batches_per_epoch = self._load(0)

    def _load(self, epoch: int) -> int:
        """Draw an epoch, and return its number of batches."""
        rng = np.random.default_rng([self.seed, epoch])
        start, length = crops(self.pack, self.rows, self.crop, rng)
        tokens = self._texts * max(float(length.mean()), 1.0)
        order = rng.permutation(len(length))
        order = order[np.argsort(length[order], kind="stable")]
        values, first = np.unique(length[order], return_index=True)
        batches: list[np.ndarray] = []
        for n, mine in zip(values.tolist(), np.split(order, first[1:]), strict=True):
            size = max(1, min(round(tokens / n), 2 * self._texts))
            batches += [mine[i : i + size] for i in range(0, len(mine), size)]
        self._batches = [batches[i] for i in rng.permutation(len(batches))]
        self._start, self._length, self._loaded = start, length, epoch
        return len(batches)

    def next(self) -> list[LengthGroup]:
        """Return the next batch, embedded, as one group."""
        group = self.peek()
        self._position += 1
        return group

    def peek(self) -> list[LengthGroup]:
        """Return the next batch without moving on."""
        if self._loaded != self._epoch:
            self._load(self._epoch)
        if self._position >= len(self._batches):
            self._epoch, self._position = self._epoch + 1, 0
            self._load(self._epoch)
        batch = self._batches[self._position]
        n = int(self._length[batch[0]])
        ids = self.pack.tokens[self._start[batch][:, None] + np.arange(n)].astype(np.int64)
        known = None
        if self.fitted is not None:
            rows = self.rows[batch]
            known = self.fitted[rows] & (self._length[batch] == self.pack.lengths[rows])
        return [LengthGroup(ids, self.embed(torch.from_numpy(ids)).cpu().numpy(), known)]

    def halve(self) -> bool:
        """Continue with batches of half the size, from a new epoch on; false where they are as small as they get."""
        if self._texts < 2 * _LEAST:
            return False
        self._texts //= 2
        self._epoch, self._position = self._epoch + 1, 0
        self.batches_per_epoch = self._load(self._epoch)
        return True

    def state(self) -> dict[str, int]:
        """Where the next batch is, as JSON values."""
        return {"epoch": self._epoch, "position": self._position, "texts": self._texts}

    def restore(self, state: dict[str, int]) -> None:
        """Continue from a state."""
        self._epoch, self._position, self._texts = state["epoch"], state["position"], state["texts"]
        self._loaded = -1


class PackSample:
    """Some whole texts of a pack with their vectors, made when they are read. A `Dataset`.

    Args:
        pack: the texts.
        embed: the encoder on token ids.
        rows: (N,) which of them.
    """

    def __init__(self, pack: Pack, embed: Embed, rows: np.ndarray) -> None:
        self.pack, self.embed, self.rows = pack, embed, rows
        self.lengths = pack.lengths[rows]

    def gather(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See `ShardDataset.gather`; texts of one length are embedded together, so that nothing is padded."""
        ids, lengths = self.pack.gather(self.rows[index])
        vectors = np.empty((len(index), self.pack.identity.dimension), dtype=np.float32)
        for n in np.unique(lengths):
            same = np.flatnonzero(lengths == n)
            for part in np.array_split(same, -(-len(same) // 64)):
                vectors[part] = self.embed(torch.from_numpy(ids[part, :n].astype(np.int64))).cpu().numpy()
        return ids, lengths, vectors
