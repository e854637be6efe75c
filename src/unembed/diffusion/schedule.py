"""Noise schedules: alpha(t) is the probability that a token is still visible at time t.

What is here:
    Schedule      the law alpha and its slope; the weight of the bound is derived from them, never written down apart
    Linear        alpha = 1 - t                     weight 1 / t                       (MDLM, 2406.07524, log-linear)
    Cosine        alpha = 1 - cos(pi/2 (1 - t))     weight pi/2 tan(pi/2 (1 - t))      (MD4, 2406.04329, table 1)
    Exponential   alpha = exp(-5 t)                 NOT valid: alpha(1) = 0.0067       (2602.11047, as printed)
    get_schedule  by name

For absorbing masks the bound on -log p under any schedule is the integral over t of weight(t) times the summed
cross-entropy of the masked tokens, weight = -alpha' / (1 - alpha) (2406.07524, eq. 10). In the variable 1 - alpha the
schedule drops out, so all valid schedules have the same bound. Valid means alpha(0) = 1 and alpha(1) = 0; otherwise the
bound against an all-mask start is not finite.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from unembed.errors import InputError
from unembed.plugins import guarded, plugin, plugin_names, told


class Schedule:
    """A noise schedule on 0 <= t <= 1. Subclasses give `alpha` and `alpha_prime`.

    Attributes:
        name: how recipes and `get_schedule` call it.
    """

    name: ClassVar[str]

    def alpha(self, t: Tensor | float) -> Tensor:
        """Probability that a token is visible at time t, same shape as t."""
        raise NotImplementedError

    def alpha_prime(self, t: Tensor | float) -> Tensor:
        """Slope d alpha / dt, negative."""
        raise NotImplementedError

    def weight(self, t: Tensor | float) -> Tensor:
        """Weight of the summed cross-entropy at time t > 0: -alpha'(t) / (1 - alpha(t))."""
        return -self.alpha_prime(t) / (1.0 - self.alpha(t))

    def time(self, alpha: Tensor | float) -> Tensor:
        """The inverse of `alpha`: the time at which a share `alpha` is visible, 1 where that is never reached."""
        raise NotImplementedError

    @property
    def valid(self) -> bool:
        """Whether alpha(0) = 1 and alpha(1) = 0, within 1e-6."""
        ends = self.alpha(torch.tensor([0.0, 1.0], dtype=torch.float64))
        return bool((ends - torch.tensor([1.0, 0.0], dtype=torch.float64)).abs().max() < 1e-6)


class Linear(Schedule):
    """alpha(t) = 1 - t: as many masks as t says."""

    name = "linear"

    def alpha(self, t: Tensor | float) -> Tensor:
        """1 - t."""
        return 1.0 - torch.as_tensor(t)

    def alpha_prime(self, t: Tensor | float) -> Tensor:
        """-1."""
        return -torch.ones_like(torch.as_tensor(t, dtype=_float_type(t)))

    def time(self, alpha: Tensor | float) -> Tensor:
        """1 - alpha."""
        return 1.0 - torch.as_tensor(alpha)


class Cosine(Schedule):
    """alpha(t) = 1 - cos(pi/2 (1 - t)): few masks for longer."""

    name = "cosine"

    def alpha(self, t: Tensor | float) -> Tensor:
        """1 - cos(pi/2 (1 - t))."""
        return 1.0 - torch.cos(0.5 * math.pi * (1.0 - torch.as_tensor(t)))

    def alpha_prime(self, t: Tensor | float) -> Tensor:
        """-pi/2 sin(pi/2 (1 - t))."""
        return -0.5 * math.pi * torch.sin(0.5 * math.pi * (1.0 - torch.as_tensor(t)))

    def time(self, alpha: Tensor | float) -> Tensor:
        """1 - 2/pi arccos(1 - alpha)."""
        return 1.0 - torch.acos((1.0 - torch.as_tensor(alpha)).clamp(0.0, 1.0)) * (2.0 / math.pi)


class Exponential(Schedule):
    """alpha(t) = exp(-rate t), which never reaches 0, so it is not valid.

    Args:
        rate: 5 in 2602.11047.
    """

    name = "exponential"

    def __init__(self, rate: float = 5.0) -> None:
        self.rate = rate

    def alpha(self, t: Tensor | float) -> Tensor:
        """exp(-rate t)."""
        return torch.exp(-self.rate * torch.as_tensor(t))

    def alpha_prime(self, t: Tensor | float) -> Tensor:
        """-rate exp(-rate t)."""
        return -self.rate * self.alpha(t)

    def time(self, alpha: Tensor | float) -> Tensor:
        """-ln(alpha) / rate, at most 1."""
        return (-torch.log(torch.as_tensor(alpha)) / self.rate).clamp(0.0, 1.0)


def _float_type(t: Tensor | float) -> torch.dtype:
    return t.dtype if isinstance(t, Tensor) and t.is_floating_point() else torch.get_default_dtype()


SCHEDULES: dict[str, type[Schedule]] = {s.name: s for s in (Linear, Cosine, Exponential)}
"""Schedules by name."""


def get_schedule(name: str) -> Schedule:
    """Return the schedule of that name, built in or of a plug-in.

    Raises:
        InputError: no such schedule, or a plug-in that is none: alpha must be 1 at first, never rise, and have a slope.
    """
    if isinstance(name, str) and name in SCHEDULES:  # a file may hold anything
        return SCHEDULES[name]()
    found = plugin("schedule", name)
    if found is None:
        names = ", ".join(sorted({*SCHEDULES, *plugin_names("schedule")}))
        raise InputError(f"There is no schedule {name!r}.", f"Use one of: {names}.")
    if not (isinstance(found, type) and issubclass(found, Schedule)):
        raise InputError(f"The schedule {name!r} is not a subclass of Schedule.", _REGISTER)
    with guarded(lambda error: InputError(f"The schedule {name!r} fails ({told(error)}).", _REGISTER)):
        schedule: Schedule = found()
        t = torch.linspace(0, 1, 101, dtype=torch.float64)
        alpha, back = schedule.alpha(t), schedule.time(schedule.alpha(t))
        sound = bool((alpha[0] - 1).abs() < 1e-6 and (alpha.diff() <= 0).all() and (alpha >= 0).all())
        sound = sound and bool((schedule.alpha(back) - alpha).abs().max() < 1e-4)
        slope = alpha.diff() / t.diff()
        middle = schedule.alpha_prime((t[1:] + t[:-1]) / 2)
        sound = sound and bool((middle - slope).abs().max() < 0.05 * slope.abs().max())
    if not sound:
        raise InputError(
            f"The schedule {name!r} breaks its law: alpha falls from 1, alpha_prime is its slope, time its inverse.",
            _REGISTER,
        )
    return schedule


_REGISTER = "Register a class of Schedule with alpha, alpha_prime and time; docs/strategies.md shows one."
