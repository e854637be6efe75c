"""The token prior in a training step on the device: frozen columns of a matrix product, corrected at a text's tokens.

Contents: `Evidence`, `first_of_each`.

The prior's score of token k for a whitened vector z is w (z . m_k - |m_k|^2 / 2) (`priors/token_prior.py`), times a
gate g of the row. That is a product of (g z, g) with the frozen (w m_k, -w |m_k|^2 / 2): no matrix of scores of the
batch is ever in memory, and its gradient to g comes with that of the hidden rows. Two things differ at the few
columns of a text's own tokens, and are added there: the text is taken out of the means that it was fitted on
(leave-one-out), and a token that the row already sees has no score (`prior_once`).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from unembed.priors.token_prior import TokenPrior


def first_of_each(text: Tensor, inside: Tensor) -> Tensor:
    """The first place of each distinct token: (B, w) bool from tokens (B, w) and (B, w) bool."""
    w = text.shape[1]
    same = (text.unsqueeze(2) == text.unsqueeze(1)) & inside.unsqueeze(1)  # (B, w, w): [b, i, j]
    earlier = torch.ones(w, w, dtype=torch.bool, device=text.device).tril(-1)  # j before i
    return inside & ~(same & earlier).any(2)


class Evidence:
    """What a token prior says, as tensors of a step.

    Args:
        prior: fitted; read once, here.
        embedding: E, width of the rows that the frozen columns follow.
        dtype: of the product.

    Attributes:
        frozen: (V, P) in `dtype`; P is d + 1 and as many zeros as make E + P a multiple of 8, as matrix units want it.
    """

    def __init__(self, prior: TokenPrior, embedding: int, dtype: torch.dtype) -> None:
        self.means, self.square = prior.means(), prior.square
        self.size, self.weight = prior.counts + prior.shrink, prior.weight
        columns = torch.cat((self.means, -0.5 * self.square.unsqueeze(1)), 1) * self.weight
        self._spare = -(embedding + columns.shape[1]) % 8
        self.frozen = F.pad(columns, (0, self._spare)).to(dtype)

    def rows(self, gate: Tensor, z: Tensor) -> Tensor:
        """(R, P) that the frozen columns are multiplied with, from gates (R, 1) and the vectors (R, d) of the rows."""
        return F.pad(torch.cat((gate * z, gate), 1), (0, self._spare))

    def of_own(self, z: Tensor, text: Tensor, full: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """Scores of a text's own tokens, as the frozen columns make them, and as they should be.

        Taking the vector f of a text out of the mean m over `size` = count + shrink gives (size m - f) / (size - 1).

        Args:
            z: (B, d) whitened vectors that the network is shown.
            text: (B, w) tokens.
            full: (B, d) whitened vector of the whole text, which is in the means; z is another where z is of a crop.
            known: (B,) bool, texts that are in the means.

        Returns:
            Two (B, w), float32.
        """
        mean, square, size = self.means[text], self.square[text], self.size[text]  # (B, w, d), (B, w), (B, w)
        dot = torch.einsum("bd,bwd->bw", z, mean)
        plain = self.weight * (dot - 0.5 * square)
        with_full = torch.einsum("bd,bwd->bw", full, mean)
        own, cross = full.square().sum(1, keepdim=True), (full * z).sum(1, keepdim=True)
        less = (size * dot - cross) / (size - 1.0)
        less_square = (size.square() * square - 2.0 * size * with_full + own) / (size - 1.0).square()
        left_out = self.weight * (less - 0.5 * less_square)
        return plain, torch.where(known.unsqueeze(1), left_out, plain)
