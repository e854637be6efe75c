"""Evaluation sets and training samples: seeded, aligned, honest about their size."""

import numpy as np
import pytest

from unembed.errors import DataError
from unembed.evaluation.sets import EvaluationSet, TrainingSample, seeded_subset


def rows(n=50, d=4):
    generator = np.random.default_rng(0)
    ids = [[i] * (1 + i % 5) for i in range(n)]
    return ids, generator.normal(size=(n, d)).astype(np.float32)


def test_subset_is_seeded_and_keeps_texts_beside_their_vectors():
    ids, vectors = rows()
    data = EvaluationSet("test", ids, vectors)
    part = data.subset(10, seed=3)
    assert part.ids == data.subset(10, seed=3).ids != data.subset(10, seed=4).ids
    assert len(part) == 10 and part.of == 50 and part.seed == 3
    assert len({row[0] for row in part.ids}) == 10
    for row, vector in zip(part.ids, part.vectors, strict=True):
        assert (vector == vectors[row[0]]).all()
    assert part.lengths.tolist() == [1 + row[0] % 5 for row in part.ids]
    assert seeded_subset(5, 9, 0).tolist() == seeded_subset(5, None, 0).tolist() == [0, 1, 2, 3, 4]


def test_set_refuses_texts_and_vectors_that_do_not_belong_together():
    ids, vectors = rows()
    with pytest.raises(DataError, match="one vector for each text"):
        EvaluationSet("test", ids[:3], vectors)
    with pytest.raises(DataError):
        EvaluationSet("test", [], vectors[:0])


def test_training_sample_unigram_mean_and_nearest():
    ids, vectors = rows()
    sample = TrainingSample.from_arrays(vectors, ids, n=20, seed=1)
    assert len(sample) == 20 and sample.of == 50
    for i in range(20):
        assert np.allclose(sample.vectors[i], vectors[sample.ids(i)[0]], atol=1e-2)
    unigram = sample.unigram(60)
    assert unigram.sum() == pytest.approx(1) and (unigram > 0).sum() == 20
    longest = max(range(20), key=lambda i: len(sample.ids(i)))
    assert unigram[sample.ids(longest)[0]] == unigram.max()
    assert sample.mean == pytest.approx(sample.vectors.astype(np.float32).mean(axis=0), abs=1e-6)
    index, cosine = sample.nearest(3 * sample.vectors.astype(np.float32))
    assert index.tolist() == list(range(20))
    assert cosine == pytest.approx(np.ones(20), abs=1e-5)
