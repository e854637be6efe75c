"""Closed-form prior of a token at a position: p(token | vector, position from the start, position from the end).

What is here:
    PositionPrior  class means per (side, position, token), low rank and int8, for the tokens that are frequent there

The same discriminant as `TokenPrior`, with the classes "token w stands at position i, counted from the start" and
"... from the end". The two sides are added as if independent given the token:
log p(w | s, e) = log p(w | s) + log p(w | e) - log p(w). Tokens that are rare at a position have their frequency there
but no mean: the token prior speaks for them (DESIGN, decision 2.5).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unembed.priors.rows import quantise_rows

SHRINK = 200.0
"""Pseudo-count of the means; ten times that of the token prior: the largest of 1,500 noisy scores would win."""

WEIGHT = 0.35
"""Weight of one side's Gaussian part; two sides are summed."""

_SMOOTH = 50.0


class PositionPrior(nn.Module):
    """Gaussian log-odds of tokens at a position.

    Args:
        max_length: longest text, in tokens.
        dim: dimension d of the whitened vector.
        vocab_size: V.
        tokens: T, classes per side and position (at most V).
        rank: r, dimensions that the means are kept in (at most d). 2 x 32 x 1,500 x 64 codes take 6.1 MB.

    Attributes:
        basis: buffer (d, r), orthonormal.
        codes, scale: buffers (2, limit, T, r) int8 and (2, limit, T): the means in that basis. Side 0 counts from the
            start, side 1 from the end.
        half_square: buffer (2, limit, T), 1/2 |m|^2.
        token_ids: buffer (2, limit, T) int32.
        log_p: buffer (2, limit, T), log p(token | position).
        rest: buffer (2, limit), log of how much more likely than in general a token outside the T is there.
        log_frequency: buffer (V,), log p(token).
        weight: buffer (), weight of the Gaussian part.
    """

    basis: Tensor
    codes: Tensor
    scale: Tensor
    half_square: Tensor
    token_ids: Tensor
    log_p: Tensor
    rest: Tensor
    log_frequency: Tensor
    weight: Tensor

    def __init__(self, max_length: int, dim: int, vocab_size: int = 30522, tokens: int = 1500, rank: int = 64) -> None:
        super().__init__()
        tokens, rank = min(tokens, vocab_size), min(rank, dim)
        self.max_length, self.dim, self.vocab_size, self.tokens, self.rank = max_length, dim, vocab_size, tokens, rank
        self.register_buffer("basis", torch.eye(dim, rank))
        self.register_buffer("codes", torch.zeros(2, max_length, tokens, rank, dtype=torch.int8))
        self.register_buffer("scale", torch.zeros(2, max_length, tokens))
        self.register_buffer("half_square", torch.zeros(2, max_length, tokens))
        self.register_buffer("token_ids", torch.arange(tokens, dtype=torch.int32).repeat(2, max_length, 1))
        self.register_buffer("log_p", torch.zeros(2, max_length, tokens))
        self.register_buffer("rest", torch.zeros(2, max_length))
        self.register_buffer("log_frequency", torch.zeros(vocab_size))
        self.register_buffer("weight", torch.tensor(WEIGHT))

    @classmethod
    def from_sums(
        cls,
        sums: Tensor,
        counts: Tensor,
        token_ids: Tensor,
        histogram: Tensor,
        rank: int = 64,
        shrink: float = SHRINK,
        weight: float = WEIGHT,
    ) -> PositionPrior:
        """Fit from class sums.

        Args:
            sums: (2, limit, T, d) sums of whitened vectors per class.
            counts: (2, limit, T) how many those are.
            token_ids: (2, limit, T) tokens of the classes, distinct within a position.
            histogram: (2, limit, V) counts of all tokens at all positions.
            rank: r; the basis keeps the directions with the most energy of the means, each weighted by its count.
            shrink: pseudo-count of the means.
            weight: weight of one side's Gaussian part.
        """
        _, max_length, tokens, dim = sums.shape
        module = cls(max_length, dim, histogram.shape[2], tokens, rank)
        means = (sums / (counts.float() + shrink)[..., None]).view(-1, dim)
        scaled = means * counts.float().sqrt().view(-1, 1)
        _, directions = torch.linalg.eigh((scaled.T @ scaled).double())
        module.basis.copy_(directions.flip(1)[:, : module.rank])
        codes, scale = quantise_rows(means @ module.basis)
        module.codes.copy_(codes.view_as(module.codes))
        module.scale.copy_(scale.view_as(module.scale))
        module.half_square.copy_((0.5 * (codes.float() ** 2).sum(1) * scale**2).view_as(module.half_square))

        module.token_ids.copy_(token_ids)
        seen = histogram.double()
        frequency = seen[0].sum(0).clamp(min=0.5)
        frequency = frequency / frequency.sum()
        total = seen.sum(2, keepdim=True)
        smooth = (seen + _SMOOTH * frequency) / (total + _SMOOTH)
        inside = smooth.gather(2, token_ids.long())
        module.log_p.copy_(inside.log())
        general = frequency[token_ids.long()].sum(2)
        rest = (1.0 - inside.sum(2)).clamp(min=1e-6) / (1.0 - general).clamp(min=1e-6)
        module.rest.copy_(rest.log())
        module.log_frequency.copy_(frequency.log())
        module.weight.fill_(weight)
        return module

    def log_odds(self, z: Tensor, from_start: Tensor, from_end: Tensor) -> Tensor:
        """What the vector alone says about tokens at positions, without their frequency; 0 where a token has no class.

        Args:
            z: (R, d) whitened vectors, one for each position asked for.
            from_start: (R,) int64, 0 for the first token.
            from_end: (R,) int64, 0 for the last token.

        Returns:
            (R, V), float32.
        """
        out = torch.zeros(len(z), self.vocab_size, device=z.device)
        low = z.float() @ self.basis
        for side, positions in enumerate((from_start, from_end)):
            for position in positions.unique().tolist():
                rows = (positions == position).nonzero()[:, 0]
                classes = self.token_ids[side, position].long()
                codes, scale = self.codes[side, position], self.scale[side, position] * self.weight
                half = self.half_square[side, position] * self.weight
                evidence = torch.addmm(-half, low[rows], (codes.float() * scale[:, None]).T)
                out[rows] = out[rows].index_add_(1, classes, evidence)
        return out

    def log_frequencies(self, from_start: Tensor, from_end: Tensor) -> Tensor:
        """log p(w | from start) + log p(w | from end) - log p(w), not normalised: (R,), (R,) -> (R, V)."""
        out = -self.log_frequency.expand(len(from_start), -1)
        for side, positions in enumerate((from_start, from_end)):
            places, which = positions.unique(return_inverse=True)
            table = self.log_frequency + self.rest[side, places, None]
            table = table.scatter(1, self.token_ids[side, places].long(), self.log_p[side, places])
            out = out + table[which]
        return out

    def scores(self, z: Tensor, from_start: Tensor, from_end: Tensor, rows: Tensor | None = None) -> Tensor:
        """Score all tokens: `log_odds` + `log_frequencies`.

        Args:
            z: (B, d) whitened vectors.
            from_start: (R,) positions.
            from_end: (R,) positions.
            rows: (R,) the vector that each position belongs to; None where R = B.

        Returns:
            (R, V), float32.
        """
        chosen = z if rows is None else z[rows]
        return self.log_odds(chosen, from_start, from_end) + self.log_frequencies(from_start, from_end)
