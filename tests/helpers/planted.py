"""Texts whose vectors are built from known parts, so that closed-form priors have a known answer.

Each token has a direction, and so has each (token, position from the start) pair and each length; a vector is their sum
plus noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

VOCABULARY, LIMIT, DIM = 60, 6, 48


@dataclass
class Planted:
    """Padded ids (B, LIMIT), lengths (B,), vectors (B, DIM)."""

    ids: Tensor
    lengths: Tensor
    vectors: Tensor

    def batches(self, size: int) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Split into batches."""
        return list(zip(self.ids.split(size), self.lengths.split(size), self.vectors.split(size), strict=True))


def planted(rows: int, seed: int = 0, order: float = 0.6, noise: float = 0.1) -> Planted:
    """Draw texts of 2..LIMIT distinct tokens; ids 0..4 never occur; frequency falls with the id.

    Args:
        rows: number of texts.
        seed: seed of the texts; the directions are always the same.
        order: share of the (token, position) directions.
        noise: standard deviation of the noise per dimension.
    """
    fixed = torch.Generator().manual_seed(123)
    token = torch.randn(VOCABULARY, DIM, generator=fixed)
    place = torch.randn(LIMIT, VOCABULARY, DIM, generator=fixed) * order
    length = torch.randn(LIMIT + 1, DIM, generator=fixed)
    g = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, LIMIT + 1, (rows,), generator=g)
    frequency = 1.0 / torch.arange(1, VOCABULARY + 1)
    frequency[:5] = 0
    ids = torch.multinomial(frequency.expand(rows, -1), LIMIT, generator=g)
    position = torch.arange(LIMIT)
    inside = position < lengths[:, None]
    parts = (token[ids] + place[position, ids]) * inside[..., None]
    vectors = parts.sum(1) + length[lengths] + noise * torch.randn(rows, DIM, generator=g)
    return Planted(ids * inside, lengths, vectors)
