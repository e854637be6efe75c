"""The bound: an upper bound on -log p(text | vector), in nats. Training and validation sum with these functions.

What is here:
    count_weights    n / k, the weight of a draw with exactly k of n masks
    bound            the SUM over masked tokens of weight times cross-entropy (never mean times mean)
    per_token        weights that make the bound nats per token
    subset_weights   what one mask set of size k counts in the bound of every valid schedule

Masking each token with probability 1 - alpha(t) and weighting by -alpha' / (1 - alpha) gives each mask set of size k
the total weight integral_0^1 u^(k-1) (1-u)^(n-k) du = 1 / (k C(n, k)), u = 1 - alpha(t): the schedule drops out
(2406.07524, eq. 10 and section 3.5). Drawing k uniformly on 1..n and one of the C(n, k) sets with weight n / k gives
the same: 1/n . 1/C(n, k) . n/k.
"""

from __future__ import annotations

import torch
from torch import Tensor


def count_weights(lengths: Tensor, counts: Tensor) -> Tensor:
    """Weights n / k for lengths n (B,) and mask counts k (B,) drawn by `draw_counts`: (B,) float32."""
    return counts.float().reciprocal() * lengths.float()  # not n / k: runs of before compare bit for bit


def bound(cross_entropy: Tensor, weights: Tensor) -> Tensor:
    """Estimate the bound of some texts together.

    Args:
        cross_entropy: (R,) nats of each masked token of the texts.
        weights: (R,) of each token's text: `count_weights` for exact counts, `schedule.weight(t)` for times.

    Returns:
        (), nats; its mean over draws is the bound.
    """
    return (cross_entropy * weights).sum()


def per_token(weights: Tensor, tokens: float | None = None, share: float = 1.0) -> Tensor:
    """Scale weights (R,) so that `bound` is in nats per token of all texts.

    Args:
        weights: (R,) as `bound` takes them.
        tokens: of the texts, masked or not; None for the sum of the weights. With exact counts that is their number:
            k masks of weight n / k add up to n.
        share: what the loss is multiplied by.
    """
    return weights * (share / (weights.sum() if tokens is None else tokens))


def subset_weights(n: int) -> Tensor:
    """Weight of one mask set of size k = 1..n in the bound: 1 / (k C(n, k)), (n,) float64."""
    k = torch.arange(1, n + 1, dtype=torch.float64)
    size = torch.tensor(n + 1.0, dtype=torch.float64)
    log_choose = torch.lgamma(size) - torch.lgamma(k + 1) - torch.lgamma(size - k)
    return torch.exp(-log_choose) / k
