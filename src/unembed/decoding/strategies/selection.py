"""Which masked positions are committed in a pass. Each rule maps a `View` to (A, n) bool.

Contents: `View`, `watched`, and the rules `leftmost`, `surest`, `entropy_bounded`, `by_schedule`, `everything`.

The loop commits only masked positions, and all that are left in the last pass; no rule can leave a mask behind.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from unembed.decoding.config import DecodeConfig
from unembed.diffusion.schedule import Schedule
from unembed.errors import InputError
from unembed.plugins import guarded, told


@dataclass(frozen=True)
class View:
    """What a rule sees of the A drafts that are still being decoded.

    Attributes:
        step: number of the pass, from 0.
        passes: passes in all, P.
        masked: (A, n) bool.
        free: (A, n) bool, positions that decoding fills.
        fresh: (A, n) bool, committed in the pass before.
        confidence: (A, n) probability of the committed token, or of the proposed one where masked.
        entropy: (A, n) nats of the proposal where masked; zeros for rules that do not ask for it.
        uniform: (A, n) random numbers in [0, 1) of each draft; zeros for strategies that do not ask for them.
        schedule: the noise schedule.
        config: the options.
    """

    step: int
    passes: int
    masked: Tensor
    free: Tensor
    fresh: Tensor
    confidence: Tensor
    entropy: Tensor
    uniform: Tensor
    schedule: Schedule
    config: DecodeConfig


Rule = Callable[[View], Tensor]


def watched(rule: Rule, what: str, axes: int = 2) -> Rule:
    """Watch somebody else's rule: what it gets wrong is said in two sentences.

    Args:
        rule: of a plug-in.
        what: it, at the beginning of a sentence.
        axes: 2 for positions, (A, n) bool; 1 for drafts, (A,) bool.
    """

    def call(view: View) -> Tensor:
        with guarded(lambda error: InputError(f"{what} fails ({told(error)}).", "Repair it, or use another.")):
            found = rule(view)
        shape = view.masked.shape[:axes]
        if not isinstance(found, Tensor) or found.dtype != torch.bool or found.shape != shape:
            kind = f"{found.dtype} of shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise InputError(
                f"{what} returns {kind} where torch.bool of shape {tuple(shape)} is expected.",
                "Repair it, or use another.",
            )
        return found

    return call


def first_ranked(score: Tensor, allowed: Tensor, count: Tensor) -> Tensor:
    """Mark the `count` (A,) allowed positions of the smallest score (A, n); ties go to the left."""
    order = score.masked_fill(~allowed, torch.inf).argsort(dim=1, stable=True)
    rank = torch.empty_like(order).scatter_(
        1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
    )
    return (rank < count.unsqueeze(1)) & allowed


def enough(view: View) -> Tensor:
    """(A,): how many positions each draft must commit now so that equal shares end in time."""
    left = view.masked.sum(1)
    return -(-left // max(view.passes - view.step, 1))


def leftmost(view: View) -> Tensor:
    """The paper's sequential decoding: the leftmost ceil(n / P) masked positions."""
    per_pass = -(-view.free.sum(1) // view.passes)
    rank = view.masked.long().cumsum(1)
    return view.masked & (rank <= per_pass.unsqueeze(1))


def surest(view: View) -> Tensor:
    """The most confident positions, evenly spread over the passes (MaskGIT, 2202.04200, with a linear count)."""
    return first_ranked(-view.confidence, view.masked, enough(view))


def entropy_bounded(view: View) -> Tensor:
    """Entropy bounded unmasking (2505.24857): the largest set U of lowest entropies H with sum H - max H <= bound.

    At least one position, and at least as many as end within the passes.
    """
    entropy = view.entropy.masked_fill(~view.masked, torch.inf)
    ordered = entropy.sort(dim=1, stable=True).values
    before = ordered.cumsum(1) - ordered  # the sum without the largest, inf - inf = nan outside the masks
    allowed = ((before <= view.config.entropy_bound) & ordered.isfinite()).sum(1)
    return first_ranked(entropy, view.masked, torch.maximum(allowed, enough(view)))


def times(view: View) -> tuple[Tensor, Tensor]:
    """t and s < t of the pass, on a uniform grid from 1 to 0, as float64 scalars."""
    grid = torch.tensor([view.passes - view.step, view.passes - view.step - 1], dtype=torch.float64) / view.passes
    return grid[0], grid[1]


def by_schedule(view: View) -> Tensor:
    """Euler: from t to s a mask opens with probability (alpha(s) - alpha(t)) / (1 - alpha(t)) (2406.07524, eq. 6)."""
    t, s = times(view)
    alpha_t, alpha_s = view.schedule.alpha(t), view.schedule.alpha(s)
    return view.masked & (view.uniform < float((alpha_s - alpha_t) / (1 - alpha_t)))


def everything(view: View) -> Tensor:
    """All masked positions at once."""
    return view.masked
