"""Strategy `prior`: texts from closed-form parts alone, on planted data."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.helpers.planted import DIM, LIMIT, VOCABULARY, planted
from unembed.decoding.confidence import draft_features, features_of
from unembed.decoding.config import DecodeConfig
from unembed.decoding.constraints.rules import Rules
from unembed.decoding.loop import decode, stream
from unembed.decoding.prior import PriorReader, prior_drafts
from unembed.errors import InputError
from unembed.metrics.text import token_f1
from unembed.network.config import ModelConfig
from unembed.network.denoiser import Denoiser
from unembed.priors.fit import ClosedForm, fit_closed_form

PRIOR = DecodeConfig(strategy="prior")


@pytest.fixture(scope="module")
def parts() -> ClosedForm:
    return fit_closed_form(planted(6000).batches(1000), VOCABULARY, LIMIT)


@pytest.fixture(scope="module")
def bare(parts: ClosedForm) -> PriorReader:
    return PriorReader.fitted(parts)


@pytest.fixture(scope="module")
def denoiser(parts: ClosedForm) -> Denoiser:
    config = ModelConfig(
        vector_dim=DIM,
        vocab_size=VOCABULARY,
        max_length=LIMIT,
        width=8,
        layers=1,
        heads=2,
        token_prior=True,
        mask_id=4,
        eos_id=3,
        bos_id=2,
        pad_id=0,
    )
    network = Denoiser(config).eval()
    network.whitening.load_state_dict(parts.whitening.state_dict())
    assert network.token_prior is not None
    network.token_prior.load_state_dict(parts.token_prior.state_dict())
    return network


def test_the_words_are_found_and_none_is_repeated(bare: PriorReader) -> None:
    data = planted(300, seed=7)
    truth = [row[:n] for row, n in zip(data.ids.tolist(), data.lengths.tolist(), strict=True)]
    texts = bare.read(data.vectors, data.lengths).texts()
    assert token_f1(texts, truth) > 0.8
    assert all(len(set(text)) == len(text) for text in texts)


def test_the_surest_tokens_come_first_and_their_presence_means_something(bare: PriorReader) -> None:
    data = planted(400, seed=8)
    read = bare.read(data.vectors, data.lengths)
    assert float(read.presence[:, 0].mean()) > float(read.presence[:, 1].mean()) + 0.1
    inside = torch.arange(read.ids.shape[1]) < read.lengths[:, None]
    right = (read.ids[..., None] == data.ids[:, None, :]).any(-1)[inside]
    presence = read.presence[inside]
    assert float(right[presence > 0.9].float().mean()) > float(right[presence < 0.5].float().mean()) + 0.03


def test_a_row_does_not_depend_on_the_rows_beside_it(bare: PriorReader) -> None:
    vectors = planted(700, seed=9).vectors  # more than one chunk
    together = bare.read(vectors).texts()
    assert together[:40] == [bare.read(row[None]).texts()[0] for row in vectors[:40]]
    assert together[650:] == bare.read(vectors[650:]).texts()


def test_given_tokens_stand_and_lengthen_the_text(bare: PriorReader) -> None:
    data = planted(50, seed=3)
    given = torch.full((50, LIMIT), -1)
    given[:, 1], given[7], given[9, LIMIT - 1] = 20, torch.arange(10, 10 + LIMIT), 11
    drafts = prior_drafts(bare, data.vectors, given, traced=True)
    for row, draft in enumerate(drafts):
        known = {i: token for i, token in enumerate(given[row].tolist()) if token >= 0}
        assert all(draft.ids[i] == token and draft.token_confidence[i] == 1 for i, token in known.items())
        assert draft.trace is not None and len(draft.trace.steps) == 1
        assert draft.trace.steps[0].chosen == tuple(i for i in range(draft.length) if i not in known)
        free = [token for i, token in enumerate(draft.ids) if i not in known]
        assert len(set(free)) == len(free) and not set(free) & set(known.values())
    assert drafts[7].ids == tuple(range(10, 10 + LIMIT)) and drafts[9].length == LIMIT


def test_no_pass_is_made_and_one_step_is_streamed(denoiser: Denoiser) -> None:
    vectors = planted(5, seed=1).vectors
    denoiser = copy.deepcopy(denoiser)
    del denoiser.blocks, denoiser.head  # a pass would fail
    drafts = decode(denoiser, vectors, PRIOR, trace=True)
    assert all(draft.passes == draft.spent == 0 and draft.length == len(draft.ids) for draft in drafts)
    assert decode(denoiser, vectors, PRIOR, known_lengths=torch.tensor([1, 2, 3, 4, 5]))[4].length == 5
    steps = list(stream(denoiser, vectors[0], PRIOR))
    assert [step.final for step in steps] == [False, True] and steps[-1].ids == drafts[0].ids
    assert steps[0].pass_count == 0 and not any(steps[0].masked)
    assert decode(denoiser, vectors[:0], PRIOR) == []


def test_what_makes_no_sense_is_refused(denoiser: Denoiser) -> None:
    for options in ({"temperature": 0.5}, {"guidance": 2.0}, {"temperature": 1.0, "samples": 2}):
        with pytest.raises(InputError, match="no temperature, samples or guidance"):
            DecodeConfig(strategy="prior", **options)  # type: ignore[arg-type]
    plain = Denoiser(replace(denoiser.config, token_prior=False))
    with pytest.raises(InputError, match="no token prior"):
        decode(plain, torch.zeros(1, DIM), PRIOR)
    fresh = Denoiser(denoiser.config)
    with pytest.raises(InputError, match="has seen no text"):
        decode(fresh, torch.zeros(1, DIM), PRIOR)


def test_features_of_many_drafts_are_those_of_each(bare: PriorReader) -> None:
    drafts = prior_drafts(bare, planted(30, seed=2).vectors)
    assert np.allclose(features_of(drafts), np.stack([draft_features(draft) for draft in drafts]))


def test_rules_of_tokens_and_lengths_hold(denoiser: Denoiser) -> None:
    """Known tokens stay, and only lengths of the range are chosen."""
    given = torch.full((20, LIMIT), -1)
    given[:, 1] = 7
    free = decode(denoiser, planted(20).vectors, PRIOR)
    least = torch.tensor([min(draft.length + 1, LIMIT) for draft in free])
    rules = replace(Rules.of_given(given, LIMIT, VOCABULARY), least=least)
    for draft, low in zip(decode(denoiser, planted(20).vectors, PRIOR, rules=rules), least.tolist(), strict=True):
        assert draft.length >= max(low, 2) and draft.ids[1] == 7
        assert draft.given == tuple(i == 1 for i in range(draft.length)) and not any(draft.forced)
