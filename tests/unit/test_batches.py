"""Batches of like length: every row once, the same again, resumed in the middle, little padding."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from unembed.data.batches import BatchState, LengthBatches
from unembed.errors import DataError

LENGTHS = np.random.default_rng(0).integers(1, 33, 20_011).astype(np.uint8)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("window", [1, 8192, 1 << 20])
def test_every_row_once_an_epoch(exact: bool, window: int) -> None:
    batches = list(LengthBatches(LENGTHS, 64, seed=1, exact=exact, window=window).epoch(0))
    np.testing.assert_array_equal(np.sort(np.concatenate(batches)), np.arange(len(LENGTHS)))
    assert max(map(len, batches)) == 64
    assert sum(len(b) < 64 for b in batches) <= (32 if exact else 1)
    for batch in batches:
        assert batch.dtype == np.int64
        if exact:
            assert len(set(LENGTHS[batch])) == 1


def test_padding_is_below_a_tenth() -> None:
    batches = list(LengthBatches(LENGTHS, 64).epoch(0))
    spent = sum(len(b) * int(LENGTHS[b].max()) for b in batches)
    assert spent < 1.1 * LENGTHS.sum()


def test_epochs_and_seeds_differ_and_repeat() -> None:
    def first(seed: int, epoch: int) -> np.ndarray:
        return np.concatenate(list(itertools.islice(LengthBatches(LENGTHS, 64, seed=seed).epoch(epoch), 5)))

    np.testing.assert_array_equal(first(1, 0), first(1, 0))
    assert (first(1, 0) != first(1, 1)).any()
    assert (first(1, 0) != first(2, 0)).any()


def test_lengths_of_batches_come_in_random_order() -> None:
    means = [LENGTHS[b].mean() for b in LengthBatches(LENGTHS, 64).epoch(0)]
    assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.2


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("stop", [0, 1, 100, 317, 700])
def test_resuming_goes_on_with_the_next_batch(exact: bool, stop: int) -> None:
    sampler = LengthBatches(LENGTHS, 64, seed=3, exact=exact, window=8192)
    whole = list(itertools.islice(sampler.forever(), stop + 5))
    state = whole[stop - 1][1] if stop else BatchState()
    again = list(itertools.islice(LengthBatches(LENGTHS, 64, seed=3, exact=exact, window=8192).forever(state), 5))
    for (a, state_a), (b, state_b) in zip(whole[stop:], again, strict=True):
        np.testing.assert_array_equal(a, b)
        assert state_a == state_b


def test_resuming_at_the_end_of_an_epoch() -> None:
    sampler = LengthBatches(LENGTHS[:100], 10)
    end = list(itertools.islice(sampler.forever(), 10))[-1][1]
    assert end == BatchState(0, 10)
    batch, state = next(sampler.forever(end))
    assert state == BatchState(1, 1)
    np.testing.assert_array_equal(batch, next(sampler.epoch(1)))


@pytest.mark.parametrize("exact", [False, True])
def test_drop_last_gives_whole_batches_only(exact: bool) -> None:
    batches = list(LengthBatches(LENGTHS, 64, exact=exact, drop_last=True).epoch(0))
    assert {len(b) for b in batches} == {64}
    seen = np.concatenate(batches)
    assert len(np.unique(seen)) == len(seen) > len(LENGTHS) - 64 * (32 if exact else 1)


def test_rows_left_over_are_not_always_the_longest() -> None:
    """A gap at the end of the sorted rows would leave the longest texts out of every epoch."""
    left = []
    for epoch in range(40):
        seen = np.concatenate(list(LengthBatches(LENGTHS[:200], 64, drop_last=True).epoch(epoch)))
        left += LENGTHS[np.setdiff1d(np.arange(200), seen)].tolist()
    assert min(left) < 8 < 25 < max(left)


def test_a_window_keeps_rows_near_each_other() -> None:
    batches = LengthBatches(np.full(200_000, 5), 64, window=8192).epoch(0)
    rows = np.concatenate(list(itertools.islice(batches, 100)))
    assert len(np.unique(rows // 4096)) <= 3


def test_bad_settings() -> None:
    for lengths, size, window in ((np.zeros(0), 4, 8), (LENGTHS, 0, 8), (LENGTHS, 4, 0), (LENGTHS[None], 4, 4)):
        with pytest.raises(DataError):
            LengthBatches(lengths, size, window=window)
    with pytest.raises(DataError, match="no whole batch"):
        next(LengthBatches(LENGTHS[:3], 4, drop_last=True).forever())
    with pytest.raises(DataError):
        BatchState(-1, 0)
