"""Which draft is given back, and by what score."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.helpers.tiny import DIM, some_vectors, tiny_denoiser
from unembed.decoding.choosing import Judge, agreement
from unembed.decoding.config import DecodeConfig
from unembed.decoding.loop import decode
from unembed.decoding.trace import Draft
from unembed.network.student import StudentConfig, StudentEncoder


def all_of(draft: Draft) -> list[Draft]:
    return [draft, *draft.alternatives]


def test_the_likeliest_lengths_are_tried() -> None:
    denoiser, vectors = tiny_denoiser(max_length=12), some_vectors(5)
    log_probs = denoiser.length_log_probs(vectors).detach()
    for row, draft in enumerate(decode(denoiser, vectors, DecodeConfig(lengths=4))):
        drafts = all_of(draft)
        assert {d.length for d in drafts} == set((log_probs[row].topk(4).indices + 1).tolist())
        for each in drafts:
            assert each.log_prior_length == pytest.approx(float(log_probs[row, each.length - 1]), abs=1e-5)


@pytest.mark.parametrize("power", [0.0, 1.0])
@pytest.mark.parametrize("weight", [None, 0.0, 2.5])
def test_the_score_is_the_prior_plus_the_normalised_likelihood(weight: float | None, power: float) -> None:
    config = DecodeConfig(lengths=4, length_weight=weight, length_power=power)
    for draft in decode(tiny_denoiser(max_length=12), some_vectors(5), config):
        for each in all_of(draft):
            assert each.log_likelihood == pytest.approx(sum(np.log(each.token_confidence)), abs=1e-4)
            factor = 1.0 if weight is None else weight
            expected = factor * each.log_prior_length + each.log_likelihood / each.length**power
            assert each.score == pytest.approx(expected, abs=1e-5)
        assert draft.score == max(d.score for d in all_of(draft))


def test_a_draft_alone_agrees_with_itself() -> None:
    assert agreement((5, 6), []) == 1.0
    assert agreement((5, 6), [(5, 7), (8, 9)]) == pytest.approx(0.25)


def test_the_end_counts_in_the_likelihood_where_it_is_learnt() -> None:
    denoiser = tiny_denoiser("eos", max_length=6)
    config = DecodeConfig(strategy="sequential", passes=7)
    short = 0
    for draft in decode(denoiser, some_vectors(20), config):
        total = float(np.log(draft.token_confidence).sum())
        if draft.length < 6:
            short += 1
            assert draft.log_likelihood < total - 1e-6
    assert short


def test_given_tokens_do_not_count_in_the_likelihood() -> None:
    denoiser, vectors = tiny_denoiser(max_length=6), some_vectors(2)
    given = torch.full((2, 6), 9)
    draft = decode(denoiser, vectors, DecodeConfig(lengths=1), given=given)[0]
    assert draft.ids == (9,) * 6 and draft.log_likelihood == 0 and draft.passes == 0


def test_a_student_adds_the_cosine_that_it_sees() -> None:
    """score = likelihood + weight x cosine of the student's vector of the draft and the vector itself."""
    denoiser, vectors = tiny_denoiser(max_length=8), some_vectors(6)
    torch.manual_seed(0)
    student = StudentEncoder(StudentConfig(DIM, 8, 8, width=8, layers=1, heads=2, mlp=8)).eval()
    table = denoiser.embedding.weight.detach()
    beam = {"strategy": "left-to-right", "beam": 4}
    plain = decode(denoiser, vectors, DecodeConfig(**beam))
    config = DecodeConfig(**beam, choose="student", student_weight=50.0)
    judged = decode(denoiser, vectors, config, judge=Judge(student, table))
    for row, (a, b) in enumerate(zip(plain, judged, strict=True)):
        before = {draft.ids: draft.score for draft in all_of(a)}
        assert {draft.ids for draft in all_of(b)} == set(before)
        assert b.score == max(draft.score for draft in all_of(b))
        for draft in all_of(b):
            if not draft.ids:
                continue
            with torch.no_grad():
                seen = student(table[list(draft.ids)].unsqueeze(0))[0]
            cosine = float(torch.nn.functional.cosine_similarity(seen, vectors[row], dim=0))
            assert draft.score == pytest.approx(before[draft.ids] + 50.0 * cosine, abs=1e-3)
    assert [d.ids for d in plain] != [d.ids for d in judged]
    alone = decode(denoiser, vectors, config)  # nobody to ask
    assert [(d.ids, d.score) for d in alone] == [(d.ids, d.score) for d in plain]
