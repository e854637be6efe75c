"""The bound: an upper bound on -log p(text | vector), in nats.

What is here:
    count_weights    n / k, the weight of a draw with exactly k of n masks
    sum_by_text      cross-entropies of scored rows -> their sum per text
    bound            per text: weight times the SUM over its masked tokens (never mean times mean)
    per_token        texts' bounds -> nats per token of the whole set
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
    return lengths.float() / counts.float()


def sum_by_text(cross_entropy: Tensor, owner: Tensor, batch: int) -> Tensor:
    """Sum cross-entropies (R,) of scored rows by the text that owns them (R,) -> (batch,); texts without rows get 0."""
    return torch.zeros(batch, dtype=cross_entropy.dtype, device=cross_entropy.device).index_add(0, owner, cross_entropy)


def bound(cross_entropy_sum: Tensor, weights: Tensor) -> Tensor:
    """Estimate the bound of each text, in nats.

    Args:
        cross_entropy_sum: (B,), the sum over each text's masked tokens (not the mean).
        weights: (B,), `count_weights` for exact counts, or `schedule.weight(t)` for independent masks.

    Returns:
        (B,) nats per text; its mean over draws is the bound.
    """
    return weights * cross_entropy_sum


def per_token(bounds: Tensor, lengths: Tensor) -> Tensor:
    """Nats per token of a set: the sum of the texts' bounds (B,) over the sum of their lengths (B,)."""
    return bounds.sum() / lengths.sum()


def subset_weights(n: int) -> Tensor:
    """Weight of one mask set of size k = 1..n in the bound: 1 / (k C(n, k)), (n,) float64."""
    k = torch.arange(1, n + 1, dtype=torch.float64)
    size = torch.tensor(n + 1.0, dtype=torch.float64)
    log_choose = torch.lgamma(size) - torch.lgamma(k + 1) - torch.lgamma(size - k)
    return torch.exp(-log_choose) / k
