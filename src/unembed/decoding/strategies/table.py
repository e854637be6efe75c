"""Strategies: a selection rule, a re-masking rule and a stop rule under one name.

Contents: `Strategy`, `get_strategy`. Names and one-line descriptions are in `config`; others come from plug-ins.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unembed.decoding.config import STRATEGIES, strategy_names
from unembed.decoding.strategies.remasking import (
    by_rule,
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
    watched,
)
from unembed.errors import InputError
from unembed.plugins import plugin


def when_full(view: View) -> Tensor:
    """Stop a draft as soon as no mask is left."""
    return ~view.masked.any(1)


def after_last(view: View) -> Tensor:
    """Continue to the last pass, because full drafts are reopened."""
    return torch.full_like(view.masked[:, 0], view.step + 1 >= view.passes)


@dataclass(frozen=True)
class Strategy:
    """A way from all masks (or from a left-to-right draft) to a draft without masks.

    Attributes:
        select: which masked positions are committed after a pass.
        remask: which committed positions are reopened before a pass.
        stop: (A,) bool after a pass, which drafts leave the batch.
        entropy: whether `select` reads the entropies.
        random: whether a rule reads random numbers.
        causal_draft: starts from a left-to-right draft.
        network: takes passes; otherwise the rules are not used (`decoding/prior.py`).
    """

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


_BUILT_IN = {
    "adaptive": Strategy(entropy_bounded, entropy=True),
    "confidence": Strategy(surest),
    "sequential": Strategy(leftmost),
    "euler": Strategy(by_schedule, random=True),
    "euler-remask": Strategy(by_schedule, by_rule, after_last, random=True),
    "two-stage": Strategy(_two_stage_select, _two_stage_remask, _two_stage_stop, random=True),
    "remdm": Strategy(_remdm_select, remdm_cap, after_last, random=True),
    "left-to-right": Strategy(everything, causal_draft=True),
    "draft-correct": Strategy(everything, least_sure, after_last, causal_draft=True),
    "prior": Strategy(everything, network=False),
}
assert list(_BUILT_IN) == list(STRATEGIES)


def get_strategy(name: str) -> Strategy:
    """Look a strategy up, built in or of a plug-in, whose rules are then watched.

    Raises:
        InputError: no such strategy, or a plug-in that is none.
    """
    if name in _BUILT_IN:
        return _BUILT_IN[name]
    found = plugin("strategy", name)
    if found is None:
        raise InputError(f"There is no strategy {name!r}.", f"Use one of: {', '.join(strategy_names())}.")
    what = f"The strategy {name!r}"
    if not isinstance(found, Strategy) or found.causal_draft or not found.network:
        kind = "does not start from masks" if isinstance(found, Strategy) else f"is a {type(found).__name__}"
        raise InputError(
            f"{what} {kind}; a plug-in is a Strategy from masks.",
            "Register Strategy(select, ...); docs/strategies.md shows one.",
        )
    return replace(
        found,
        select=watched(found.select, what),
        remask=watched(found.remask, what),
        stop=watched(found.stop, what, axes=1),
    )
