"""Which rows make a batch: shuffled, of like length, and the same again after a stop.

Contents: `LengthBatches`, `BatchState`, `Batch`.

Rows of a batch have similar lengths, so that padding is under a tenth; with `exact=True` they have one length, so
that there is none. The corpus is cut into blocks of neighbouring rows; blocks are shuffled and taken a window at a
time, and within a window rows are shuffled, sorted by length and cut into batches in random order. A window bounds
the memory and keeps disk reads near each other.

That batches are sorted by length gives the length away only where the canvas follows the batch (design, decision 2);
whoever uses canvas "eos" must draw the canvas apart from the batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from unembed.errors import DataError

if TYPE_CHECKING:
    import numpy as np

BLOCK = 4096
"""Rows of a block; windows are made of whole blocks."""


class Batch(NamedTuple):
    """What every source of training data yields.

    Attributes:
        ids: (B, longest) int64, filled up with the pad id behind each text.
        lengths: (B,) int64.
        vectors: (B, d) float32, what the encoder makes of exactly these tokens.
    """

    ids: np.ndarray
    lengths: np.ndarray
    vectors: np.ndarray


@dataclass(frozen=True)
class BatchState:
    """Where a run stands: `position` batches of epoch `epoch` (from 0) have been taken."""

    epoch: int = 0
    position: int = 0

    def __post_init__(self) -> None:
        """Check that both are counts."""
        if self.epoch < 0 or self.position < 0:
            raise DataError(f"Epoch {self.epoch}, batch {self.position} does not exist.", "Count from 0.")


class LengthBatches:
    """A deterministic sampler of row indices.

    Args:
        lengths: (n,) tokens of each text.
        batch_size: rows a batch; the last batches of an epoch may be smaller.
        seed: together with the epoch it fixes every batch.
        exact: rows of a batch have one length.
        window: rows shuffled together, rounded up to whole blocks.
        drop_last: only whole batches, for static shapes; up to one batch (with `exact` one a length) of an epoch is
            left out.

    Raises:
        DataError: no rows, or sizes below 1.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        batch_size: int,
        seed: int = 0,
        exact: bool = False,
        window: int = 262144,
        drop_last: bool = False,
    ) -> None:
        """Keep the lengths and the settings; nothing is drawn yet."""
        import numpy as np

        self.lengths = np.asarray(lengths)
        if self.lengths.ndim != 1 or len(self.lengths) == 0:
            raise DataError("There is no text to make batches of.", "Give lengths of at least one text.")
        if batch_size < 1 or window < 1:
            raise DataError(f"Batch size {batch_size} or window {window} is below 1.", "Choose positive numbers.")
        self.batch_size = batch_size
        self.seed = seed
        self.exact = exact
        self.window = window
        self.drop_last = drop_last

    def epoch(self, epoch: int, start: int = 0) -> Iterator[np.ndarray]:
        """Batches of one epoch; every row once.

        Args:
            epoch: from 0.
            start: batches to leave out at the beginning; they cost their share of sorting, no data is read.

        Yields:
            (B,) int64 row indices.
        """
        import numpy as np

        rng = np.random.default_rng([self.seed, epoch])
        rest = np.zeros(0, dtype=np.int64)
        n = len(self.lengths)
        blocks = rng.permutation(np.arange(0, n, BLOCK))
        per = -(-self.window // BLOCK)
        for k in range(0, len(blocks), per):
            rows = np.concatenate([np.arange(b, min(b + BLOCK, n)) for b in blocks[k : k + per]])
            rows = np.concatenate([rest, rng.permutation(rows)])
            batches, rest = self._cut(rows, k + per >= len(blocks), rng)
            yield from batches[start:]
            start = max(0, start - len(batches))

    def forever(self, state: BatchState | None = None) -> Iterator[tuple[np.ndarray, BatchState]]:
        """Batches of epoch after epoch, each with the state behind it: resume from that state with the next batch.

        Raises:
            DataError: an epoch holds no whole batch (with `drop_last`).
        """
        state = state or BatchState()
        number, position = state.epoch, state.position
        while True:
            for batch in self.epoch(number, position):
                position += 1
                yield batch, BatchState(number, position)
            if position == 0:
                raise DataError(
                    f"{len(self.lengths)} texts give no whole batch of {self.batch_size}.", "Use smaller batches."
                )
            number, position = number + 1, 0

    def _cut(self, rows: np.ndarray, last: bool, rng: np.random.Generator) -> tuple[list[np.ndarray], np.ndarray]:
        """Cut shuffled rows into batches in random order; what fills no batch goes to the next window."""
        import numpy as np

        rows = rows[np.argsort(self.lengths[rows], kind="stable")]
        edges = [0, len(rows)]
        if self.exact:
            edges = [0, *(np.flatnonzero(np.diff(self.lengths[rows])) + 1).tolist(), len(rows)]
        batches: list[np.ndarray] = []
        rest: list[np.ndarray] = []
        for begin, end in itertools.pairwise(edges):
            short = (end - begin) % self.batch_size
            # which rows are left over must not depend on their length: a random place for the gap
            at = begin + self.batch_size * int(rng.integers((end - begin) // self.batch_size + 1))
            rest.append(rows[at : at + short])
            whole = np.concatenate([rows[begin:at], rows[at + short : end]])
            batches += np.split(whole, range(self.batch_size, len(whole), self.batch_size)) if len(whole) else []
        if last and not self.drop_last:
            batches += [part for part in rest if len(part)]
        order = rng.permutation(len(batches))
        return [batches[k] for k in order], np.concatenate(rest)
