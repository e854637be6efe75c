"""Which committed positions are opened again before a pass. Each rule maps a `View` to (A, n) bool.

Contents: the rules `nothing`, `at_random_or_unsure`, `to_rate`, `least_sure`, `remdm_cap`, and `remdm_sigma`.

The loop never reopens given tokens. Re-masking comes at the beginning of a pass and every pass ends with a commit, so
no rule can leave a mask behind.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unembed.decoding.strategies.selection import View, first_ranked
from unembed.diffusion.schedule import Schedule


def nothing(view: View) -> Tensor:
    """Keep all."""
    return torch.zeros_like(view.masked)


def at_random_or_unsure(view: View) -> Tensor:
    """Reopen each token with a probability, or those committed below a threshold (2602.11047, section 4, table 3)."""
    if view.step == 0:
        return nothing(view)
    score = view.uniform if view.config.remask_rule == "probability" else view.confidence
    return view.free & ~view.masked & (score < view.config.remask)


def to_rate(view: View) -> Tensor:
    """Reopen a uniformly drawn share `remask_rate` of the draft (the second of the paper's two stages)."""
    count = (view.free.sum(1) * view.config.remask_rate).ceil().long()
    return first_ranked(view.uniform, view.free & ~view.masked, count)


def least_sure(view: View) -> Tensor:
    """Reopen the least sure tokens, fewer each pass: ceil(n rate (P - i) / P) (mask-predict, 1904.09324)."""
    share = view.config.remask_rate * (view.passes - view.step) / view.passes
    count = (view.free.sum(1) * share).ceil().long()
    return first_ranked(view.confidence, view.free & ~view.masked, count)


def remdm_sigma(schedule: Schedule, t: Tensor, s: Tensor, cap: float) -> float:
    """Probability of re-masking from t to s: min(cap, (1 - alpha(s)) / alpha(t)) (2503.00307, ReMDM-cap)."""
    alpha_t, alpha_s = float(schedule.alpha(t)), float(schedule.alpha(s))
    return min(cap, 1.0, (1 - alpha_s) / alpha_t) if alpha_t > 0 else min(cap, 1.0)


def remdm_cap(view: View) -> Tensor:
    """Reopen with the sigma of the step before what stood before that step (both halves of one ReMDM transition)."""
    if view.step == 0:
        return nothing(view)
    grid = torch.tensor([view.passes - view.step + 1, view.passes - view.step], dtype=torch.float64) / view.passes
    sigma = remdm_sigma(view.schedule, grid[0], grid[1], view.config.remask)
    return view.free & ~view.masked & ~view.fresh & (view.uniform < sigma)
