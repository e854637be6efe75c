"""From ids to a report: bins, calibration, floors."""

import json

import numpy as np
import pytest

from unembed.evaluation.measure import measure, reliability
from unembed.evaluation.sets import EvaluationSet


def test_reliability_by_hand():
    found = reliability(np.array([0.05, 0.95, 0.91, 1.0]), np.array([0.0, 1.0, 0.5, 0.6]))
    assert [b["n"] for b in found["bins"]] == [1, 3]
    last = found["bins"][-1]
    assert (
        last["low"] == 0.9 and last["confidence"] == pytest.approx(2.86 / 3) and last["realised"] == pytest.approx(0.7)
    )
    assert found["ece"] == pytest.approx(0.25 * 0.05 + 0.75 * (2.86 / 3 - 0.7))


def test_calibrated_confidence_has_no_error_and_overconfidence_has_its_size():
    generator = np.random.default_rng(0)
    p = generator.random(20000)
    true = generator.random(20000) < p
    assert reliability(p, true)["ece"] < 0.02
    assert reliability(np.full(1000, 0.9), np.arange(1000) % 2)["ece"] == pytest.approx(0.4)


@pytest.fixture
def report():
    lengths = [1, 8, 9, 16, 17, 31, 32, 32]
    ids = [list(range(100, 100 + n)) for n in lengths]
    preds = [*ids[:6], ids[6][:16], ids[7]]
    vectors = np.eye(8, dtype=np.float32) + 0.5

    def embed(rows):
        return np.stack([vectors[i] if len(row) == lengths[i] else vectors[0] for i, row in enumerate(rows)])

    return measure(
        preds,
        EvaluationSet("test", ids, vectors),
        display=lambda row: " ".join(map(str, row)),
        embed=embed,
        nearest=np.array([-1.0, 0.45, 0.5, 0.65, 0.75, 0.85, 0.95, 1.0]),
        confidence=[0.8] * 8,
        p_exact=[0.875] * 8,
    )


def test_bins_partition_the_texts(report):
    length, cosine = report["bins"]["length"], report["bins"]["nearest_training_cosine"]
    assert [(b["bin"], b["n"]) for b in length] == [("1-8", 2), ("9-16", 2), ("17-31", 2), ("32", 2)]
    assert [b["n"] for b in cosine] == [2, 1, 1, 1, 1, 2]
    assert length[0]["metrics"]["exact_match"]["value"] == 1.0
    assert length[3]["metrics"]["exact_match"]["value"] == 0.5
    assert length[3]["metrics"]["token_accuracy"]["value"] == 0.75
    assert length[3]["metrics"]["length_error"]["value"] == 8.0
    assert sum(b["n"] for b in cosine) == sum(b["n"] for b in length) == 8


def test_report_has_cosine_with_its_floor_and_calibration_and_is_json(report):
    floor = report["floors"]["cosine"]["value"]
    assert floor < report["metrics"]["cosine"]["value"] < 1
    assert floor == pytest.approx(row_pair_cosine(), abs=1e-6)
    assert report["calibration"]["exact_match"]["ece"] == pytest.approx(0)
    assert report["calibration"]["token_f1"]["bins"][0]["n"] == 8
    for metric in report["metrics"].values():
        assert metric["low"] <= metric["value"] <= metric["high"]
    assert "tok:13a" in report["bleu_signature"]
    assert json.loads(json.dumps(report)) == report


def row_pair_cosine():
    vectors = np.eye(8) + 0.5
    return float(vectors[0] @ vectors[1] / (vectors[0] @ vectors[0]))


def test_texts_longer_than_the_bins_get_a_bin():
    ids = [[1] * 40, [1] * 3]
    report = measure(ids, EvaluationSet("long", ids, np.eye(2, dtype=np.float32)))
    assert [(b["bin"], b["n"]) for b in report["bins"]["length"]] == [
        ("1-8", 1), ("9-16", 0), ("17-31", 0), ("32", 0), ("33-40", 1),
    ]  # fmt: skip
    assert "metrics" not in report["bins"]["length"][1]
    assert "bleu" not in report["metrics"] and "calibration" not in report
