"""Left-to-right drafts against step-by-step and exhaustive references."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import cache

import pytest
import torch

from tests.helpers.tiny import some_vectors, tiny_denoiser
from unembed.decoding.config import DecodeConfig
from unembed.decoding.loop import decode
from unembed.decoding.proposals import sample_tokens
from unembed.network.denoiser import Denoiser


def next_log_probs(denoiser: Denoiser, vector: torch.Tensor, ids: tuple[int, ...]) -> torch.Tensor:
    """Reference: feed everything anew; the end is not allowed at first."""
    with torch.inference_mode():
        state = denoiser.start_causal(denoiser.condition(vector.view(1, -1)))
        for token in (denoiser.config.bos_id, *ids):
            logits, state = denoiser.next_logits(torch.tensor([token]), state)
    if not ids:
        logits = logits.clone()
        logits[:, denoiser.config.eos_id] = -torch.inf
    return logits[0].log_softmax(-1)


def log_likelihood(
    denoiser: Denoiser, vector: torch.Tensor, ids: tuple[int, ...], read: Callable[..., torch.Tensor] = next_log_probs
) -> float:
    total = sum(float(read(denoiser, vector, ids[:i])[token]) for i, token in enumerate(ids))
    if len(ids) < denoiser.config.max_length:
        total += float(read(denoiser, vector, ids)[denoiser.config.eos_id])
    return total


def test_greedy_takes_the_likeliest_token_each_time() -> None:
    denoiser, vectors = tiny_denoiser(max_length=7), some_vectors(10)
    with torch.no_grad():
        denoiser.head.bias[denoiser.config.eos_id] += 1.5
    ended = 0
    for draft, vector in zip(decode(denoiser, vectors, DecodeConfig(strategy="left-to-right")), vectors, strict=True):
        ids: tuple[int, ...] = ()
        while len(ids) < 7:
            token = int(next_log_probs(denoiser, vector, ids).argmax())
            if token == denoiser.config.eos_id:
                ended += 1
                break
            ids += (token,)
        assert draft.ids == ids
        assert draft.log_likelihood == pytest.approx(log_likelihood(denoiser, vector, ids), abs=1e-4)
        assert draft.passes == len(ids) + (len(ids) < 7)
    assert 0 < ended < 10


@pytest.mark.parametrize("canvas", ["length", "eos"])
def test_a_wide_beam_finds_the_likeliest_text(canvas: str) -> None:
    denoiser = tiny_denoiser(canvas, max_length=3, vocab=9)
    words = [i for i in range(9) if not denoiser.banned[i] and i != denoiser.config.eos_id]
    texts = [ids for n in (1, 2, 3) for ids in itertools.product(words, repeat=n)]
    config = DecodeConfig(strategy="left-to-right", beam=9)
    for draft, vector in zip(decode(denoiser, some_vectors(3), config), some_vectors(3), strict=True):
        read = cache(next_log_probs)  # each beginning of a text once
        scores = {ids: log_likelihood(denoiser, vector, ids, read) for ids in texts}
        assert draft.ids == max(scores, key=scores.__getitem__)
        for each in (draft, *draft.alternatives):
            assert each.log_likelihood == pytest.approx(scores[each.ids], abs=1e-4)
        ranked = [draft.score, *(a.score for a in draft.alternatives)]
        assert ranked == sorted(ranked, reverse=True)
        assert len({draft.ids, *(a.ids for a in draft.alternatives)}) == len(ranked)


def test_a_beam_is_never_worse_than_greedy() -> None:
    denoiser, vectors = tiny_denoiser(max_length=8), some_vectors(12)
    greedy = decode(denoiser, vectors, DecodeConfig(strategy="left-to-right"))
    wide = decode(denoiser, vectors, DecodeConfig(strategy="left-to-right", beam=6))
    gains = [w.log_likelihood - g.log_likelihood for w, g in zip(wide, greedy, strict=True)]
    assert sum(gains) > 0 and sum(g < -1e-4 for g in gains) <= 1


def test_samples_follow_the_distribution() -> None:
    denoiser = tiny_denoiser(max_length=1, vocab=9)
    vector = some_vectors(1)
    config = DecodeConfig(strategy="left-to-right", temperature=1.0, samples=3000)
    draft = decode(denoiser, vector, config)[0]
    drawn = torch.tensor([d.ids[0] for d in (draft, *draft.alternatives)])
    expected = next_log_probs(denoiser, vector[0], ()).exp()
    assert torch.allclose(drawn.bincount(minlength=9) / 3000, expected, atol=0.04)


def test_draft_correct_begins_with_the_causal_draft_and_changes_its_weak_places() -> None:
    denoiser, vectors = tiny_denoiser(max_length=9), some_vectors(8)
    drafts = decode(denoiser, vectors, DecodeConfig(strategy="left-to-right"))
    fixed = decode(denoiser, vectors, DecodeConfig(strategy="draft-correct", passes=4, remask_rate=0.4), trace=True)
    kept = decode(denoiser, vectors, DecodeConfig(strategy="draft-correct", passes=4, remask_rate=0.0))
    assert [d.ids for d in kept] == [d.ids for d in drafts]
    assert [d.length for d in fixed] == [d.length for d in drafts]
    assert [d.ids for d in fixed] != [d.ids for d in drafts]
    for draft, first in zip(fixed, drafts, strict=True):
        assert draft.trace is not None
        assert draft.trace.steps[first.passes - 1].ids == first.ids
        halves = min(2, first.length)
        assert draft.passes == first.passes + halves + 4


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_one_number_a_row_samples_from_the_softmax(temperature: float) -> None:
    """Inverting the cumulative distribution: shares of 40,000 samples, and none that is banned."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(600, generator=generator) * 2
    logits[[0, 17, 599]] = -torch.inf
    uniform = torch.rand(40_000, generator=generator, dtype=torch.float64)
    tokens, log_prob = sample_tokens(logits.expand(40_000, -1).clone(), temperature, uniform)
    expected = (logits / temperature).softmax(0)
    share = torch.bincount(tokens, minlength=600) / 40_000
    assert float((share - expected).abs().sum()) < 0.12
    assert not bool(torch.isin(tokens, torch.tensor([0, 17, 599])).any())
    torch.testing.assert_close(log_prob, logits.log_softmax(0)[tokens])


@pytest.mark.parametrize("number", [0.0, 1.0 - 2**-53])
def test_numbers_at_the_ends_give_tokens_that_are_possible(number: float) -> None:
    logits = torch.full((1, 300), -torch.inf)
    logits[0, [3, 280]] = 0.0
    token, _ = sample_tokens(logits, 0.7, torch.tensor([number], dtype=torch.float64))
    assert token.item() == (3 if number == 0.0 else 280)
