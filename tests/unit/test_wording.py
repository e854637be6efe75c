"""Words unlike those of the training texts are told by what a letter of them costs."""

from __future__ import annotations

import pytest
import torch

from unembed.data.tokenization import Tokenizer
from unembed.decoding.wording import UNLIKE, Wording
from unembed.priors.token_prior import TokenPrior

TEXTS = ["the old man and the sea", "the man saw the dog", "a small red house and a tree"] * 50


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    words = sorted({word for text in TEXTS for word in text.split()})
    pieces = [*words, *"abcdefghijklmnopqrstuvwxyz0123456789.", *[f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz"]]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(["[UNK]", *pieces]))}
    model = {"type": "WordPiece", "vocab": vocabulary, "unk_token": "[UNK]", "continuing_subword_prefix": "##"}
    spec = {
        "version": "1.0",
        "model": {**model, "max_input_chars_per_word": 100},
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": False},
        "added_tokens": [],
    }
    return Tokenizer(spec)


@pytest.fixture(scope="module")
def wording(tokenizer: Tokenizer) -> Wording:
    counts = torch.zeros(tokenizer.size, dtype=torch.int64)
    for ids in tokenizer.encode(TEXTS):
        counts[torch.tensor(sorted(set(ids)))] += 1
    prior = TokenPrior.from_sums(torch.zeros(tokenizer.size, 2), counts, len(TEXTS))
    return Wording(tokenizer, prior)


def ratio(wording: Wording, tokenizer: Tokenizer, text: str) -> float | None:
    return wording.ratio(tokenizer.encode([text])[0])


def test_learnt_words_cost_what_they_usually_do_and_others_more(wording: Wording, tokenizer: Tokenizer) -> None:
    for text in ("the old man saw a dog", "a tree and the sea"):
        found = ratio(wording, tokenizer, text)
        assert found is not None and 0.5 < found < UNLIKE
    for text in ("der hund", "le chat dort", "xyz"):
        found = ratio(wording, tokenizer, text)
        assert found is not None and found > UNLIKE


def test_numbers_and_marks_say_nothing_of_the_language(wording: Wording, tokenizer: Tokenizer) -> None:
    assert ratio(wording, tokenizer, "1 2 . 3") is None
    assert wording.ratio([]) is None
    assert wording.ratio([tokenizer.size + 5]) is None
    assert ratio(wording, tokenizer, "the sea . 1 2 3") == ratio(wording, tokenizer, "the sea")
