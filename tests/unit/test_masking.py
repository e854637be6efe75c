"""Masks: exact counts, every rate, no padding, nothing but the generator. The paper's mistake 3."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unembed.diffusion.masking import draw_counts, mask_by_schedule, mask_exactly
from unembed.diffusion.schedule import get_schedule


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_all_masking_rates_are_covered_not_ten_percent() -> None:
    lengths = torch.full((64,), 32)
    counts = draw_counts(lengths, generator())
    # Two rows in each of the 32 strata: every count of one batch, 1 and 32 included, exactly twice.
    assert torch.bincount(counts, minlength=33).tolist() == [0] + [2] * 32


def test_counts_are_uniform_for_each_row_and_length() -> None:
    lengths = torch.tensor([1, 2, 3, 5, 8, 5])
    g = generator(1)
    draws = torch.stack([draw_counts(lengths, g) for _ in range(6000)])
    for row, n in enumerate(lengths.tolist()):
        share = torch.bincount(draws[:, row], minlength=n + 1)[1:] / len(draws)
        assert share.sum() == pytest.approx(1.0)
        assert torch.allclose(share, torch.full((n,), 1 / n), atol=0.025)


@pytest.mark.parametrize("batch", [0, 1, 7])
def test_counts_of_any_batch_are_between_1_and_n(batch: int) -> None:
    lengths = torch.arange(1, batch + 1)
    counts = draw_counts(lengths, generator())
    assert counts.shape == (batch,)
    assert bool(((counts >= 1) & (counts <= lengths)).all())


@settings(max_examples=60, deadline=None)
@given(data=st.data(), seed=st.integers(0, 1000))
def test_exactly_k_masks_and_none_on_padding(data: st.DataObject, seed: int) -> None:
    lengths = data.draw(st.lists(st.integers(1, 12), min_size=1, max_size=6))
    counts = [data.draw(st.integers(0, n)) for n in lengths]
    masked = mask_exactly(torch.tensor(lengths), 12, torch.tensor(counts), generator(seed))
    assert masked.sum(1).tolist() == counts
    for row, n in zip(masked, lengths, strict=True):
        assert not row[n:].any()


def test_each_mask_set_is_equally_likely() -> None:
    rows = 12000
    masked = mask_exactly(torch.full((rows,), 4), 5, torch.full((rows,), 2), generator())
    code = (masked.long() * 2 ** torch.arange(5)).sum(1)
    sets, seen = code.unique(return_counts=True)
    assert len(sets) == 6
    assert torch.allclose(seen / rows, torch.full((6,), 1 / 6), atol=0.02)


def test_masks_come_from_the_generator_alone() -> None:
    lengths = torch.tensor([4, 9, 6])
    torch.manual_seed(1)
    first = mask_exactly(lengths, 9, draw_counts(lengths, g := generator(3)), g)
    torch.manual_seed(2)
    second = mask_exactly(lengths, 9, draw_counts(lengths, g := generator(3)), g)
    assert torch.equal(first, second)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_schedule_masks_at_its_rate_and_never_padding(name: str) -> None:
    schedule = get_schedule(name)
    lengths = torch.full((4000,), 10)
    for time in (0.0, 0.3, 1.0):
        t = torch.full((4000,), time)
        masked = mask_by_schedule(lengths, 12, t, schedule, generator())
        assert not masked[:, 10:].any()
        rate = float(masked[:, :10].float().mean())
        assert rate == pytest.approx(1 - float(schedule.alpha(t)[0]), abs=0.01)
