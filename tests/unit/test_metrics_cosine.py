"""Cosine of pairs, its floor and nearest neighbours against plain loops."""

import numpy as np
import pytest

from unembed.errors import InputError
from unembed.metrics.cosine import floor_cosine, nearest_cosine, normalise_rows, row_cosine


def test_row_cosine_by_hand():
    a = np.array([[1, 0], [3, 4], [1, 1], [0, 0]], dtype=np.float32)
    b = np.array([[0, 2], [3, 4], [-2, -2], [1, 0]], dtype=np.float32)
    assert row_cosine(a, b) == pytest.approx([0, 1, -1, 0], abs=1e-6)
    with pytest.raises(InputError, match="one shape"):
        row_cosine(a, b[:2])


def test_floor_never_pairs_a_row_with_itself():
    eye = np.eye(40, dtype=np.float32)
    for seed in range(5):
        assert floor_cosine(eye, eye, seed).max() == 0.0


def test_floor_is_well_above_zero_for_vectors_with_a_common_part():
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(300, 16)).astype(np.float32) + 2.0
    assert floor_cosine(vectors, vectors, 1).mean() > 0.6
    assert (floor_cosine(vectors, vectors, 1) == floor_cosine(vectors, vectors, 1)).all()


def test_nearest_in_blocks_equals_brute_force_also_in_float16():
    generator = np.random.default_rng(1)
    bank = generator.normal(size=(257, 12)).astype(np.float16)
    queries = generator.normal(size=(9, 12)).astype(np.float32)
    index, value = nearest_cosine(queries, bank, block=50)
    scores = normalise_rows(queries) @ normalise_rows(bank).T
    assert index.tolist() == scores.argmax(axis=1).tolist()
    assert value == pytest.approx(scores.max(axis=1), abs=1e-6)
    with pytest.raises(InputError, match="same encoder"):
        nearest_cosine(queries, bank[:, :5])
