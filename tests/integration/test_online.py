"""Online embedding: the vectors are those of the ids, epochs differ, runs resume, changes do what they say."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from unembed.data.online import Augmentation, OnlineBatches, crop
from unembed.data.tokenization import Tokenizer
from unembed.encoders.registry import load_encoder
from unembed.errors import DataError

ENCODER = load_encoder("hashing:16")
TOKENIZER = Tokenizer.from_json(ENCODER.tokenizer_json() or "")
LINES = [f"the {a} {b} was not there when we came back" for a in ("old", "new", "big") for b in "abcdefghij"]


def texts() -> list[tuple[str, str]]:
    """Thirty lines of ten tokens, and one that cannot be kept."""
    return [(line, "s") for line in LINES] + [("[MASK]", "s")]


def online(**options: object) -> OnlineBatches:
    """Small online batches."""
    return OnlineBatches(texts, ENCODER, TOKENIZER, **{"max_length": 12, "batch_size": 8, "pool": 16, **options})


def decoded(batches: list) -> list[str]:
    """Texts of all rows."""
    return [TOKENIZER.decode(row[:n]) for b in batches for row, n in zip(b.ids, b.lengths, strict=True)]


def test_vectors_are_those_of_the_ids() -> None:
    for batch in online(augmentation=Augmentation(0.5, 0.5, 0.5)).epoch(0):
        assert (batch.ids.dtype, batch.lengths.dtype, batch.vectors.dtype) == (np.int64, np.int64, np.float32)
        assert batch.ids.shape == (len(batch.lengths), batch.lengths.max())
        assert 1 <= batch.lengths.min() <= batch.lengths.max() <= 12
        np.testing.assert_array_equal(batch.vectors, ENCODER.encode(decoded([batch])))
        for row, n in zip(batch.ids, batch.lengths, strict=True):
            assert TOKENIZER.encode([TOKENIZER.decode(row[:n])])[0] == row[:n].tolist()
            assert (row[n:] == TOKENIZER.pad_id).all()


def test_without_changes_every_text_comes_once() -> None:
    seen = decoded(list(online().epoch(0)))
    assert sorted(seen) == sorted(LINES)
    assert seen != LINES
    assert seen != decoded(list(online().epoch(1)))
    assert seen == decoded(list(online().epoch(0)))
    assert seen != decoded(list(online(seed=1).epoch(0)))


def test_changes_are_drawn_afresh_each_epoch() -> None:
    source = online(augmentation=Augmentation(join=0, crop=1, truncate=0))
    first, second = (set(decoded(list(source.epoch(k)))) for k in (0, 1))
    assert len(first - second) > 10
    assert all(any(text in line for line in LINES) for text in first)


def test_joined_texts_fill_the_limit_and_truncated_ones_do_not() -> None:
    joined = decoded(list(online(augmentation=Augmentation(join=1, crop=0, truncate=0)).epoch(0)))
    assert sum(text.endswith("back the old") or text.endswith("back the new") for text in joined) > 5
    cut = online(augmentation=Augmentation(join=0, crop=0, truncate=1))
    lengths = np.concatenate([b.lengths for k in range(20) for b in cut.epoch(k)])
    assert set(range(1, 10)) <= set(lengths.tolist())


def test_resuming_goes_on_with_the_next_batch_and_embeds_nothing_before() -> None:
    class Counting:
        identity, dimension, name, count = ENCODER.identity, 16, "counting", 0

        def encode(self, rows: list[str]) -> np.ndarray:
            self.count += len(rows)
            return ENCODER.encode(rows)

        def tokenizer_json(self) -> str | None:
            return None

    whole = list(itertools.islice(online(augmentation=Augmentation()).forever(), 11))
    for stop in (1, 3, 4, 5, 9):
        source = online(augmentation=Augmentation())
        source.encoder = Counting()
        again = list(itertools.islice(source.forever(whole[stop - 1][1]), 2))
        for (a, state_a), (b, state_b) in zip(whole[stop : stop + 2], again, strict=True):
            assert state_a == state_b
            for x, y in zip(a, b, strict=True):
                np.testing.assert_array_equal(x, y)
        assert source.encoder.count == sum(len(b.lengths) for b, _ in again)


def test_crop_draws_every_run_of_words() -> None:
    draws = np.random.default_rng(0).random((2000, 2))
    runs = {crop("a b c", *draw) for draw in draws}
    assert runs == {"a", "b", "c", "a b", "b c", "a b c"}
    assert crop("  ", 0.5, 0.5) == ""


def test_bad_settings() -> None:
    for options in ({"max_length": 0}, {"batch_size": 0}, {"pool": 0}):
        with pytest.raises(DataError):
            online(**options)
    with pytest.raises(DataError, match="crop"):
        Augmentation(crop=1.5)
    empty = OnlineBatches(lambda: [("[MASK]", "s")], ENCODER, TOKENIZER)
    with pytest.raises(DataError, match="no batch"):
        next(empty.forever())
