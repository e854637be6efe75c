"""How far a run has come, when it ends, and the learning rate there.

Contents: `Horizon`, `learning_rate`.

A run's horizon is a number of steps, the end of a time box, or nothing: then the rate stays at its peak for ever, and a
cool-down from the run's state makes a checkpoint whenever one is wanted.
"""

from __future__ import annotations

import logging
import math
import time

from unembed.training.recipes.recipe_parts import OptimizerPart, RunPart, parse_duration

_log = logging.getLogger(__name__)
_TIMED_STEPS = 12
_SKIPPED_STEPS = 4
_RESERVED = 0.03
"""Share of a time box that is kept for saving before anything was saved or measured."""


class Horizon:
    """The clock of one session of a run.

    Args:
        run: steps, horizon, reserve.
        box: seconds of this session, 0 for no end.
        started: `time.monotonic()` at the session's start, preparation included.
        steps: the horizon that the run has already, 0 for none.
        kind: "steps", "time" or "none"; None takes the recipe's.
    """

    def __init__(self, run: RunPart, box: float, started: float, steps: int = 0, kind: str | None = None) -> None:
        self.kind = kind or run.horizon
        if self.kind == "time" and not box:  # no clock to follow
            self.kind = "steps"
        self.box, self.started, self.steps = box, started, steps or run.steps
        self._fixed_reserve = parse_duration(run.reserve)
        self._measured: dict[str, float] = {}
        self._timed: list[float] = []
        self.begun, self._first = started, 0

    def begin(self, step: int = 0) -> None:
        """The first step of the session, which has this number, comes now."""
        self.begun, self._first = time.monotonic(), step

    def took(self, what: str, seconds: float) -> None:
        """Note how long a part of the end ("validation", "state", "checkpoint") took, for the reserve."""
        self._measured[what] = max(seconds, self._measured.get(what, 0.0))

    @property
    def reserve(self) -> float:
        """Seconds of the box in which no step begins."""
        if self._fixed_reserve:
            return min(self._fixed_reserve, self.box / 2)
        return min(max(_RESERVED * self.box, 1.3 * sum(self._measured.values())), self.box / 2)

    def left(self, step: int) -> float:
        """Seconds until this session ends before a step, by its box or its steps; infinite where neither is known."""
        now = time.monotonic()
        left = max(0.0, self.started + self.box - self.reserve - now) if self.box else math.inf
        if self.kind == "steps" and self.steps and step > self._first:
            left = min(left, (self.steps - step) * (now - self.begun) / (step - self._first))
        return left

    @property
    def end(self) -> float:
        """`time.monotonic()` at which the checkpoint has to be begun; infinite without a box."""
        if not self.box:
            return math.inf
        return self.started + self.box - 1.3 * self._measured.get("checkpoint", 0.01 * self.box)

    @property
    def out_of_time(self) -> bool:
        """Whether the box has no time left for a step."""
        return bool(self.box) and time.monotonic() - self.started >= self.box - self.reserve

    def progress(self, step: int) -> float:
        """Share of the run that is over before a step, 0 to 1 and above; 0 for ever where nothing ends it."""
        if self.kind == "time":
            whole = self.box - (self.begun - self.started) - self.reserve
            return (time.monotonic() - self.begun) / max(whole, 1e-9)
        return step / self.steps if self.steps else 0.0

    def fix(self, step: int, seconds: float, per_epoch: int) -> None:
        """Fix the number of steps after a step of a run that has none: one epoch, or what fits into the box."""
        if self.steps or self.kind != "steps":
            return
        if not self.box:
            self.steps = max(1, per_epoch)
            return
        self._timed.append(seconds)
        if len(self._timed) == _TIMED_STEPS:
            pace = sorted(self._timed[_SKIPPED_STEPS:])[(_TIMED_STEPS - _SKIPPED_STEPS) // 2]
            left = max(0.0, self.box - self.reserve - (time.monotonic() - self.started))
            self.steps = step + max(1, int(0.97 * left / pace))
            _log.info("the horizon is %d steps, at %.2f s per step", self.steps, pace)


def learning_rate(part: OptimizerPart, step: int, progress: float, decays: bool = True) -> float:
    """Learning rate of a step.

    Args:
        part: peak, warm-up, hold and decay.
        step: 0 for the first.
        progress: share of the horizon that has passed, 0 to 1 (in steps, or by the clock).
        decays: false keeps the peak after the warm-up (a run without a horizon).

    Returns:
        peak x warm-up x decay, zero at the horizon. A group's own rate is this times its `scale`.
    """
    warm = min(1.0, (step + 1) / max(part.warmup, 1))
    if not decays or part.decay == "none":
        return part.lr * warm
    share = min(max((progress - part.hold) / (1.0 - part.hold), 0.0), 1.0)
    fall = 1.0 - share if part.decay == "linear" else 0.5 * (1.0 + math.cos(math.pi * share))
    return part.lr * warm * fall
