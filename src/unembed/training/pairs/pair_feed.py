"""Pairs on their way into training: parts of a folder as they appear, batches of texts of one length.

Contents: `PairFolder`, `PairFeed`, `PairBatch`, `batch_of`.
"""

from __future__ import annotations

import logging
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unembed.errors import CheckpointError, DataError
from unembed.training.pairs.pair_files import Origin, Pairs

_log = logging.getLogger(__name__)
_LEAST = 4
"""Texts of mean length below which a batch is not made smaller when memory runs out."""


@dataclass
class PairBatch:
    """B texts of one length with their drafts.

    Attributes:
        ids: (B, n) true texts.
        vectors: (B, d) their vectors.
        fitted: (B,) bool, texts that the base's closed-form parts were fitted on, or may have been.
        drafts: (B, m) padded drafts.
        lengths: (B,) tokens of each draft.
        own: (B, d) vectors of the drafts.
        kinds: (B,) index into `KINDS`.
    """

    ids: Tensor
    vectors: Tensor
    fitted: Tensor
    drafts: Tensor
    lengths: Tensor
    own: Tensor
    kinds: np.ndarray

    def to(self, device: torch.device) -> PairBatch:
        """Return the batch on a device."""
        names = ("ids", "vectors", "fitted", "drafts", "lengths", "own")
        return PairBatch(**{name: getattr(self, name).to(device) for name in names}, kinds=self.kinds)

    def outside(self, filler: int) -> Tensor:
        """The texts (B, n) that are to be taken out of the class means; `filler` all along a text that never was in."""
        return torch.where(self.fitted.unsqueeze(1), self.ids, filler)


def batch_of(pairs: Pairs) -> PairBatch:
    """Turn pairs whose texts have one length into a batch."""
    longest = int(pairs.draft_lengths.max())
    return PairBatch(
        torch.from_numpy(pairs.ids[:, : int(pairs.lengths[0])].astype(np.int64)),
        torch.from_numpy(pairs.vectors.astype(np.float32)),
        torch.from_numpy(pairs.fitted),
        torch.from_numpy(pairs.drafts[:, :longest].astype(np.int64)),
        torch.from_numpy(pairs.draft_lengths.astype(np.int64)),
        torch.from_numpy(pairs.draft_vectors.astype(np.float32)),
        pairs.kinds,
    )


