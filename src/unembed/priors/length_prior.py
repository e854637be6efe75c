"""The length of a text from its vector: p(n | v), closed form, no gradient.

What is here:
    LengthHead  linear discriminant over the lengths 1..max_length in whitened space

The denoiser's canvas has exactly n positions, and n is never given away by the data: it is guessed
here, and several likely lengths are decoded.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LengthHead(nn.Module):
    """log p(n | z) = log softmax_n [ weight_n . z + bias_n ] for n = 1..max_length.

    Args:
        dim: dimension d of the whitened vector.
        max_length: longest text, in tokens.

    Attributes:
        weight: buffer (limit, d); bias: buffer (limit,). Row 0 is n = 1. A new head is uniform.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, dim: int, max_length: int) -> None:
        super().__init__()
        self.dim, self.max_length = dim, max_length
        self.register_buffer("weight", torch.zeros(max_length, dim))
        self.register_buffer("bias", torch.zeros(max_length))

    @classmethod
    def from_sums(cls, sums: Tensor, counts: Tensor, covariance: Tensor, shrink: float = 20.0) -> LengthHead:
        """Fit from class sums.

        Args:
            sums: (limit, d), for each length the sum of its whitened vectors.
            counts: (limit,), how many those are; a length never seen gets half a count.
            covariance: (d, d) of all whitened vectors (about the identity); the spread between lengths is taken out.
            shrink: pseudo-count of the means.
        """
        n = counts.double()
        means = sums.double() / (n + shrink)[:, None]
        share = n / n.sum().clamp(min=1.0)
        within = covariance.double() - (means * share[:, None]).T @ means
        within = within + 1e-3 * torch.eye(len(within), dtype=torch.float64)
        weight = torch.linalg.solve(within, means.T).T
        head = cls(sums.shape[1], len(sums))
        head.weight.copy_(weight)
        log_p = torch.log(n.clamp(min=0.5) / n.sum().clamp(min=1.0))
        head.bias.copy_(log_p - 0.5 * (weight * means).sum(1))
        return head

    def log_probs(self, z: Tensor) -> Tensor:
        """Log probabilities (B, max_length) of lengths, column 0 is n = 1, for whitened vectors z (B, d)."""
        return torch.log_softmax(z.float() @ self.weight.T + self.bias, dim=-1)

    def forward(self, z: Tensor) -> Tensor:
        """`log_probs(z)`."""
        return self.log_probs(z)
