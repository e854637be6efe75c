"""The bootstrap interval: against theory, against a plain loop, and its seed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unembed.errors import InputError
from unembed.metrics.bootstrap import Statistic, interval, summary


def test_interval_of_a_mean_has_the_normal_width():
    values = np.random.default_rng(0).normal(3.0, 2.0, size=1000)
    low, high = interval(values, n=4000, seed=1)
    error = values.std() / np.sqrt(len(values))
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error)


def test_intervals_cover_the_truth_about_95_times_in_100():
    generator = np.random.default_rng(2)
    covered = 0
    for i in range(300):
        low, high = interval(generator.normal(size=80), n=300, seed=i)
        covered += low <= 0 <= high
    assert 270 <= covered <= 298


def test_micro_average_is_resampled_over_texts_not_tokens():
    # one long text decides the micro average, so its interval is far wider than that of 1010 independent tokens
    statistic = Statistic(np.array([[1.0, 1.0]] * 10 + [[0.0, 1000.0]]))
    low, high = interval(statistic, n=500)
    assert statistic.value == pytest.approx(10 / 1010)
    assert low < 0.01 and high == 1.0


def test_same_seed_same_interval_and_blocks_do_not_matter(monkeypatch):
    values = np.random.default_rng(3).random(50)
    first = interval(values, n=200, seed=5)
    assert first == interval(values, n=200, seed=5)
    assert first != interval(values, n=200, seed=6)
    monkeypatch.setattr("unembed.metrics.bootstrap._BLOCK", 50 * 7)
    assert interval(values, n=200, seed=5) == pytest.approx(first, abs=1e-12)


def test_interval_equals_a_plain_loop():
    rows = np.random.default_rng(4).integers(1, 9, size=(6, 2)).astype(float)
    draws = np.random.default_rng([0, 6]).multinomial(6, [1 / 6] * 6, size=100)
    plain = [np.repeat(rows, draw, axis=0).sum(axis=0) for draw in draws]
    expected = np.quantile([a / b for a, b in plain], [0.025, 0.975])
    assert interval(Statistic(rows), n=100, seed=0) == pytest.approx(tuple(expected))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=1, max_size=20), st.integers(0, 3))
def test_interval_lies_within_the_values(values, seed):
    low, high = interval(values, n=50, seed=seed)
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9


def test_summary_and_selection():
    statistic = Statistic.mean([0, 0, 1, 1])
    assert summary(statistic)["value"] == 0.5
    assert statistic.select(np.array([False, False, True, True])).value == 1.0
    assert summary(Statistic.mean([2.0, 2.0])) == {"value": 2.0, "low": 2.0, "high": 2.0}


def test_errors():
    with pytest.raises(InputError, match="at least one text"):
        interval([])
    with pytest.raises(InputError, match="level"):
        interval([1.0], level=1.5)