class PairFolder:
    """A folder of parts, into which others may still write.

    Args:
        folder: where `make_pairs` writes; folders inside it count too.
        origin: encoder, tokenizer and limit that pairs must have; that another base wrote them is noted in the log.
    """

    def __init__(self, folder: str | Path, origin: Origin) -> None:
        self.folder, self.origin = Path(folder), origin
        self._told = False

    def names(self) -> list[str]:
        """Names of the parts that are there, sorted."""
        return sorted(path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*.npz"))

    def read(self, name: str) -> Pairs:
        """Read a part.

        Raises:
            DataError: it is damaged, or of another encoder, tokenizer or limit.
        """
        pairs, origin = Pairs.load(self.folder / name)
        if replace(origin, base=self.origin.base) != self.origin:
            raise DataError(
                f"{self.folder / name} holds pairs of another encoder, tokenizer or limit than the base's: "
                f"{origin.encoder}, {origin.limit} tokens.",
                "Name another folder in pairs.folder.",
            )
        if origin.base != self.origin.base and not self._told:
            _log.info("%s holds drafts of another base; they are still learnt from", self.folder)
            self._told = True
        return pairs


class PairFeed:
    """Batches of pairs whose texts have one length, in a seeded order, epoch after epoch.

    Parts that came into the folder meanwhile are taken in when an epoch ends. The order depends on the seed, the epoch
    and the parts; all are in `state()`, so that a run resumes at any step.

    Args:
        folder: of the pairs; one part at least.
        batch_size: texts of mean length in a batch; batches of short texts hold more, of long ones fewer.
        seed: of the order.
        held: share of the texts whose pairs are held out. The text itself decides, so that no other draft of a held-out
            text is learnt from, whichever part it comes in.

    Attributes:
        learnt, held: the pairs, apart.
        batches_per_epoch: of this epoch.

    Raises:
        DataError: no part, a damaged or foreign one, or nothing left to learn from.
    """

    def __init__(self, folder: PairFolder, batch_size: int, seed: int, held: float = 0.0) -> None:
        self.folder = folder
        self._texts, self._seed, self._share = batch_size, seed, held
        self._epoch = self._position = 0
        self._read(folder.names())
        self._begin()

    def _read(self, names: list[str]) -> None:
        """Take these parts, in this order, as all there are."""
        if not names:
            raise DataError(f"{self.folder.folder} holds no pairs.", "Let pairs be made: set pairs.own above 0.")
        first, *others = found = [self.folder.read(name) for name in names]
        self._parts = {name: pairs.digest() for name, pairs in zip(names, found, strict=True)}
        every = first.join(*others)
        # A checksum of the text's tokens, as a number from 0 to 1, against the share.
        rows = zip(every.ids.astype("<u4"), every.lengths.tolist(), strict=True)
        drawn = np.array([zlib.crc32(row[:n].tobytes()) for row, n in rows], dtype=np.float64) / (1 << 32)
        apart = drawn < self._share
        self.learnt, self.held = every.take(np.flatnonzero(~apart)), every.take(np.flatnonzero(apart))
        if not len(self.learnt):
            raise DataError(
                f"{self.folder.folder} holds no pair to learn from.", "Make more of them, or lower pairs.held."
            )
        self._lengths = self.learnt.lengths.astype(np.int64)

    def _begin(self) -> None:
        """Cut the epoch into batches."""
        self._batches = self._cut()
        self.batches_per_epoch = len(self._batches)

    def _cut(self) -> list[np.ndarray]:
        """The pairs of each batch of the epoch."""
        rng = np.random.default_rng([self._seed, self._epoch])
        order = rng.permutation(len(self._lengths))
        order = order[np.argsort(self._lengths[order], kind="stable")]
        tokens = self._texts * max(float(self._lengths.mean()), 1.0)
        cut: list[np.ndarray] = []
        values, first = np.unique(self._lengths[order], return_index=True)
        for n, mine in zip(values.tolist(), np.split(order, first[1:]), strict=True):
            size = max(1, min(round(tokens / n), 2 * self._texts))
            cut += [mine[i : i + size] for i in range(0, len(mine), size)]
        return [cut[i] for i in rng.permutation(len(cut))]

    def _next_epoch(self) -> None:
        self._epoch, self._position = self._epoch + 1, 0
        fresh = [name for name in self.folder.names() if name not in self._parts]
        if fresh:
            _log.info("%d further parts of pairs are taken in", len(fresh))
            self._read([*self._parts, *fresh])
        self._begin()

    def peek(self) -> PairBatch:
        """Return the next batch without moving on."""
        if self._position >= len(self._batches):
            self._next_epoch()
        return batch_of(self.learnt.take(self._batches[self._position]))

    def next(self) -> PairBatch:
        """Return the next batch."""
        batch = self.peek()
        self._position += 1
        return batch

    def repeat(self, count: int) -> None:
        """Learn from the pairs as if there were this many, the same ones repeatedly; for an estimate of the speed."""
        self.learnt = self.learnt.take(np.arange(count) % len(self.learnt))
        self._lengths = self.learnt.lengths.astype(np.int64)
        self._begin()

    def halve(self) -> bool:
        """Continue with batches of half the size, from a new epoch on; false where they are as small as they get."""
        if self._texts < 2 * _LEAST:
            return False
        self._texts //= 2
        self._next_epoch()
        return True

    def state(self) -> dict[str, Any]:
        """Where the next batch is, as JSON values."""
        return {"epoch": self._epoch, "position": self._position, "texts": self._texts, "parts": self._parts}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a state.

        Raises:
            CheckpointError: a part is gone, or another one than it was.
        """
        parts: dict[str, str] = state["parts"]
        lost = [name for name in parts if not (self.folder.folder / name).is_file()]
        if not lost and [*parts.items()] != [*self._parts.items()]:
            self._read(list(parts))
            lost = [name for name in parts if parts[name] != self._parts[name]]
        if lost:
            raise CheckpointError(
                f"The run learns from {self.folder.folder / lost[0]}, which is gone or changed.",
                "Restore it, or begin a new run.",
            )
        self._epoch, self._position, self._texts = state["epoch"], state["position"], state["texts"]
        self._begin()
