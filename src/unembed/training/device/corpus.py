"""Tokens of all texts on the device, and the batches of an epoch, drawn there: one bucket and one size each.

Contents: `Corpus`, `Epoch`, `sizes_of`, `DeviceBatch`, `BatchLoader`.

An epoch takes every text once, whole or cut to a run of its words, sorts them by width, and cuts that order into
batches. The host learns one number a bucket from it; all else stays on the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unembed.data.pack import Pack
from unembed.errors import DataError

_SHARE = 0.75
_STEP = 8


def sizes_of(texts: int, buckets: Sequence[int]) -> list[int]:
    """Texts of a batch of each bucket, so that all batches have about the same number of places.

    A batch has `texts` x 3/4 x (greatest length) places: in English and with [8, 16, 24, 32], that is about `texts`
    texts over all buckets. It does not depend on the corpus, so that texts may be added to a run without another shape.

    Args:
        texts: `data.batch_size`.
        buckets: lengths in tokens, rising; a text takes one place more.

    Returns:
        Multiples of 8, at least 8.
    """
    places = texts * _SHARE * buckets[-1]
    return [max(_STEP, round(places / (n + 1) / _STEP) * _STEP) for n in buckets]


@dataclass(frozen=True)
class Epoch:
    """All texts in the order in which batches take them.

    Attributes:
        rows: (N,) texts of the corpus.
        start: (N,) their first tokens in `Corpus.tokens`, after the cut.
        length: (N,) tokens that are left.
        whole: (N,) bool, texts that are not cut.
        counts: texts of each bucket, narrow ones first; with `apart` first those of whole texts, then of cut ones.
    """

    rows: Tensor
    start: Tensor
    length: Tensor
    whole: Tensor
    counts: list[int]


class Corpus:
    """The texts of a pack on the device: 10 bytes per token (12 where ids do not fit into 15 bits), 16 per text.

    Args:
        pack: of T tokens.
        rows: (N,) texts that may be used.
        device: where all of it goes.

    Attributes:
        tokens: (T,) int16 or int32.
        start, length: (N,) int64, first token and number of tokens of each text.
        word_start, word_end: (T,) int32, first and last token of the word that each token belongs to.
        lengths: (N,) int64, the same as `length`, on the host.
    """

    def __init__(self, pack: Pack, rows: np.ndarray, device: torch.device) -> None:
        self.device, self.lengths = device, pack.lengths[rows]
        if len(pack.tokens) >= 1 << 31:
            raise DataError(f"The packs hold {len(pack.tokens):,} tokens.", "Train on fewer packs at once.")
        kind = np.int16 if pack.tokenizer.size <= 1 << 15 else np.int32
        self.tokens = torch.from_numpy(pack.tokens.astype(kind)).to(device)
        self.start = torch.from_numpy(pack.starts[rows]).to(device)
        self.length = torch.from_numpy(self.lengths).to(device)
        first, last = _words(pack)
        self.word_start, self.word_end = torch.from_numpy(first).to(device), torch.from_numpy(last).to(device)

    def __len__(self) -> int:
        """Number of texts N."""
        return len(self.length)

    def ids(self, start: Tensor, width: int) -> Tensor:
        """Tokens from places (B,) on: (B, width) int64. What follows a text is another one."""
        at = start.unsqueeze(1) + torch.arange(width, device=self.device)
        return self.tokens[at.clamp_max(len(self.tokens) - 1)].long()

    def epoch(self, number: int, seed: int, buckets: Sequence[int], crop: float, apart: bool = False) -> Epoch:
        """Draw an epoch; it follows from its number and the seed.

        Args:
            number: of the epoch.
            seed: of the run.
            buckets: lengths in tokens, rising; no text is longer than the last.
            crop: share of the texts that are cut to a run of their words.
            apart: whole and cut texts in batches of their own.
        """
        device, n = self.device, len(self)
        generator = torch.Generator(device).manual_seed(seed * 1_000_003 + number)
        u = torch.rand(4, n, generator=generator, device=device, dtype=torch.float64)
        # A run of `size` tokens somewhere in the text, and then all of the words that it begins and ends in.
        size = (u[0] * self.length).long() + 1
        begin = self.start + (u[1] * (self.length - size + 1)).long()
        first, last = self.word_start[begin].long(), self.word_end[begin + size - 1].long()
        cut = u[2] < crop
        start = torch.where(cut, first, self.start)
        length = torch.where(cut, last - first + 1, self.length)
        whole = length == self.length
        edges = torch.arange(len(buckets) * (2 if apart else 1), device=device)
        bucket = torch.searchsorted(torch.tensor(buckets, device=device), length)
        if apart:
            bucket = bucket + len(buckets) * ~whole
        order = (bucket + u[3]).argsort()  # by bucket, and at random within it
        counts = (bucket.unsqueeze(1) == edges).sum(0).tolist()  # all that the host reads
        return Epoch(order, start[order], length[order], whole[order], counts)


def _words(pack: Pack) -> tuple[np.ndarray, np.ndarray]:
    """First and last token of the word of each token, both (T,) int32; a word ends with its text in any case."""
    begins = ~pack.continues[pack.tokens]
    begins[pack.starts] = True
    place = np.arange(len(begins), dtype=np.int32)
    first = np.maximum.accumulate(np.where(begins, place, np.int32(0)))
    ends = np.append(begins[1:], True)
    last = np.minimum.accumulate(np.where(ends, place, np.int32(len(place)))[::-1])[::-1]
    return first, np.ascontiguousarray(last)


_LEAST = 8


@dataclass(frozen=True)
class DeviceBatch:
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
    """Batches of one bucket each, in random order, for ever.

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
        """Batches of the epoch that is drawn."""
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

    def next(self) -> DeviceBatch:
        """Return the next batch and move on."""
        if self._position >= len(self._plan):
            self._again()
        epoch = self._epoch
        kind, at = self._plan[self._position]
        self._position += 1
        k = kind % len(self.buckets)
        part = slice(at, at + self.sizes[k])
        cut = self.crop > 0 and (not self.apart or kind >= len(self.buckets))
        return DeviceBatch(
            self.buckets[k], epoch.rows[part], epoch.start[part], epoch.length[part], epoch.whole[part], cut
        )

    def examples(self) -> list[DeviceBatch]:
        """A batch of each shape, with texts from all over the corpus; no place moves."""
        corpus, found = self.corpus, []
        for width, size in zip(self.buckets, self.sizes, strict=True):
            rows = torch.arange(size, device=corpus.device) * len(corpus) // size
            length = corpus.length[rows].clamp_max(width)
            found.append(DeviceBatch(width, rows, corpus.start[rows], length, length == corpus.length[rows], cut=True))
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
