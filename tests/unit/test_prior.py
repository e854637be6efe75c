"""Closed-form priors on planted data: they find what was put in, stream, survive storage, leave one's own row out."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load, save

from tests.helpers.planted import DIM, LIMIT, VOCABULARY, planted
from unembed.decoding.prior import PriorReader
from unembed.errors import DataError
from unembed.priors.class_sums import ClassSums, distinct_tokens
from unembed.priors.fit import ClosedForm, fit_closed_form
from unembed.priors.token_prior import TokenPrior


def prior_decode(parts: ClosedForm, vectors: torch.Tensor, lengths: torch.Tensor | None = None) -> list[list[int]]:
    return PriorReader.fitted(parts).read(vectors, lengths).texts()


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(11))


@pytest.fixture(scope="module")
def parts() -> ClosedForm:
    return fit_closed_form(planted(6000).batches(1000), VOCABULARY, LIMIT)


def test_distinct_tokens_counts_a_token_once_a_text_and_never_padding() -> None:
    ids = torch.tensor([[7, 7, 3, 0], [0, 5, 0, 0]])
    rows, tokens = distinct_tokens(ids, torch.tensor([[True, True, True, False], [True, True, False, False]]))
    assert sorted(zip(rows.tolist(), tokens.tolist(), strict=True)) == [(0, 3), (0, 7), (1, 0), (1, 5)]


def test_class_sums_equal_a_plain_loop() -> None:
    g = torch.Generator().manual_seed(0)
    vectors, rows = torch.randn(9, 4, generator=g), torch.randint(9, (40,), generator=g)
    classes = torch.randint(5, (40,), generator=g)
    sums = ClassSums(6, 4)
    sums.add(vectors, rows[:25], classes[:25])
    sums.add(vectors, rows[25:], classes[25:])
    expected = torch.zeros(6, 4).index_add_(0, classes, vectors[rows])
    assert torch.allclose(sums.sums, expected, atol=1e-5)
    assert torch.equal(sums.counts, torch.bincount(classes, minlength=6))
    matrix, offset = torch.randn(4, 4, generator=g), torch.randn(4, generator=g)
    mapped = torch.zeros(6, 4).index_add_(0, classes, ((vectors - offset) @ matrix)[rows])
    assert torch.allclose(sums.mapped(offset, matrix), mapped, atol=1e-4)


def test_prior_recovers_planted_tokens(parts: ClosedForm) -> None:
    data = planted(500, seed=1)
    top = parts.token_prior.scores(parts.whitening(data.vectors)).topk(2 * LIMIT).indices
    inside = torch.arange(LIMIT) < data.lengths[:, None]
    found = (data.ids[..., None] == top[:, None]).any(-1)[inside].float().mean()
    chance = 2 * LIMIT / VOCABULARY
    assert float(found) > 0.9 > 3 * chance
    frequency_only = parts.token_prior.log_odds.topk(2 * LIMIT).indices
    assert float(torch.isin(data.ids[inside], frequency_only).float().mean()) < 0.75


def test_shortlist_scores_are_the_columns_of_the_full_scores(parts: ClosedForm) -> None:
    z = parts.whitening(planted(9, seed=2).vectors)
    tokens = torch.tensor([40, 7, 59, 0])
    for frequency in (True, False):
        full = parts.token_prior.scores(z, frequency=frequency)
        assert full.shape == (9, VOCABULARY)
        assert torch.allclose(parts.token_prior.scores(z, tokens, frequency=frequency), full[:, tokens], atol=1e-5)
    difference = parts.token_prior.scores(z) - parts.token_prior.scores(z, frequency=False)
    assert torch.allclose(difference, parts.token_prior.log_odds.expand(9, -1), atol=1e-5)


def test_scores_follow_the_formula_of_the_gaussian_log_odds() -> None:
    sums, counts = torch.tensor([[30.0, 0.0], [0.0, 80.0]]), torch.tensor([10, 60])
    prior = TokenPrior.from_sums(sums, counts, total=100, shrink=20.0, weight=0.5)
    z = torch.tensor([[2.0, -1.0]])
    m = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    expected = 0.5 * (z @ m.T - 0.5) + torch.log(torch.tensor([10 / 90, 60 / 40]))
    assert torch.allclose(prior.scores(z), expected, atol=1e-3)


def test_unseen_tokens_are_finite_and_last(parts: ClosedForm) -> None:
    scores = parts.token_prior.scores(parts.whitening(planted(50, seed=3).vectors))
    assert bool(torch.isfinite(scores).all())
    assert float(scores[:, :5].max()) < float(scores.topk(LIMIT).values.min())


def test_leave_one_out_equals_a_fit_without_the_row() -> None:
    g = torch.Generator().manual_seed(0)
    z = torch.randn(30, 16, generator=g)
    own, total = z[:1], 40
    whole = TokenPrior.from_sums(z.sum(0, keepdim=True), torch.tensor([30]), total)
    without = TokenPrior.from_sums(z[1:].sum(0, keepdim=True), torch.tensor([29]), total)
    present = torch.tensor([[True]])
    left_out = whole.scores(own, frequency=False, present=present)
    assert torch.allclose(left_out, without.scores(own, frequency=False), atol=0.02)
    assert float(whole.scores(own, frequency=False)) > float(left_out) + 0.1
    absent = whole.scores(own, frequency=False, present=~present)
    assert torch.equal(absent, whole.scores(own, frequency=False))


def test_in_sample_scores_of_rare_tokens_are_inflated_and_leave_one_out_mends_it() -> None:
    noise = torch.randn(400, 64, generator=torch.Generator().manual_seed(0))
    tokens = torch.arange(400) % 200
    sums = torch.zeros(200, 64).index_add_(0, tokens, noise)
    prior = TokenPrior.from_sums(sums, torch.full((200,), 2), 400)
    present = torch.nn.functional.one_hot(tokens, 200).bool()
    plain = prior.scores(noise, frequency=False)[present].mean()
    mended = prior.scores(noise, frequency=False, present=present)[present].mean()
    assert float(plain) > 1.0
    assert abs(float(mended)) < 0.15


def test_one_pass_does_not_depend_on_the_batches() -> None:
    data = planted(600)
    vectors = data.vectors[:3]
    whole = fit_closed_form(data.batches(600), VOCABULARY, LIMIT)
    streamed = fit_closed_form(data.batches(37), VOCABULARY, LIMIT)
    za, zb = whole.whitening(vectors), streamed.whitening(vectors)
    assert torch.allclose(za, zb, atol=1e-3)
    assert torch.allclose(whole.token_prior.scores(za), streamed.token_prior.scores(zb), atol=0.02)
    assert torch.allclose(whole.length_head.log_probs(za), streamed.length_head.log_probs(zb), atol=0.02)
    assert prior_decode(whole, vectors) == prior_decode(streamed, vectors)


def test_round_trip_through_safetensors_into_an_empty_module(parts: ClosedForm) -> None:
    empty = ClosedForm(VOCABULARY, DIM, LIMIT)
    empty.load_state_dict(load(save(parts.state_dict())))
    vectors = planted(5, seed=6).vectors
    assert torch.equal(empty.token_prior(empty.whitening(vectors)), parts.token_prior(parts.whitening(vectors)))
    assert prior_decode(empty, vectors) == prior_decode(parts, vectors)
    assert empty.token_prior.codes.dtype == torch.int8


def test_prior_decode_beats_chance_and_obeys_given_lengths(parts: ClosedForm) -> None:
    data = planted(100, seed=7)
    texts = prior_decode(parts, data.vectors, data.lengths)
    assert [len(t) for t in texts] == data.lengths.tolist()
    right = sum(token in row for t, row in zip(texts, data.ids.tolist(), strict=True) for token in t)
    assert right / int(data.lengths.sum()) > 0.5
    assert all(token >= 5 for text in texts for token in text)


def test_nothing_to_fit_and_wrong_lengths_are_refused() -> None:
    with pytest.raises(DataError, match="nothing to fit"):
        fit_closed_form([], VOCABULARY, LIMIT)
    data = planted(10)
    with pytest.raises(DataError, match="1 to 3 tokens"):
        fit_closed_form(data.batches(10), VOCABULARY, 3)
