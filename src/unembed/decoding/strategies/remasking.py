"""Which committed positions are opened again before a pass. Each rule maps a `View` to (A, n) bool.

Contents: the rules `nothing`, `by_rule` with the named rules behind it, `to_rate`, `least_sure`, `remdm_cap`, and
`remdm_sigma`.

The loop never reopens given tokens. Re-masking comes at the beginning of a pass and every pass ends with a commit, so
no rule can leave a mask behind.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unembed.decoding.config import REMASK_RULES
from unembed.decoding.strategies.selection import Rule, View, first_ranked, watched
from unembed.diffusion.schedule import Schedule
from unembed.errors import InputError
from unembed.plugins import plugin


def nothing(view: View) -> Tensor:
    """Keep all."""
    return torch.zeros_like(view.masked)


def at_random(view: View) -> Tensor:
    """Reopen each token with the probability `remask` (2602.11047, section 4, table 3)."""
    return view.uniform < view.config.remask


def unsure(view: View) -> Tensor:
    """Reopen the tokens that were committed below the threshold `remask` (the same table)."""
    return view.confidence < view.config.remask


_RULES: dict[str, Rule] = {"probability": at_random, "threshold": unsure}
assert tuple(_RULES) == REMASK_RULES


def by_rule(view: View) -> Tensor:
    """Reopen by the rule that the option `remask_rule` names, built in or of a plug-in, from the second pass on.

    Raises:
        InputError: a plug-in that is not a rule, fails, or returns something other than (A, n) bool.
    """
    if view.step == 0:
        return nothing(view)
    name = view.config.remask_rule
    rule = _RULES.get(name)
    if rule is None:
        found = plugin("remasking", name)
        if not callable(found):
            raise InputError(
                f"The re-masking rule {name!r} is a {type(found).__name__}, not a function of a View.",
                "Register a function that returns (A, n) bool; docs/strategies.md shows one.",
            )
        rule = watched(found, f"The re-masking rule {name!r}")
    return view.free & ~view.masked & rule(view)


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
