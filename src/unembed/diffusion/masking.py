"""Which tokens are masked: every rate from one token to all of them, evenly over the batch.

What is here:
    draw_counts       k uniform on 1..n for each text, stratified over the batch
    draw_times        t uniform on (0, 1] for each text, stratified over the batch
    mask_exactly      exactly k of the n tokens, each set of k equally likely
    mask_by_schedule  each token on its own with probability 1 - alpha(t), as the forward process says

Padding is never masked. Randomness comes from the generator only.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unembed.diffusion.schedule import Schedule


def draw_counts(lengths: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw mask counts k uniform on 1..n, stratified: the rates of one batch cover (0, 1] evenly, in random order.

    Row i gets the stratum of a random permutation, so each k is exactly uniform whatever its row, and a batch of B rows
    has a row in every B-th part of the range. With n / k as the weight this is the bound of any valid schedule, without
    the infinite variance of 1 / t.

    Args:
        lengths: (B,) int64, texts of at least one token.
        generator: on the device where lengths are; None takes torch's own.

    Returns:
        (B,) int64, 1 <= k <= n.
    """
    batch = len(lengths)
    if batch == 0:
        return torch.zeros_like(lengths)
    device = lengths.device
    strata = torch.randperm(batch, generator=generator, device=device)
    inside = torch.rand(batch, generator=generator, device=device, dtype=torch.float64)
    counts = ((strata + inside) / batch * lengths).floor().long() + 1
    return torch.minimum(counts, lengths)


def draw_times(batch: int, generator: torch.Generator) -> Tensor:
    """Draw times t uniform on (0, 1], stratified: row i gets the stratum of a random permutation.

    Args:
        batch: B.
        generator: of the draw; the result is on its device.

    Returns:
        (B,) float64.
    """
    device = generator.device
    strata = torch.randperm(batch, generator=generator, device=device)
    inside = torch.rand(batch, generator=generator, device=device, dtype=torch.float64)
    return (strata + 1.0 - inside) / max(batch, 1)


def mask_exactly(lengths: Tensor, n: int, counts: Tensor, generator: torch.Generator | None) -> Tensor:
    """Mask exactly counts[b] of the first lengths[b] positions, uniform without replacement.

    Args:
        lengths: (B,) int64, at most n.
        n: width of the result.
        counts: (B,) int64, at most lengths.
        generator: on the device where lengths are; None takes torch's own.

    Returns:
        (B, n) bool, true where masked.
    """
    device = lengths.device
    position = torch.arange(n, device=device)
    key = torch.rand(len(lengths), n, generator=generator, device=device)
    key = key.masked_fill(position >= lengths[:, None], 2.0)
    # The order decides, not the value of the k-th key: equal float32 keys cannot add a mask.
    order = key.argsort(dim=1)
    masked = torch.zeros_like(key, dtype=torch.bool)
    return masked.scatter_(1, order, position < counts[:, None])


def mask_by_schedule(lengths: Tensor, n: int, t: Tensor, schedule: Schedule, generator: torch.Generator) -> Tensor:
    """Mask each of the first lengths[b] positions with probability 1 - alpha(t[b]), independently; none may be masked.

    Args:
        lengths: (B,) int64.
        n: width of the result.
        t: (B,) times in [0, 1].
        schedule: the schedule.
        generator: on the device where lengths are.

    Returns:
        (B, n) bool, true where masked.
    """
    device = lengths.device
    draw = torch.rand(len(lengths), n, generator=generator, device=device)
    inside = torch.arange(n, device=device) < lengths[:, None]
    return inside & (draw < (1.0 - schedule.alpha(t))[:, None])
