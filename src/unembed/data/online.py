"""Embedding inside the training loop: every epoch sees other crops of the same texts.

Contents: `Augmentation`, `OnlineBatches`; `OnlineFeed`: its batches as `Feed` gives them; `Sample`: some of its texts.

On a GPU the encoder costs a tenth of a large denoiser, so texts can be embedded anew each time: lines are joined with
the ones after them, cut to a run of words, truncated to a length drawn afresh, and only then embedded. What is yielded
is what cached shards yield: padded ids, lengths, vectors.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from unembed.data.batch import Batch, BatchState
from unembed.data.feed import LengthGroup
from unembed.data.tokenization import Tokenizer, Truncated
from unembed.encoders.protocol import Encoder
from unembed.errors import DataError


@dataclass(frozen=True)
class Augmentation:
    """How often a text is changed before it is embedded; probabilities are independent.

    Attributes:
        join: the line is joined with the next one in the pool, so that short lines fill the limit.
        crop: the text is cut to a run of its words, with start and length drawn uniformly.
        truncate: the limit is drawn uniformly from 1 to the limit; otherwise it is the limit.
    """

    join: float = 0.1
    crop: float = 0.3
    truncate: float = 0.1

    def __post_init__(self) -> None:
        """Check that each is a probability."""
        for name in ("join", "crop", "truncate"):
            if not 0 <= getattr(self, name) <= 1:
                raise DataError(f"{name} is {getattr(self, name)}.", "Choose a probability from 0 to 1.")


class OnlineBatches:
    """Batches of texts that are embedded when they are asked for.

    Texts are read into a pool, shuffled and changed there, sorted by length and cut into batches in random order. The
    pool bounds the memory. Everything but the vectors is fixed by the seed, the epoch and the texts, so a run resumes
    at any batch, and batches before it are tokenised again but not embedded.

    Args:
        texts: called once an epoch; yields (text, source) in an order of its own, the same every time.
        encoder: embeds the truncated texts.
        tokenizer: the encoder's own.
        max_length: greatest number of tokens.
        batch_size: texts per batch; the last one of a pool may be smaller.
        seed: fixes shuffling and changes.
        augmentation: how often texts are changed; None: never.
        pool: texts shuffled together.

    Raises:
        DataError: sizes below 1.
    """

    def __init__(
        self,
        texts: Callable[[], Iterable[tuple[str, str]]],
        encoder: Encoder,
        tokenizer: Tokenizer,
        max_length: int = 32,
        batch_size: int = 256,
        seed: int = 0,
        augmentation: Augmentation | None = None,
        pool: int = 32768,
    ) -> None:
        """Keep the settings; nothing is read yet."""
        if min(max_length, batch_size, pool) < 1:
            raise DataError(
                f"Limit {max_length}, batch size {batch_size} or pool {pool} is below 1.", "Choose positive numbers."
            )
        self.texts = texts
        self.encoder = encoder
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.batch_size = batch_size
        self.seed = seed
        self.augmentation = augmentation or Augmentation(0, 0, 0)
        self.pool = max(pool, batch_size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Batches of one epoch; `start` batches at the beginning are left out and not embedded."""
        rng = np.random.default_rng([self.seed, epoch])
        stream = iter(self.texts())
        while rows := [text for text, _ in itertools.islice(stream, self.pool)]:
            kept = self._draw(rows, rng)
            batches = self._cut(np.array([len(c.ids) for c in kept], dtype=np.int64), rng)
            for batch in batches[start:]:
                yield self._embed([kept[k] for k in batch])
            start = max(0, start - len(batches))

    def forever(self, state: BatchState | None = None) -> Iterator[tuple[Batch, BatchState]]:
        """Batches of epoch after epoch, each with the state to resume from after it.

        Raises:
            DataError: an epoch holds no batch.
        """
        state = state or BatchState()
        epoch, position = state.epoch, state.position
        while True:
            for batch in self.epoch(epoch, position):
                position += 1
                yield batch, BatchState(epoch, position)
            if position == 0:
                raise DataError("The texts give no batch.", "Check the files: none of their texts can be kept.")
            epoch, position = epoch + 1, 0

    def _draw(self, texts: list[str], rng: np.random.Generator) -> list[Truncated]:
        """Shuffle and change the texts of a pool; those that cannot be kept are left out."""
        n, change = len(texts), self.augmentation
        order = rng.permutation(n)
        joined, cropped, shortened = (rng.random(n) < p for p in (change.join, change.crop, change.truncate))
        where = rng.random((n, 2))
        limits = np.where(shortened, rng.integers(1, self.max_length + 1, n), self.max_length)
        drawn = []
        for k in range(n):
            text = texts[order[k]]
            if joined[k]:
                text = f"{text} {texts[(order[k] + 1) % n]}"
            if cropped[k]:
                text = crop(text, *where[k])
            drawn.append(text)
        kept: dict[int, Truncated] = {}
        for max_length in np.unique(limits):
            rows = np.flatnonzero(limits == max_length)
            cut = self.tokenizer.truncate([drawn[k] for k in rows], int(max_length))
            kept.update({int(k): c for k, c in zip(rows, cut, strict=True) if c is not None})
        return [kept[k] for k in sorted(kept)]

    def _cut(self, lengths: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
        """Sort a pool by length and cut it into batches in random order."""
        rows = np.argsort(lengths, kind="stable")
        short = len(rows) % self.batch_size
        at = self.batch_size * int(rng.integers(len(rows) // self.batch_size + 1))
        whole = np.concatenate([rows[:at], rows[at + short :]])
        batches = [whole[k : k + self.batch_size] for k in range(0, len(whole), self.batch_size)]
        if short:
            batches.append(rows[at : at + short])
        return [batches[k] for k in rng.permutation(len(batches))]

    def _embed(self, rows: list[Truncated]) -> Batch:
        """Embed a batch and pad its ids."""
        lengths = np.array([len(c.ids) for c in rows], dtype=np.int64)
        ids = np.full((len(rows), int(lengths.max())), self.tokenizer.pad_id, dtype=np.int64)
        for row, c in enumerate(rows):
            ids[row, : len(c.ids)] = c.ids
        return Batch(ids, lengths, self.encoder.encode([c.text for c in rows]))


def crop(text: str, length: float, start: float) -> str:
    """A run of words of a text.

    Args:
        text: any text; words are what white space separates.
        length: from 0 to 1 (excluded), which of the lengths 1 to all words.
        start: from 0 to 1 (excluded), which of the possible places.
    """
    words = text.split()
    if not words:
        return ""
    n = 1 + int(length * len(words))
    first = int(start * (len(words) - n + 1))
    return " ".join(words[first : first + n])


class OnlineFeed:
    """The same methods as `Feed`, over texts instead of shards.

    A batch of `OnlineBatches` holds texts of similar length; it is split by exact length, so that nothing is padded.

    Args:
        batches: the source.
    """

    batches_per_epoch = 0
    """Unknown before the texts are read: an online run needs steps or a time box."""

    def __init__(self, batches: OnlineBatches) -> None:
        self._source = batches
        self._state = BatchState()
        self._stream: Iterator[tuple[Batch, BatchState]] | None = None

    def next(self) -> list[LengthGroup]:
        """Return the next batch as groups of one length."""
        if self._stream is None:
            self._stream = self._source.forever(self._state)
        batch, self._state = next(self._stream)
        return [
            LengthGroup(batch.ids[rows, : int(n)], batch.vectors[rows])
            for n in np.unique(batch.lengths)
            for rows in [batch.lengths == n]
        ]

    def halve(self) -> bool:
        """A stream's batches keep their size."""
        return False

    def state(self) -> dict[str, int]:
        """Where the next batch is, as JSON values."""
        return {"epoch": self._state.epoch, "position": self._state.position}

    def restore(self, state: dict[str, int]) -> None:
        """Continue from a state."""
        self._state = BatchState(state["epoch"], state["position"])
        self._stream = None


@dataclass
class Sample:
    """Some texts of an online source, embedded once: what the closed-form parts are fitted on. A `Dataset`.

    Attributes:
        ids: (N, max_length) int64, padded.
        lengths: (N,) int64.
        vectors: (N, d) float32.
    """

    ids: np.ndarray
    lengths: np.ndarray
    vectors: np.ndarray

    @classmethod
    def draw(cls, source: OnlineBatches, texts: int, max_length: int) -> Sample:
        """Take the first `texts` texts of an epoch of their own (fewer where there are fewer).

        Raises:
            DataError: no text.
        """
        ids: list[np.ndarray] = []
        lengths: list[np.ndarray] = []
        vectors: list[np.ndarray] = []
        for batch in itertools.islice(source.epoch(-1 % (1 << 31)), -(-texts // source.batch_size)):
            padded = np.zeros((len(batch.ids), max_length), dtype=np.int64)
            padded[:, : batch.ids.shape[1]] = batch.ids
            ids.append(padded)
            lengths.append(batch.lengths)
            vectors.append(batch.vectors)
        if not ids:
            raise DataError("The texts give no batch.", "Check the files: none of their texts can be kept.")
        return cls(np.concatenate(ids), np.concatenate(lengths), np.concatenate(vectors))

    def gather(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See `ShardDataset.gather`."""
        return self.ids[index], self.lengths[index], self.vectors[index]
