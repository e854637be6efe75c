"""From a vector to what the blocks need: modulation, memory, priors. Computed once for a decode.

Contents: `Condition` (the tensors, selectable by row) and `Conditioner` (the module that makes them).
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unembed.network.draft_memory import DraftMemory


@dataclass
class Condition:
    """What the denoiser knows of a batch of vectors.

    Attributes:
        whitened: (B, d) the vectors as the networks see them.
        modulation: (B, layers, 6, width) for the blocks.
        final: (B, 2, width) shift and scale before the head.
        memory: (B, M, width) prefix tokens, read by every block as keys and values; M may be 0.
        evidence: (T, V) log-odds of all tokens for the T texts that the condition was made of, outside of training;
            None where there is no token prior. Selecting rows does not copy it.
        text: (B,) the row of `evidence` of each row.
        known: (B, 1) 1 where the vector is known and 0 where it was dropped and the closed-form priors say nothing;
            None where all are known.
        draft: what a corrector made of a draft of each text, read before each block; None where there is no draft.
    """

    whitened: Tensor
    modulation: Tensor
    final: Tensor
    memory: Tensor
    evidence: Tensor | None
    text: Tensor
    known: Tensor | None = None
    draft: DraftMemory | None = None

    def __len__(self) -> int:
        """Return the number of vectors B."""
        return self.whitened.shape[0]

    def select(self, index: Tensor) -> Condition:
        """Return the rows named by `index` (R,), in that order; rows may repeat."""
        known = None if self.known is None else self.known[index]
        draft = None if self.draft is None else self.draft.select(index)
        apart = ("evidence", "known", "draft")
        rows = {f.name: getattr(self, f.name)[index] for f in fields(self) if f.name not in apart}
        return Condition(evidence=self.evidence, known=known, draft=draft, **rows)

    def heed(self, scores: Tensor, owner: Tensor | None = None) -> Tensor:
        """Scores of a prior, zero where the vector is not known; their rows are those of the condition or `owner`'s."""
        if self.known is None:
            return scores
        return scores * (self.known if owner is None else self.known[owner])


class Conditioner(nn.Module):
    """Whitened vector -> modulation of each block and prefix tokens.

    Args:
        dim: dimension d of the vector.
        width: model width.
        layers: number of blocks.
        rank: inner dimension of each block's map; 0 for a map of full rank.
        prefix_tokens: number of memory rows made from the vector.
    """

    def __init__(self, dim: int, width: int, layers: int, rank: int, prefix_tokens: int) -> None:
        super().__init__()
        self.width, self.layers, self.rank, self.prefix_tokens = width, layers, rank, prefix_tokens
        self.trunk = nn.Sequential(nn.Linear(dim, 2 * width), nn.GELU(approximate="tanh"), nn.Linear(2 * width, width))
        if rank:
            self.down = nn.Linear(width, layers * rank)
        self.maps = nn.ModuleList([nn.Linear(rank or width, 6 * width) for _ in range(layers)])
        self.final = nn.Linear(width, 2 * width)
        for module in [*self.maps, self.final]:
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
        if prefix_tokens:
            self.prefix = nn.Linear(dim, prefix_tokens * width)
            self.prefix_position = nn.Parameter(torch.randn(prefix_tokens, width) * 0.02)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map whitened vectors z (B, d) to modulation, final modulation and memory (see `Condition`)."""
        batch = z.shape[0]
        c = F.silu(self.trunk(z))
        # (B, width) for every block alike, or (B, rank) of its own
        inner = self.down(c).view(batch, self.layers, -1).unbind(1) if self.rank else [c] * self.layers
        parts = [m(x) for m, x in zip(self.maps, inner, strict=True)]
        modulation = torch.stack(parts, dim=1).view(batch, self.layers, 6, self.width)
        final = self.final(c).view(batch, 2, self.width)
        if self.prefix_tokens:
            memory = self.prefix(z).view(batch, self.prefix_tokens, self.width) + self.prefix_position
        else:
            memory = z.new_zeros(batch, 0, self.width)
        return modulation, final, F.layer_norm(memory, (self.width,))
