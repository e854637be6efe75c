"""A draft as the denoiser's blocks read it: keys and values for each block, and the attention that reads them.

Contents: `DraftReader`, `DraftMemory`.

A reader precedes each block as a branch of its own, with its own softmax. Its output starts at zero, so that a new
corrector changes nothing; without a draft it is not run at all, so that the denoiser computes what it always did.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unembed.network.block import attend


class DraftReader(nn.Module):
    """Cross-attention from positions to the rows of a draft.

    Args:
        width: model width.
        heads: attention heads.
        head_width: width of a head.
    """

    def __init__(self, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.width, self.heads, self.head_width = width, heads, head_width
        self.query = nn.Linear(width, heads * head_width)
        self.key = nn.Linear(width, heads * head_width)
        self.value = nn.Linear(width, heads * head_width)
        self.out = nn.Linear(heads * head_width, width)
        self.query_scale = nn.Parameter(torch.full((head_width,), 2.0))
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def _split(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], self.heads, self.head_width).transpose(1, 2)

    def keys_values(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of draft rows (B, m, width), each (B, heads, m, head_width)."""
        keys = self._split(self.key(rows))
        return F.rms_norm(keys, (self.head_width,), None, 1e-6), self._split(self.value(rows))

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, inside: Tensor) -> Tensor:
        """What is added to x.

        Args:
            x: (B, n, width).
            keys: (B, heads, m, head_width).
            values: like keys.
            inside: (B, m) bool, rows that exist.
        """
        queries = self._split(self.query(F.layer_norm(x, (self.width,))))
        queries = F.rms_norm(queries, (self.head_width,), self.query_scale.to(queries.dtype), 1e-6)
        mixed = attend(queries.to(values.dtype), keys.to(values.dtype), values, inside[:, None, None, :], 0.0)
        read: Tensor = self.out(mixed.transpose(1, 2).reshape(x.shape[0], x.shape[1], -1))
        return read


@dataclass
class DraftMemory:
    """Drafts of B texts, made ready for every block.

    Attributes:
        keys: for each block (B, heads, m, head_width).
        values: like keys.
        inside: (B, m) bool, rows that exist; m is that of the longest draft.
        readers: the reader of each block.
    """

    keys: list[Tensor]
    values: list[Tensor]
    inside: Tensor
    readers: Sequence[DraftReader]

    def select(self, index: Tensor) -> DraftMemory:
        """Return the rows named by `index` (R,), in that order; rows may repeat."""
        keys, values = [k[index] for k in self.keys], [v[index] for v in self.values]
        return DraftMemory(keys, values, self.inside[index], self.readers)

    def read(self, block: int, x: Tensor) -> Tensor:
        """Add to x (B, n, width) what block number `block` gets from the draft."""
        read: Tensor = self.readers[block](x, self.keys[block], self.values[block], self.inside)
        return x + read
