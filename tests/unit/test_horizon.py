"""When a run ends and how high its learning rate is: steps, the clock, no end, and what a box keeps for saving."""

from __future__ import annotations

import itertools
import math
import time

import pytest

from unembed.training.optimizer import learning_rate
from unembed.training.recipes.recipe_parts import OptimizerPart, RunPart
from unembed.training.report import Horizon


def test_learning_rate_warms_up_and_ends_at_zero() -> None:
    """Linear warm-up from the first step; zero at the horizon."""
    part = OptimizerPart(lr=1.0, warmup=10)
    rates = [learning_rate(part, step, step / 100) for step in range(101)]
    assert rates[0] == pytest.approx(0.1, rel=0.01)
    assert max(rates) <= 1.0
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))
    assert rates[100] == pytest.approx(0.0, abs=1e-9)


def test_a_held_rate_falls_from_the_share_on_that_the_recipe_says() -> None:
    part = OptimizerPart(lr=2.0, warmup=0, hold=0.6)
    assert [learning_rate(part, 9, share) for share in (0.0, 0.6, 0.8, 1.0)] == pytest.approx([2.0, 2.0, 1.0, 0.0])


def test_without_an_end_the_rate_stays_at_its_peak_and_nothing_is_ever_over() -> None:
    """Whatever the step, and whether there is a box for the session or not."""
    part = OptimizerPart(lr=3e-3, warmup=5)
    for box in (0.0, 1e9):
        horizon = Horizon(RunPart(horizon="none"), box, time.monotonic())
        horizon.begin()
        for step in (0, 7, 10**9):
            horizon.fix(step, 0.1, per_epoch=3)
            assert horizon.progress(step) == 0.0 and not horizon.out_of_time
        assert horizon.kind == "none" and horizon.steps == 0
    rates = [learning_rate(part, step, 0.0, decays=False) for step in (0, 4, 10**9)]
    assert rates == pytest.approx([6e-4, 3e-3, 3e-3])
    some = Horizon(RunPart(horizon="none", steps=40), 0.0, time.monotonic())
    assert some.progress(39) < 1.0 <= some.progress(40)


def test_the_clock_begins_with_the_first_step_and_ends_before_the_reserve() -> None:
    """Preparing took 100 s of a box of 400 s, and 60 s are kept: the 240 s between them are the run."""
    now = time.monotonic()
    horizon = Horizon(RunPart(horizon="time", reserve="60s"), 400.0, now - 100.0)
    horizon.begin()
    assert horizon.reserve == 60.0
    assert horizon.progress(12345) == pytest.approx(0.0, abs=0.01)
    horizon.begun -= 120.0
    horizon.started -= 120.0
    assert horizon.progress(0) == pytest.approx(0.5, abs=0.01)
    assert not horizon.out_of_time
    horizon.begun -= 121.0
    horizon.started -= 121.0
    assert horizon.progress(0) >= 1.0 and horizon.out_of_time


def test_the_reserve_grows_with_what_saving_took_and_never_takes_more_than_half() -> None:
    horizon = Horizon(RunPart(horizon="time"), 100.0, time.monotonic())
    least = horizon.reserve
    assert 0 < least < 10
    horizon.took("validation", 10.0)
    horizon.took("state", 5.0)
    horizon.took("state", 1.0)
    assert horizon.reserve == pytest.approx(1.3 * 15.0)
    horizon.took("checkpoint", 500.0)
    assert horizon.reserve == 50.0


def test_steps_are_fixed_by_an_epoch_or_by_the_pace_that_was_timed() -> None:
    epoch = Horizon(RunPart(), 0.0, time.monotonic())
    epoch.fix(1, 0.5, per_epoch=70)
    assert epoch.steps == 70
    timed = Horizon(RunPart(reserve="10s"), 110.0, time.monotonic())
    for step in range(1, 13):
        assert timed.steps == 0
        timed.fix(step, 30.0 if step < 4 else 0.5, per_epoch=70)  # compiling does not count
    assert timed.steps == pytest.approx(12 + 0.97 * 100 / 0.5, abs=2)
    assert Horizon(RunPart(horizon="time"), 0.0, time.monotonic()).kind == "steps"  # there is no clock to follow


def test_the_time_left_is_that_of_the_session() -> None:
    """By its box, by its steps at this session's pace, by the nearer of both, or unknown."""
    now = time.monotonic()
    boxed = Horizon(RunPart(horizon="none", reserve="10s"), 100.0, now - 30.0)
    assert boxed.left(5) == pytest.approx(60.0, abs=0.5)
    assert Horizon(RunPart(horizon="none"), 0.0, now).left(5) == math.inf
    resumed = Horizon(RunPart(steps=1000), 0.0, now)
    resumed.begin(900)
    assert resumed.left(900) == math.inf
    resumed.begun -= 20.0
    assert resumed.left(910) == pytest.approx(180.0, abs=0.5)
    both = Horizon(RunPart(steps=1000, reserve="10s"), 100.0, now)
    both.begin(0)
    both.begun -= 20.0
    assert both.left(10) == pytest.approx(90.0, abs=0.5)
