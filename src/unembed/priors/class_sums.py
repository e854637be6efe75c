"""Sums of vectors by class, collected in one pass: what closed-form means are made of.

What is here:
    distinct_tokens  (row, token) pairs of a padded batch, each once
    ClassSums        sums and counts of any classes
    PositionSums     the same for the classes (side, position, token), for the tokens frequent there
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def distinct_tokens(ids: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (M,) and tokens (M,) of the distinct (row, token) pairs of ids (B, n) where inside (B, n) is true."""
    ordered = torch.where(inside, ids, -1).sort(dim=1).values
    first = ordered >= 0
    first[:, 1:] &= ordered[:, 1:] != ordered[:, :-1]
    return first.nonzero()[:, 0], ordered[first]


class ClassSums:
    """Sums of vectors per class and how many vectors each class has.

    Args:
        classes: number of classes C.
        dim: dimension d.
        device: where the vectors are.

    Attributes:
        sums: (C, d) float32.
        counts: (C,) int64.
    """

    def __init__(self, classes: int, dim: int, device: torch.device | str = "cpu") -> None:
        self.sums = torch.zeros(classes, dim, device=device)
        self.counts = torch.zeros(classes, dtype=torch.int64, device=device)

    def add(self, vectors: Tensor, rows: Tensor, classes: Tensor) -> None:
        """Add vectors[rows[i]] to class classes[i] for every i; vectors (B, d) float32, rows (M,), classes (M,)."""
        if not len(rows):
            return
        order = classes.argsort()
        which, counts = classes[order].unique_consecutive(return_counts=True)
        offsets = counts.cumsum(0) - counts
        # A bag per class: a gather and a sum without the (M, d) intermediate.
        bags = nn.functional.embedding_bag(rows[order], vectors, offsets, mode="sum")
        self.sums.index_add_(0, which, bags)
        self.counts.index_add_(0, which, counts)

    def mapped(self, offset: Tensor, matrix: Tensor) -> Tensor:
        """Sums of (x - offset) @ matrix over each class (C, d), from the sums of x; all of it on the CPU."""
        return (self.sums.cpu() - self.counts.cpu().float()[:, None] * offset) @ matrix


class PositionSums:
    """Sums by token and position, counted from the start (side 0) and from the end (side 1).

    The first texts are held back until `warmup` of them tell which T tokens are the most frequent at each position;
    only those get a class. Memory: 2 x limit x T x d floats, whatever the number of texts.

    Args:
        vocab_size: V.
        max_length: longest text, in tokens.
        dim: dimension d.
        tokens: T, at most V.
        warmup: texts to hold back.
    """

    def __init__(self, vocab_size: int, max_length: int, dim: int, tokens: int = 1500, warmup: int = 50_000) -> None:
        self.vocab_size, self.max_length, self.dim = vocab_size, max_length, dim
        self.tokens, self.warmup = min(tokens, vocab_size), warmup
        self.histogram = torch.zeros(2 * max_length * vocab_size, dtype=torch.int32)
        self._held: list[tuple[Tensor, Tensor, Tensor]] = []
        self._held_rows = 0
        self._classes: ClassSums | None = None

    def add(self, vectors: Tensor, ids: Tensor, lengths: Tensor) -> None:
        """Add a padded batch: vectors (B, d) float32, ids (B, n) int64, lengths (B,) int64."""
        rows, cells = self._cells(ids, lengths)
        self.histogram += torch.bincount(cells, minlength=len(self.histogram)).int()
        if self._classes is not None:
            self._sum(vectors, rows, cells)
            return
        self._held.append((vectors, rows, cells))
        self._held_rows += len(vectors)
        if self._held_rows >= self.warmup:
            self._choose()

    def finish(self, offset: Tensor, matrix: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the arguments of `PositionPrior.from_sums`, vectors mapped by (x - offset) @ matrix.

        Returns:
            sums (2, limit, T, d), counts (2, limit, T), token_ids (2, limit, T), histogram (2, limit, V).
        """
        if self._classes is None:
            self._choose()
        assert self._classes is not None
        shape = (2, self.max_length, self.tokens)
        sums = self._classes.mapped(offset, matrix).view(*shape, self.dim)
        return sums, self._classes.counts.view(shape), self._chosen, self.histogram.view(2, self.max_length, -1)

    def _cells(self, ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Rows and cells (side, position, token as one number) of all tokens, both sides."""
        start = torch.arange(ids.shape[1]).expand_as(ids)
        end = lengths[:, None] - 1 - start
        inside = end >= 0
        rows = inside.nonzero()[:, 0]
        sides = [
            (side * self.max_length + p[inside]) * self.vocab_size + ids[inside] for side, p in enumerate((start, end))
        ]
        return torch.cat((rows, rows)), torch.cat(sides)

    def _choose(self) -> None:
        counts = self.histogram.view(2, self.max_length, -1)
        self._chosen = counts.topk(self.tokens, dim=2).indices
        number = torch.arange(2 * self.max_length * self.tokens, dtype=torch.int32).view(2, self.max_length, -1)
        self._class_of = torch.full(counts.shape, -1, dtype=torch.int32).scatter_(2, self._chosen, number).view(-1)
        self._classes = ClassSums(number.numel(), self.dim)
        for held in self._held:
            self._sum(*held)
        self._held = []

    def _sum(self, vectors: Tensor, rows: Tensor, cells: Tensor) -> None:
        assert self._classes is not None
        classes = self._class_of[cells]
        known = classes >= 0
        self._classes.add(vectors, rows[known], classes[known].long())
