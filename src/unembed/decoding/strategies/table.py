"""Strategies: a selection rule, a re-masking rule and a stop rule under one name.

Contents: `Strategy`, `get_strategy`, and the registry behind it. Names and one-line descriptions stand in `config`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unembed.decoding.config import STRATEGIES
from unembed.decoding.strategies.remasking import (
    at_random_or_unsure,
    least_sure,
    nothing,
    remdm_cap,
    remdm_sigma,
    to_rate,
)
from unembed.decoding.strategies.selection import (
    Rule,
    View,
    by_schedule,
    entropy_bounded,
    everything,
    leftmost,
    surest,
    times,
)
from unembed.errors import InputError


def when_full(view: View) -> Tensor:
    """Stop a draft as soon as no mask is left."""
    return ~view.masked.any(1)


def after_last(view: View) -> Tensor:
    """Go on to the last pass, because full drafts are reopened."""
    return torch.full_like(view.masked[:, 0], view.step + 1 >= view.passes)


@dataclass(frozen=True)
class Strategy:
    """A way from all masks (or from a left-to-right draft) to a draft without masks.

    Attributes:
        name: as in `config.STRATEGIES`.
        select: which masked positions are committed after a pass.
        remask: which committed positions are reopened before a pass.
        stop: (A,) bool after a pass, which drafts leave the batch.
        entropy: whether `select` reads the entropies.
        random: whether a rule reads random numbers.
        causal_draft: starts from a left-to-right draft.
        network: takes passes; otherwise the rules are not used (`decoding/prior.py`).
    """

    name: str
    select: Rule
    remask: Rule = nothing
    stop: Callable[[View], Tensor] = when_full
    entropy: bool = False
    random: bool = False
    causal_draft: bool = False
    network: bool = True


def _draft_passes(view: View) -> int:
    return -(-view.passes // 2)


def _second_stage(view: View) -> View:
    first = _draft_passes(view)
    return replace(view, step=view.step - first, passes=view.passes - first)


def _two_stage_select(view: View) -> Tensor:
    first = _draft_passes(view)
    if view.step < first:
        return view.masked if view.step == first - 1 else leftmost(replace(view, passes=first))
    return by_schedule(_second_stage(view))


def _two_stage_remask(view: View) -> Tensor:
    return to_rate(view) if view.step == _draft_passes(view) else nothing(view)


def _two_stage_stop(view: View) -> Tensor:
    in_second = view.step >= _draft_passes(view)
    return when_full(view) if in_second else after_last(view)


def _remdm_select(view: View) -> Tensor:
    t, s = times(view)
    sigma = remdm_sigma(view.schedule, t, s, view.config.remask)
    alpha_t, alpha_s = float(view.schedule.alpha(t)), float(view.schedule.alpha(s))
    return view.masked & (view.uniform < (alpha_s - (1 - sigma) * alpha_t) / (1 - alpha_t))


_REGISTRY = {
    strategy.name: strategy
    for strategy in (
        Strategy("adaptive", entropy_bounded, entropy=True),
        Strategy("confidence", surest),
        Strategy("sequential", leftmost),
        Strategy("euler", by_schedule, random=True),
        Strategy("euler-remask", by_schedule, at_random_or_unsure, after_last, random=True),
        Strategy("two-stage", _two_stage_select, _two_stage_remask, _two_stage_stop, random=True),
        Strategy("remdm", _remdm_select, remdm_cap, after_last, random=True),
        Strategy("left-to-right", everything, causal_draft=True),
        Strategy("draft-correct", everything, least_sure, after_last, causal_draft=True),
        Strategy("prior", everything, network=False),
    )
}
assert list(_REGISTRY) == list(STRATEGIES)


def get_strategy(name: str) -> Strategy:
    """Look a strategy up.

    Raises:
        InputError: no such strategy.
    """
    if name not in _REGISTRY:
        raise InputError(f"There is no strategy {name!r}.", f"Use one of: {', '.join(_REGISTRY)}.")
    return _REGISTRY[name]
