"""Closed-form token prior: what a vector says about the words of its text, from class means alone, without a gradient.

What is here:
    TokenPrior      p(token occurs in the text | vector)
    quantise_rows   rows of numbers as int8 codes with one scale per row, also for `checkpoint/codec.py`
    squares         |m|^2 of means that are held as codes

For classes that share a covariance S, log p(w | v) - log p(w) = v' S^-1 mu_w - 1/2 mu_w' S^-1 mu_w (linear discriminant
analysis). In whitened space z the matrix is the identity. Means are shrunk by n / (n + 20) and the log-odds count half,
because tokens are not independent of each other. Everything is a buffer: saved and loaded with `state_dict`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

SHRINK = 20.0
"""Pseudo-count towards the global mean (zero, in whitened space)."""

_CHUNK = 8192
TOP = 127
"""Largest int8 code."""


def _scale_of(largest: Tensor, top: int) -> Tensor:
    """largest / top with 16 significant bits: codes up to 127 times it are exact in float32."""
    scale = (largest / top).clamp(min=1e-12).float().contiguous()
    return ((scale.view(torch.int32) + 0x80) & ~0xFF).view(torch.float32)


def quantise_rows(rows: Tensor, top: int = TOP) -> tuple[Tensor, Tensor]:
    """Round rows to whole multiples of one scale per row, the row's largest number over `top`.

    Args:
        rows: (N, d) numbers.
        top: largest code, 127 for int8 and 31 for 6 bits.

    Returns:
        Codes (N, d) int8 within -top..top and scales (N,) float32: row = scale * code, wrong by half a scale at most.
    """
    scale = _scale_of(rows.abs().amax(dim=1), top)
    codes = (rows.float() / scale[:, None]).round_().clamp_(-top, top).to(torch.int8)
    return codes, scale


def squares(codes: Tensor, scale: Tensor) -> Tensor:
    """|m|^2 (V,) of the means scale (V,) * codes (V, d) int8."""
    return torch.cat([(part.float() ** 2).sum(1) for part in codes.split(_CHUNK)]) * scale**2


class TokenPrior(nn.Module):
    """Gaussian log-odds that a token occurs in the text.

    s_w(z) = weight [ z . m_w - 1/2 |m_w|^2 ] + log p_w / (1 - p_w),
    m_w = (sum of z over the texts that hold w) / (n_w + 20).

    Args:
        vocab_size: V.
        dim: d. The means take V x d bytes (30,522 x 384: 11.7 MB).

    Attributes:
        codes, scale: buffers (V, d) int8 and (V,): the means m_w.
        square: buffer (V,), |m_w|^2 of the stored means.
        log_odds: buffer (V,), the log odds of presence; tokens never seen have the odds of half a text.
        counts: buffer (V,), texts of the fit that hold the token.
        weight, shrink: buffers (), the weight of the Gaussian part and the pseudo-count of the means.
    """

    codes: Tensor
    scale: Tensor
    square: Tensor
    log_odds: Tensor
    counts: Tensor
    weight: Tensor
    shrink: Tensor

    def __init__(self, vocab_size: int, dim: int) -> None:
        super().__init__()
        self.vocab_size, self.dim = vocab_size, dim
        self.register_buffer("codes", torch.zeros(vocab_size, dim, dtype=torch.int8))
        self.register_buffer("scale", torch.zeros(vocab_size))
        self.register_buffer("square", torch.zeros(vocab_size))
        self.register_buffer("log_odds", torch.zeros(vocab_size))
        self.register_buffer("counts", torch.zeros(vocab_size))
        self.register_buffer("weight", torch.tensor(0.5))
        self.register_buffer("shrink", torch.tensor(SHRINK))

    @classmethod
    def from_sums(
        cls, sums: Tensor, counts: Tensor, total: int, shrink: float = SHRINK, weight: float = 0.5
    ) -> TokenPrior:
        """Fit from class sums.

        Args:
            sums: (V, d), for each token the sum of the whitened vectors of the texts that hold it.
            counts: (V,), how many texts that is.
            total: number of texts.
            shrink: pseudo-count of the means.
            weight: weight of the Gaussian part.
        """
        module = cls(*sums.shape)
        codes, scale = quantise_rows(sums / (counts.float() + shrink)[:, None])
        module.codes.copy_(codes)
        module.scale.copy_(scale)
        module.square.copy_(squares(codes, scale))
        seen = counts.double().clamp(min=0.5)
        module.log_odds.copy_(torch.log(seen) - torch.log((total - seen).clamp(min=0.5)))
        module.counts.copy_(counts)
        module.weight.fill_(weight)
        module.shrink.fill_(shrink)
        return module

    def means(self, token_ids: Tensor | None = None) -> Tensor:
        """Class means in whitened space, dequantised: (V, d), or (K, d) for token_ids (K,)."""
        if token_ids is None:
            return self.codes.float() * self.scale[:, None]
        return self.codes[token_ids].float() * self.scale[token_ids][:, None]

    def scores(
        self,
        z: Tensor,
        token_ids: Tensor | None = None,
        *,
        frequency: bool = True,
        present: Tensor | None = None,
    ) -> Tensor:
        """Scores of tokens for whitened vectors z (B, d).

        Args:
            z: whitened vectors.
            token_ids: (K,) tokens to score; only their rows are dequantised (the cheap way for a training step).
                None: all.
            frequency: add the log odds of presence; without it the score is what the vector alone says (for a gated
                bias).
            present: (B, K) bool, true where z is one of the vectors that the mean of this token was fitted on. The
                row is then taken out of the mean (leave-one-out, exact up to rounding), so that training rows do not
                see their own vector in rare means.

        Returns:
            (B, K), or (B, V) without token_ids. float32.
        """
        z = z.float()
        if token_ids is not None:
            return self._block(z, self.codes[token_ids], token_ids, frequency, present)
        blocks = []
        for start in range(0, self.vocab_size, _CHUNK):
            part = slice(start, min(start + _CHUNK, self.vocab_size))
            own = None if present is None else present[:, part]
            blocks.append(self._block(z, self.codes[part], part, frequency, own))
        return torch.cat(blocks, dim=1)

    def _block(
        self, z: Tensor, codes: Tensor, which: Tensor | slice, frequency: bool, present: Tensor | None
    ) -> Tensor:
        dot = (z @ codes.float().T) * self.scale[which]
        square = self.square[which]
        if present is not None:
            own = (z**2).sum(1, keepdim=True)
            size = self.counts[which] + self.shrink
            less = (size * dot - own) / (size - 1.0)
            less_square = (size**2 * square - 2.0 * size * dot + own) / (size - 1.0) ** 2
            square = torch.where(present, less_square, square)
            dot = torch.where(present, less, dot)
        score = self.weight * (dot - 0.5 * square)
        return score + self.log_odds[which] if frequency else score

    def forward(self, z: Tensor) -> Tensor:
        """`scores(z)`: (B, d) -> (B, V)."""
        return self.scores(z)
