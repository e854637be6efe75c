"""A small encoder that has learnt to answer like the real one, so that refinement can look before it asks.

Contents: `StudentConfig`, `StudentEncoder`, `student_vectors`.

It is fitted on pairs of text and vector, the same that the denoiser was trained on: an attacker has it for free once
those are paid for, and running it is no query. Its answers are rough; differences between near texts are what it is
used for, around drafts whose true vector is known (`refinement/forecast.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unembed.network.block import Block

_TOKENS = 16384  # tokens that go through a student at once


@dataclass(frozen=True)
class StudentConfig:
    """Shape of a student.

    Attributes:
        vector_dim: dimension d of the vectors.
        limit: longest text in tokens.
        embedding_dim: of the token table, which is the denoiser's and is not trained.
        width, layers, heads, mlp: of the transformer.
    """

    vector_dim: int
    limit: int
    embedding_dim: int
    width: int = 384
    layers: int = 3
    heads: int = 6
    mlp: int = 1152


class StudentEncoder(nn.Module):
    """Token ids -> a guess of the encoder's vector.

    Args:
        config: the shape.
    """

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        self.config = c = config
        self.embed = nn.Linear(c.embedding_dim, c.width)
        self.position = nn.Embedding(c.limit, c.width)
        nn.init.normal_(self.position.weight, std=0.1)
        self.blocks = nn.ModuleList([Block(c.width, c.heads, c.mlp) for _ in range(c.layers)])
        self.modulation = nn.Parameter(torch.zeros(c.layers, 6, c.width))
        with torch.no_grad():
            self.modulation[:, [2, 5]] = 0.5
        self.direct = nn.Linear(c.embedding_dim, c.vector_dim)
        self.out = nn.Linear(c.width, c.vector_dim)

    def forward(self, rows: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Guess vectors.

        Args:
            rows: (B, n, embedding_dim) rows of the token table.
            lengths: (B,) tokens of each text; None when all have n.

        Returns:
            (B, d) of unit length.
        """
        rows = F.layer_norm(rows, (rows.shape[-1],))
        n = rows.shape[1]
        position = torch.arange(n, device=rows.device)
        x = self.embed(rows) + self.position(position)
        mask = share = None
        if lengths is not None:
            inside = position < lengths.unsqueeze(1)
            mask = inside[:, None, None, :]
            share = (inside / lengths.unsqueeze(1)).unsqueeze(-1)
        for i, block in enumerate(self.blocks):
            x, _ = block(x, self.modulation[i].expand(len(x), -1, -1), None, mask)
        pooled = x.mean(1) if share is None else (x * share).sum(1)
        bag = rows.mean(1) if share is None else (rows * share).sum(1)
        return F.normalize((self.out(F.layer_norm(pooled, (pooled.shape[-1],))) + self.direct(bag)).float(), dim=-1)


def student_vectors(
    student: StudentEncoder, table: Tensor, drafts: Sequence[tuple[int, ...]], precision: torch.dtype = torch.float32
) -> Tensor:
    """The student's vectors of drafts of any length, those of similar length together.

    Args:
        student: in evaluation mode.
        table: (V, embedding_dim) token table.
        drafts: D token id sequences.
        precision: of the products; bf16 where that is fast.

    Returns:
        (D, d) float32 of unit length, on the table's device; an empty draft counts as one token 0.
    """
    order = sorted(range(len(drafts)), key=lambda k: len(drafts[k]))
    out = torch.zeros(len(drafts), student.config.vector_dim, device=table.device)
    start = 0
    while start < len(order):
        count = max(1, _TOKENS // max(1, len(drafts[order[min(start + 511, len(order) - 1)]])))
        part = order[start : start + count]
        start += count
        n = max(1, len(drafts[part[-1]]))
        ids = torch.tensor([[*drafts[k], *[0] * (n - len(drafts[k]))] for k in part], device=table.device)
        lengths = torch.tensor([max(1, len(drafts[k])) for k in part], device=table.device)
        even = bool((lengths == n).all())
        with torch.inference_mode(), torch.autocast(ids.device.type, precision, enabled=precision != torch.float32):
            rows = F.embedding(ids, table).float()
            out[torch.tensor(part, device=out.device)] = student(rows, None if even else lengths)
    return out
