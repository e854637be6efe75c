"""Refinement with the shipped model and its real encoder: budgets, cache, difference prior, orders, search."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from tests.helpers.counting import Counting
from unembed.decoding.loop import finish
from unembed.errors import EncoderError, InputError
from unembed.inverter import Inverter
from unembed.network.difference import DifferencePrior
from unembed.refinement.moves import Mover, MoverConfig
from unembed.refinement.queries import CachedEncoder, History, rounds
from unembed.refinement.refine import Refine
from unembed.refinement.reorder import orderings
from unembed.refinement.search import Search, SearchConfig
from unembed.refinement.slots import Expansion

TEXTS = [
    "the train to london leaves at nine.",
    "she bought three red apples.",
    "the doctor will call you on monday.",
    "we lost the game by two points.",
    "he plays the piano every evening.",
    "the bank is closed on sundays.",
]


def searched_for(search: Search, queries: int) -> list[History]:
    finish(rounds(search, queries))
    return search.histories


@pytest.fixture(scope="module")
def inverter() -> Inverter:
    return Inverter.from_pretrained("default", device="cpu")


@pytest.fixture(scope="module")
def searched(inverter: Inverter) -> tuple[Counting, list, torch.Tensor, list]:
    vectors = torch.from_numpy(inverter.encoder.encode(TEXTS))
    drafts = inverter.drafts(vectors, strategy="left-to-right", beam=4)
    candidates = [[d.ids, *(a.ids for a in d.alternatives)] for d in drafts]
    encoder = Counting(inverter.encoder)
    asked = CachedEncoder(encoder, inverter.tokenizer)
    found = searched_for(Search(inverter.denoiser, vectors, candidates, asked, SearchConfig(first=4)), 20)
    return encoder, found, vectors, candidates


def test_the_budget_is_kept_and_nothing_is_sent_twice(searched: tuple) -> None:
    encoder, found, _, _ = searched
    assert len(encoder.sent) == len(set(encoder.sent))
    assert sum(result.queries for result in found) == len(encoder.sent)
    assert all(result.queries <= 20 for result in found)


def test_queries_bring_drafts_nearer(searched: tuple) -> None:
    """The curve over the budget never falls, and the whole budget takes a third of the distance away at least."""
    _, found, _, _ = searched
    curve = np.array([[result.best(k).cosine for k in range(1, 21)] for result in found])
    assert (np.diff(curve, axis=1) >= 0).all()
    assert 1 - curve[:, -1].mean() < 2 / 3 * (1 - curve[:, 0].mean())


def test_the_cosine_is_that_of_the_text(searched: tuple, inverter: Inverter) -> None:
    _, found, vectors, _ = searched
    for result, vector in zip(found, vectors.numpy(), strict=True):
        best = result.best()
        again = inverter.encoder.encode([best.text])[0]
        assert float(again @ vector) == pytest.approx(best.cosine, abs=1e-4)
        assert inverter.tokenizer.encode([best.text])[0] == list(best.ids)


def test_a_text_that_is_met_ends_the_search(inverter: Inverter) -> None:
    ids = tuple(inverter.tokenizer.encode([TEXTS[0]])[0])
    vector = torch.from_numpy(inverter.encoder.encode([TEXTS[0]]))
    asked = CachedEncoder(inverter.encoder, inverter.tokenizer)
    found = searched_for(Search(inverter.denoiser, vector, [[ids]], asked), 50)
    assert found[0].matched and found[0].queries == 1


def test_the_difference_names_what_is_missing(inverter: Inverter) -> None:
    """One word exchanged: target minus draft puts the right word far before the wrong one."""
    pairs = [("dog", "cat"), ("monday", "friday"), ("piano", "guitar"), ("doctor", "lawyer"), ("apples", "oranges")]
    right = [f"i saw the {a} again today." for a, _ in pairs]
    wrong = [f"i saw the {b} again today." for _, b in pairs]
    prior = DifferencePrior(inverter.denoiser)
    target, draft = (torch.from_numpy(inverter.encoder.encode(texts)) for texts in (right, wrong))
    difference = prior(target, draft)
    for row, (a, b) in enumerate(pairs):
        missing, extra = (inverter.tokenizer.encode([word])[0][0] for word in (a, b))
        for scores in (difference.whitened[row], difference.plain[row]):
            assert scores[missing] > 0 > scores[extra]
        rank = int((difference.plain[row] > difference.plain[row, missing]).sum())
        assert rank < 300, f"{a} is number {rank} of {inverter.tokenizer.size}"


def test_orders_are_permutations(inverter: Inverter) -> None:
    texts = ["the the cat sat on mat .", "apples red three bought she ."]
    drafts = [tuple(row) for row in inverter.tokenizer.encode(texts)]
    vectors = torch.from_numpy(inverter.encoder.encode(["the cat sat on the mat.", "she bought three red apples."]))
    with torch.inference_mode():
        condition = inverter.denoiser.condition(vectors)
    found, passes = finish(orderings(inverter.denoiser, condition, drafts, beam=6))
    for draft, orders, spent in zip(drafts, found, passes, strict=True):
        assert 0 < len(orders) <= 6 and spent > len(draft)
        assert all(Counter(ids) == Counter(draft) for ids, _ in orders)
        assert [log for _, log in orders] == sorted((log for _, log in orders), reverse=True)
        assert len({ids for ids, _ in orders}) == len(orders)
    assert inverter.tokenizer.decode(found[1][0][0]) == "she bought three red apples ."


@pytest.mark.parametrize(("ordered", "some"), [(20, True), (5, False)])
def test_only_short_drafts_are_ordered_anew(inverter: Inverter, ordered: int, some: bool) -> None:
    denoiser, draft = inverter.denoiser, tuple(inverter.tokenizer.encode(["apples red three bought she ."])[0])
    target = torch.from_numpy(inverter.encoder.encode(["she bought three red apples."]))
    own = torch.from_numpy(inverter.encoder.encode([inverter.tokenizer.decode(list(draft))]))
    with torch.inference_mode():
        condition, lengths = denoiser.condition(target), denoiser.length_log_probs(target)
        expansion = Expansion([draft], [0], DifferencePrior(denoiser)(target, own), condition, lengths)
    found, _ = finish(Mover(denoiser, config=MoverConfig(("reorder",), ordered=ordered))(expansion, own))
    assert len(draft) == 6 and bool(found[0]) is some
    assert {proposal.move for proposal in found[0]} <= {"reorder"}


def test_mistakes_are_named(inverter: Inverter) -> None:
    for bad in ({"queries": -1}, {"queries": 1, "passes": 1.5}, {"queries": 1, "seconds": 0.0}):
        with pytest.raises(InputError, match=next(k for k in bad if k != "queries" or bad[k] == -1)):
            Refine(**bad)

    class Broken(Counting):
        def encode(self, texts: list[str]) -> np.ndarray:
            return np.full((len(texts), self.dimension), np.nan, dtype=np.float32)

    with pytest.raises(EncoderError, match="not finite"):
        CachedEncoder(Broken(inverter.encoder), inverter.tokenizer).encode(["a text"])


def test_a_draft_that_settles_beyond_the_limit_is_dropped(inverter: Inverter) -> None:
    """Pieces of words that do not belong together may become more tokens than the network can hold."""
    tokenizer = inverter.tokenizer
    vocabulary = tokenizer.tokens(list(range(tokenizer.size)))
    words = [i for i, token in enumerate(vocabulary) if token.isalpha() and len(token) == 2]
    pieces = [i for i, token in enumerate(vocabulary) if token.startswith("##") and token[2:].isalpha()]
    draws = np.random.default_rng(0).choice(pieces, (3000, 3))
    rows = [(words[k % len(words)], *map(int, draw)) for k, draw in enumerate(draws)]
    seen = tokenizer.encode([tokenizer.decode(list(row)) for row in rows])
    grown = [row for row, ids in zip(rows, seen, strict=True) if len(ids) > 4][:8]
    draft = tuple(token for row in grown for token in row)
    asked = CachedEncoder(inverter.encoder, inverter.tokenizer)
    assert len(asked.settle([draft])[0][1]) > 32
    target = torch.from_numpy(inverter.encoder.encode(TEXTS[:1]))
    search = Search(inverter.denoiser, target, [[draft, (1996, 3899)]], asked, student=inverter.student)
    found = searched_for(search, 8)
    assert found[0].asked and all(len(a.ids) <= 32 for a in found[0].asked)
