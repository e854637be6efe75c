"""Columns of the softmax on the device: a fixed number of tokens, and the token prior as a few frozen ones beside them.

Contents: `DeviceColumns`, `Evidence`, `first_of_each`.

`Shortlist` (`training/losses/cross_entropy.py`) lets the number of columns vary with the batch; here it is fixed: the
batch's own tokens, frequent ones, and a sample that fills what those leave. A sampled column stands for
(rest / sampled) others, so that the sum of exponentials stays unbiased given the targets (arXiv 1412.2007).

The prior's score of token k for a whitened vector z is w (z . m_k - |m_k|^2 / 2) (`priors/token_prior.py`), times a
gate g of the row. That is a product of (g z, g) with the frozen (w m_k, -w |m_k|^2 / 2): no matrix of scores of the
batch is ever in memory, and its gradient to g comes with that of the hidden rows. Two things differ at the few
columns of a text's own tokens, and are added there: the text is taken out of the means that it was fitted on
(leave-one-out), and a token that the row already sees has no score.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from unembed.priors.token_prior import TokenPrior

NEVER = -1.0e4
"""Added to the logit of a token that cannot be output: its probability is 0 in any precision, and 0 x it is 0."""


@dataclass(frozen=True)
class Drawn:
    """K columns of a step.

    Attributes:
        tokens: (K,) their tokens.
        correction: (K,) what is added to their logits: log(rest / sampled), or `NEVER`.
        place: (V,) the column of each token; 0 for those that have none.
        enough: () bool, whether every token that must have a column has one.
    """

    tokens: Tensor
    correction: Tensor
    place: Tensor
    enough: Tensor


class DeviceColumns:
    """Draws columns.

    Args:
        always: (V,) bool, tokens that have a column in every step.
        allowed: (V,) bool, tokens that may be output.
        count: K; V for the whole vocabulary, where nothing is drawn.
    """

    def __init__(self, always: Tensor, allowed: Tensor, count: int) -> None:
        self.always, self.allowed = always, allowed
        self.count = min(count, len(allowed))
        self._number = torch.arange(len(allowed), device=allowed.device)

    def needed(self, wanted: Tensor) -> Tensor:
        """(V,) bool: tokens that must have a column, given those (any shape) of the batch."""
        return self.always.index_fill(0, wanted.reshape(-1), True)

    def draw(self, wanted: Tensor) -> Drawn:
        """Draw the columns of a step from torch's own generator of the device.

        Args:
            wanted: (R,) tokens that must have one, repeats allowed. Some may be banned: the begin token is shown.
        """
        if self.count == len(self.allowed):
            correction = torch.where(self.allowed, 0.0, NEVER)
            return Drawn(self._number, correction, self._number, torch.ones_like(self.allowed[0]))
        need = self.needed(wanted)
        # One draw orders all tokens: those that must be in, then the others at random, then those never output.
        key = torch.rand(len(need), device=need.device) + 2.0 * need
        tokens = key.masked_fill(~(self.allowed | need), -1.0).topk(self.count).indices
        sampled = self.allowed[tokens] & ~need[tokens]
        rest = (self.allowed & ~need).sum()
        correction = torch.where(sampled, (rest / sampled.sum().clamp_min(1)).log(), 0.0)
        correction = correction.masked_fill(~self.allowed[tokens], NEVER)
        place = torch.zeros_like(self._number).scatter_(0, tokens, self._number[: self.count])
        return Drawn(tokens, correction, place, need.sum() <= self.count)


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
