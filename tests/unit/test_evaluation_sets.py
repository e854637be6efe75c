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


class Rows:
    """What a shard dataset offers."""

    def __init__(self, ids, vectors):
        self.texts, self.vectors, self.asked = ids, vectors, []

    def __len__(self):
        return len(self.texts)

    def gather(self, index):
        self.asked += index.tolist()
        lengths = np.array([len(self.texts[i]) for i in index])
        ids = np.full((len(index), lengths.max()), -7)
        for row, i in enumerate(index):
            ids[row, : lengths[row]] = self.texts[i]
        return ids, lengths, self.vectors[index]


def test_sets_from_shards_read_only_the_chosen_rows(monkeypatch):
    monkeypatch.setattr("unembed.evaluation.sets._BLOCK", 4)
    ids, vectors = rows()
    data = EvaluationSet.from_rows("test", source := Rows(ids, vectors), n=10, seed=3)
    expected = EvaluationSet("test", ids, vectors).subset(10, seed=3)
    assert data.ids == expected.ids and (data.vectors == expected.vectors).all() and data.of == 50
    assert len(source.asked) == 10
    sample = TrainingSample.from_rows(source, n=20, seed=1)
    known = TrainingSample.from_arrays(vectors, ids, n=20, seed=1)
    assert (sample.vectors == known.vectors).all() and (sample.tokens == known.tokens).all()
    assert (sample.offsets == known.offsets).all() and len(source.asked) == 30
    with pytest.raises(DataError, match="empty"):
        TrainingSample.from_rows(Rows([], vectors[:0]))
