"""Laws of the noise schedules (2406.07524), and the paper's mistake 2: a weight that belongs to another schedule."""

from __future__ import annotations

import pytest
import torch

from unembed.diffusion.schedule import SCHEDULES, get_schedule
from unembed.errors import InputError

TIMES = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
VALID = [name for name in SCHEDULES if get_schedule(name).valid]


def test_at_least_two_schedules_are_valid() -> None:
    assert {"linear", "cosine"} <= set(VALID)


@pytest.mark.parametrize("name", VALID)
def test_nothing_is_masked_at_0_and_everything_at_1(name: str) -> None:
    schedule = get_schedule(name)
    assert float(schedule.alpha(torch.tensor(0.0))) == pytest.approx(1.0, abs=1e-6)
    assert float(schedule.alpha(torch.tensor(1.0))) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("name", SCHEDULES)
def test_slope_is_the_derivative_and_negative(name: str) -> None:
    schedule = get_schedule(name)
    t = TIMES.clone().requires_grad_()
    (slope,) = torch.autograd.grad(schedule.alpha(t).sum(), t)
    assert torch.allclose(schedule.alpha_prime(TIMES), slope)
    assert bool((slope < 0).all())


@pytest.mark.parametrize("name", SCHEDULES)
def test_weight_is_derived_from_the_schedule(name: str) -> None:
    schedule = get_schedule(name)
    expected = -schedule.alpha_prime(TIMES) / (1 - schedule.alpha(TIMES))
    assert torch.allclose(schedule.weight(TIMES), expected)
    assert (name == "linear") == torch.allclose(schedule.weight(TIMES), 1 / TIMES)


def test_weight_of_the_papers_schedule_is_not_one_over_t() -> None:
    schedule = get_schedule("exponential")
    weights = schedule.weight(torch.tensor([0.5, 1.0]))
    assert weights.tolist() == pytest.approx([0.447, 0.034], abs=5e-4)


def test_the_papers_schedule_knows_that_it_is_not_valid() -> None:
    schedule = get_schedule("exponential")
    assert float(schedule.alpha(1.0)) == pytest.approx(0.0067, abs=1e-4)
    assert not schedule.valid


@pytest.mark.parametrize("name", SCHEDULES)
def test_shape_and_floats_are_kept(name: str) -> None:
    schedule = get_schedule(name)
    t = torch.rand(2, 3)
    for law in (schedule.alpha, schedule.alpha_prime):
        assert law(t).shape == (2, 3)
        assert law(t).dtype == torch.float32
        assert law(0.5).shape == ()


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match="linear"):
        get_schedule("liner")
