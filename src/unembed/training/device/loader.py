"""Which texts each batch takes: one bucket, one size.

Contents: `Batch`, `BatchLoader`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unembed.errors import DataError
from unembed.training.device.corpus import Corpus, Epoch, sizes_of

_LEAST = 8


@dataclass(frozen=True)
class Batch:
    """B texts, as places of a corpus; all tensors are on the device.

    Attributes:
        width: of the bucket, the most tokens that a text has.
        rows: (B,) texts of the corpus.
        start: (B,) where each begins.
        length: (B,) tokens of each.
        whole: (B,) bool, texts that are not cut.
        cut: whether any may be.
    """

    width: int
    rows: Tensor
    start: Tensor
    length: Tensor
    whole: Tensor
    cut: bool


def check_size(texts: int, sizes: Sequence[int]) -> None:
    """Refuse a corpus that does not fill the smallest of the batches.

    Raises:
        DataError: so it is.
    """
    if texts < min(sizes):
        raise DataError(
            f"There are too few texts for a batch, which has {' or '.join(map(str, sizes))} of them.",
            "Set a smaller data.batch_size, or give more texts.",
        )


class BatchLoader:
    """BatchLoader of one bucket each, in random order, for ever.

    Args:
        corpus: the texts.
        buckets: lengths in tokens, rising.
        texts: `data.batch_size`; see `sizes_of`.
        crop: share of the texts that are cut.
        seed: of the run.
        apart: whole and cut texts in batches of their own.

    Raises:
        DataError: there are too few texts for a single batch.
    """

    def __init__(self, corpus: Corpus, buckets: Sequence[int], texts: int, crop: float, seed: int, apart: bool) -> None:
        self.corpus, self.buckets, self.crop, self.seed = corpus, list(buckets), crop, seed
        self.apart = apart and crop > 0
        self.texts = texts
        self._number = self._position = 0
        self._epoch, self._plan = self._load()

    @property
    def batches_per_epoch(self) -> int:
        """BatchLoader of the epoch that is drawn."""
        return len(self._plan)

    @property
    def sizes(self) -> list[int]:
        """Texts of a batch of each bucket."""
        return sizes_of(self.texts, self.buckets)

    def _load(self) -> tuple[Epoch, list[tuple[int, int]]]:
        """Draw the epoch, and plan its batches: bucket and first text of each."""
        epoch = self.corpus.epoch(self._number, self.seed, self.buckets, self.crop, self.apart)
        plan: list[tuple[int, int]] = []
        end = 0
        for kind in range(0, len(epoch.counts), len(self.buckets)):
            at = end
            for k, (count, size) in enumerate(zip(epoch.counts[kind:], self.sizes, strict=False)):
                # What fills no batch of its width moves on to the next wider one; of the widest, some texts wait for
                # the next epoch.
                end += count
                full = (end - at) // size
                plan += [(kind + k, at + i * size) for i in range(full)]
                at += full * size
        if not plan:
            check_size(0, self.sizes)
        order = np.random.default_rng([self.seed, self._number]).permutation(len(plan))
        return epoch, [plan[i] for i in order]

    def _again(self) -> None:
        self._number, self._position = self._number + 1, 0
        self._epoch, self._plan = self._load()

    def next(self) -> Batch:
        """Return the next batch and move on."""
        if self._position >= len(self._plan):
            self._again()
        epoch = self._epoch
        kind, at = self._plan[self._position]
        self._position += 1
        k = kind % len(self.buckets)
        part = slice(at, at + self.sizes[k])
        cut = self.crop > 0 and (not self.apart or kind >= len(self.buckets))
        return Batch(self.buckets[k], epoch.rows[part], epoch.start[part], epoch.length[part], epoch.whole[part], cut)

    def examples(self) -> list[Batch]:
        """A batch of each shape, with texts from all over the corpus; no place moves."""
        corpus, found = self.corpus, []
        for width, size in zip(self.buckets, self.sizes, strict=True):
            rows = torch.arange(size, device=corpus.device) * len(corpus) // size
            length = corpus.length[rows].clamp_max(width)
            found.append(Batch(width, rows, corpus.start[rows], length, length == corpus.length[rows], cut=True))
        return found

    def halve(self) -> bool:
        """Continue with batches of half the size, from a new epoch on; false where they are as small as they get."""
        if max(self.sizes) <= _LEAST:
            return False
        self.texts = max(1, self.texts // 2)
        self._again()
        return True

    def state(self) -> dict[str, Any]:
        """Where the next batch is, as JSON values."""
        return {"epoch": self._number, "position": self._position, "texts": self.texts}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a state."""
        self._number, self._position, self.texts = state["epoch"], state["position"], state["texts"]
        self._epoch, self._plan = self._load()
