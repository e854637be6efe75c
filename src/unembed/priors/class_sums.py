"""Sums of vectors by class, collected in one pass: what closed-form means are made of.

What is here:
    distinct_tokens  (row, token) pairs of a padded batch, each once
    ClassSums        sums and counts of any classes
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
