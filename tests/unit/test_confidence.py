"""Calibrated confidence: isotonic, honest on fresh data, stored and read back."""

from __future__ import annotations

import json

import numpy as np
import pytest

from unembed.decoding.confidence import FEATURES, KNOTS, Calibration, calibration_for, draft_features, isotonic
from unembed.decoding.trace import Draft
from unembed.errors import CheckpointError, DataError


def made_up(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features whose first two carry the truth: f1 rises with them, exact needs a high value."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, len(FEATURES)))
    x[:, 4] = 1.0  # a feature that never varies
    truth = 1 / (1 + np.exp(-(1.5 * x[:, 0] + 0.5 * x[:, 1])))
    f1 = np.clip(truth + rng.normal(scale=0.1, size=n), 0, 1)
    exact = rng.random(n) < truth**3
    return x, f1, exact


def draft(ids: tuple[int, ...], p: float, alternatives: tuple[Draft, ...] = ()) -> Draft:
    n = len(ids)
    return Draft(ids, (p,) * n, n * float(np.log(p)), -1.0, n, 4, 4, 0.0, alternatives)


def test_isotonic_never_falls_and_has_few_knots() -> None:
    rng = np.random.default_rng(0)
    score = rng.normal(size=3000)
    value = np.tanh(score) + rng.normal(scale=0.5, size=3000)
    x, y = isotonic(score, value)
    assert 10 < len(x) == len(y) <= KNOTS
    assert (np.diff(x) > 0).all() and (np.diff(y) >= 0).all()
    assert np.abs(np.interp(score, x, y) - np.tanh(score)).mean() < 0.1


def test_isotonic_of_a_falling_law_is_its_mean() -> None:
    score = np.arange(200.0)
    x, y = isotonic(score, -score)
    assert len(x) == 1 and y[0] == pytest.approx(-score.mean())


def test_isotonic_with_ties() -> None:
    x, y = isotonic(np.ones(100), np.arange(100.0))
    assert len(x) == 1 and y[0] == pytest.approx(49.5)


def test_calibration_is_honest_on_fresh_texts() -> None:
    calibration = Calibration.fit(*made_up(4000, 0), settings={"strategy": "adaptive"})
    x, f1, exact = made_up(4000, 1)
    expected_f1, p_exact = calibration.apply(x)
    assert abs(expected_f1.mean() - f1.mean()) < 0.02
    for predicted, truth in ((expected_f1, f1), (p_exact, exact.astype(float))):
        assert ((predicted >= 0) & (predicted <= 1)).all()
        for part in np.array_split(np.argsort(predicted), 8):
            assert abs(predicted[part].mean() - truth[part].mean()) < 0.06
    assert np.corrcoef(expected_f1, f1)[0, 1] > 0.9


def test_calibration_survives_json() -> None:
    calibration = Calibration.fit(*made_up(500, 0), settings={"strategy": "adaptive", "passes": 8})
    again = Calibration.from_dict(json.loads(json.dumps(calibration.to_dict())))
    x, _, _ = made_up(50, 2)
    for one, two in zip(calibration.apply(x), again.apply(x), strict=True):
        assert one == pytest.approx(two, abs=1e-4)
    assert again.settings == {"strategy": "adaptive", "passes": 8} and again.n == 500


@pytest.mark.parametrize("value", [0, 1])
def test_calibration_without_any_or_only_exact_matches(value: int) -> None:
    x, f1, _ = made_up(100, 0)
    _, p_exact = Calibration.fit(x, f1, np.full(100, value)).apply(x)
    assert p_exact == pytest.approx(np.full(100, float(value)), abs=1e-6)


def test_calibration_refuses_what_does_not_fit() -> None:
    x, f1, exact = made_up(10, 0)
    for bad in ((x[:1], f1[:1], exact[:1]), (x, f1[:5], exact), (x * np.nan, f1, exact), (x[0], f1, exact)):
        with pytest.raises(DataError):
            Calibration.fit(*bad)


def test_damaged_calibrations_are_named() -> None:
    good = Calibration.fit(*made_up(100, 0)).to_dict()
    for change in ({"features": ["x"]}, {"mean": [0.0]}, {"f1_x": []}, {"exact_y": None}, {"n": "many"}):
        with pytest.raises(CheckpointError, match="calibration"):
            Calibration.from_dict({**good, **change})
    with pytest.raises(CheckpointError):
        Calibration.from_dict({})


def test_a_calibration_belongs_to_its_strategy() -> None:
    stored = Calibration.fit(*made_up(100, 0), settings={"strategy": "adaptive"}).to_dict()
    assert calibration_for(None, "adaptive") is None
    assert calibration_for(stored, "adaptive") is not None
    assert calibration_for(stored, "euler") is None
    assert calibration_for({"euler": stored}, "euler") is not None
    assert calibration_for({"euler": stored}, "adaptive") is None


def test_features_tell_sure_drafts_from_unsure_ones() -> None:
    names = {name: i for i, name in enumerate(FEATURES)}
    sure = draft_features(draft((7, 8, 9), 0.9))
    unsure = draft_features(draft((7, 8, 9), 0.2, (draft((7, 5), 0.1), draft((1, 2, 3), 0.15))))
    assert np.isfinite(sure).all() and np.isfinite(unsure).all()
    assert sure[names["mean_log_prob"]] > unsure[names["mean_log_prob"]]
    assert sure[names["agreement"]] == 1 and unsure[names["agreement"]] == pytest.approx(0.2)
    assert unsure[names["likelihood_gap"]] == pytest.approx(np.log(0.2) - np.log(0.15))
    assert np.isfinite(draft_features(draft((7,), 1e-300))).all()
