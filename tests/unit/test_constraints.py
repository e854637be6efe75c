"""Constraints: what they mean, what contradicts what, and that every strategy keeps them for any number of passes."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from tests.helpers.constraints import WORDS, count_word, tiny_tokenizer, word_denoiser
from tests.helpers.tiny import some_vectors
from unembed.data.tokenization import Tokenizer
from unembed.decoding.config import CAUSAL_STRATEGIES, DecodeConfig
from unembed.decoding.config import STRATEGIES as EVERY
from unembed.decoding.constraints.known import Constraints
from unembed.decoding.constraints.lexicon import Lexicon, fits
from unembed.decoding.constraints.rules import Rules
from unembed.decoding.loop import decode, stream
from unembed.decoding.trace import Draft
from unembed.errors import InputError

LIMIT = 8
STRATEGIES = [name for name in EVERY if name != "prior"]  # it reads no words: the last test here
TOKENIZER = tiny_tokenizer()
LEXICON = Lexicon(TOKENIZER.surfaces)
IDS = {token: i for i, token in enumerate(TOKENIZER.tokens(range(TOKENIZER.size)))}
CANVASES = ["length", "eos"]
DENOISERS = {canvas: word_denoiser(canvas, LIMIT) for canvas in CANVASES}


def rules_of(rows: int = 1, **constraints: Any) -> Rules:
    return Constraints(**constraints).compile(TOKENIZER, rows, LIMIT)


def text_of(draft: Draft) -> str:
    return TOKENIZER.decode(draft.ids)


def check(draft: Draft, values: dict[str, Any], rules: Rules, row: int) -> None:
    """Judge a text by its characters."""
    text, shown = text_of(draft), (text_of(draft), values)
    assert not set(TOKENIZER.banned.tolist()) & set(draft.ids), shown
    assert int(rules.least[row]) <= draft.length <= int(rules.most[row]), shown
    for word, times in Counter(values.get("required") or ()).items():
        assert count_word(text, word) >= times, shown
    for word in values.get("banned") or ():
        assert count_word(text, word) == 0, shown
    for i, token in enumerate(rules.given[row].tolist()):
        if token >= 0:
            assert draft.ids[i] == token, shown
            assert draft.given[i] and draft.token_confidence[i] == 1, shown
    assert sum(draft.given) == int((rules.given[row] >= 0).sum())
    assert len(draft.given) == len(draft.forced) == draft.length
    assert sum(draft.forced) == sum(len(word) for word in rules.required[row])


@st.composite
def constraints(draw: st.DrawFn) -> dict[str, Any]:
    words = st.sampled_from(WORDS)
    least = draw(st.integers(1, LIMIT))
    known = draw(st.dictionaries(st.integers(0, LIMIT - 1), words, max_size=2))
    return {
        "required": draw(st.lists(words, max_size=4)),
        "banned": draw(st.lists(words, max_size=3)),
        "length": draw(st.none() | st.just((least, draw(st.integers(least, LIMIT))))),
        "known": known or None,
        "prefix": draw(st.none() | words),
    }


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(
    values=constraints(),
    strategy=st.sampled_from(list(STRATEGIES)),
    canvas=st.sampled_from(CANVASES),
    passes=st.integers(1, 9),
    sampled=st.booleans(),
    seed=st.integers(0, 3),
)
def test_every_strategy_keeps_random_constraints(
    values: dict[str, Any], strategy: str, canvas: str, passes: int, sampled: bool, seed: int
) -> None:
    try:
        rules = rules_of(**values)
    except InputError:
        reject()
    more: dict[str, Any] = {"temperature": 0.8, "samples": 2} if sampled else {}
    if strategy in CAUSAL_STRATEGIES and not sampled:
        more = {"beam": 3}
    config = DecodeConfig(strategy=strategy, passes=passes, lengths=2, remask=0.3, remask_rate=0.6, seed=seed, **more)
    for draft in decode(DENOISERS[canvas], some_vectors(1, seed), config, rules=rules):
        for each in (draft, *draft.alternatives):
            check(each, values, rules, 0)


@pytest.mark.parametrize("canvas", CANVASES)
@pytest.mark.parametrize("strategy", list(STRATEGIES))
def test_rows_have_constraints_of_their_own(canvas: str, strategy: str) -> None:
    rows: list[dict[str, Any]] = [
        {"required": ["new york", "red"], "length": (4, 6)},
        {"banned": ["a", "the", "new", "play", "playing"]},
        {"known": {2: "doctor"}, "length": 5},
        {},
    ]
    names = ("required", "banned", "known", "length")
    rules = rules_of(4, **{name: [row.get(name) for row in rows] for name in names})
    vectors = some_vectors(4)
    config = DecodeConfig(strategy=strategy, passes=3, lengths=2)
    drafts = decode(DENOISERS[canvas], vectors, config, rules=rules)
    for i, draft in enumerate(drafts):
        check(draft, rows[i], rules, i)
        alone = decode(DENOISERS[canvas], vectors[i : i + 1], config, rules=rules.part(slice(i, i + 1)))[0]
        assert alone.ids == draft.ids
    assert drafts[3].ids == decode(DENOISERS[canvas], vectors, config)[3].ids


@pytest.mark.parametrize("canvas", CANVASES)
@pytest.mark.parametrize("strategy", list(STRATEGIES))
def test_no_constraint_changes_nothing(canvas: str, strategy: str) -> None:
    """Rules that ask for nothing leave texts, passes and confidences as they are."""
    vectors = some_vectors(5)
    for options in ({}, {"temperature": 0.7, "samples": 2}):
        config = DecodeConfig(strategy=strategy, passes=4, lengths=2, **options)
        free = decode(DENOISERS[canvas], vectors, config)
        ruled = decode(DENOISERS[canvas], vectors, config, rules=rules_of(5))
        assert [(d.ids, d.passes, d.spent) for d in free] == [(d.ids, d.passes, d.spent) for d in ruled]
        for one, two in zip(free, ruled, strict=True):
            assert one.token_confidence == pytest.approx(two.token_confidence, rel=1e-5)
            assert not any((*one.given, *one.forced))


@pytest.mark.parametrize("canvas", CANVASES)
@pytest.mark.parametrize("strategy", ["euler-remask", "remdm", "two-stage", "draft-correct"])
def test_known_and_required_tokens_are_never_opened_again(canvas: str, strategy: str) -> None:
    rules = rules_of(2, known={1: "doctor"}, required=["red", "new york"])
    config = DecodeConfig(strategy=strategy, passes=6, remask=0.9, remask_rate=1.0, lengths=1)
    for draft in decode(DENOISERS[canvas], some_vectors(2), config, rules=rules, trace=True):
        assert draft.trace is not None
        fixed = {i for i in range(draft.length) if draft.given[i] or draft.forced[i]}
        assert len(fixed) == 4
        for step in draft.trace.steps:
            assert not fixed & set(step.remasked)
            assert len(step.ids) < 2 or step.ids[1] == IDS["doctor"]


def test_a_banned_word_is_found_however_it_is_spelt() -> None:
    play, ing = IDS["play"], IDS["##ing"]
    patterns = rules_of(banned=["playing"]).banned[0]
    assert set(LEXICON.completing([play, -1], 1, patterns)[0]) == {ing, IDS["playing"]}
    assert set(LEXICON.completing([IDS["red"], -1], 1, patterns)[0]) == {IDS["playing"]}
    assert LEXICON.completing([-1, ing], 0, patterns)[0] == [play]
    assert LEXICON.holds([play, ing], patterns) == " playing"
    assert LEXICON.holds([play, ing, IDS["##s"]], patterns) is None  # "playings" is another word
    assert LEXICON.holds([play, IDS["red"]], patterns) is None


def test_a_word_that_begins_like_a_banned_one_may_stand_where_it_is_continued() -> None:
    patterns = rules_of(banned=["un"]).banned[0]
    un, able = IDS["un"], IDS["##able"]
    assert LEXICON.completing([-1, able], 0, patterns) == ([], False)
    assert LEXICON.completing([-1, -1], 0, patterns) == ([un], False)
    assert LEXICON.completing([un, -1], 1, patterns) == ([un], True)  # only a continuation may follow
    rules = rules_of(banned=["un"], required=["unable"])
    for strategy in STRATEGIES:
        draft = decode(DENOISERS["length"], some_vectors(1), DecodeConfig(strategy=strategy, passes=3), rules=rules)[0]
        assert count_word(text_of(draft), "unable") >= 1 and count_word(text_of(draft), "un") == 0


def test_phrases_are_banned_as_a_whole() -> None:
    patterns = rules_of(banned=["new york"]).banned[0]
    new, york = IDS["new"], IDS["york"]
    assert LEXICON.completing([new, -1], 1, patterns) == ([york], False)
    assert LEXICON.completing([IDS["red"], -1], 1, patterns) == ([], False)
    assert LEXICON.completing([-1, york, IDS["##s"]], 0, patterns) == ([], False)
    for strategy in STRATEGIES:
        rules = rules_of(banned=["new york"], known={1: "new"}, length=4)
        draft = decode(DENOISERS["length"], some_vectors(1), DecodeConfig(strategy=strategy), rules=rules)[0]
        assert draft.ids[1] == new and draft.ids[2] != york


def test_a_required_word_that_is_known_takes_no_more_room() -> None:
    rules = rules_of(known={0: "doctor"}, required=["doctor"], length=1)
    assert rules.required == ((),)
    twice = rules_of(known={0: "doctor"}, required=["doctor", "doctor"], length=(1, 2))
    assert twice.required == (((IDS["doctor"],),),)
    draft = decode(DENOISERS["length"], some_vectors(1), DecodeConfig(), rules=twice)[0]
    assert draft.ids == (IDS["doctor"],) * 2
    assert draft.given == (True, False) and draft.forced == (False, True)


def test_only_lengths_of_the_range_are_tried() -> None:
    config = DecodeConfig(strategy="confidence", passes=2, lengths=8)
    draft = decode(DENOISERS["length"], some_vectors(1), config, rules=rules_of(length=(3, 5)))[0]
    assert {each.length for each in (draft, *draft.alternatives)} == {3, 4, 5}


def test_known_tokens_count_in_a_beam() -> None:
    """A beam ranks hypotheses by how well they explain what is known; greedy decoding cannot."""
    denoiser, vectors = DENOISERS["length"], some_vectors(6)
    rules = rules_of(6, known={3: "doctor"}, length=5)
    narrow, wide = (
        decode(denoiser, vectors, DecodeConfig(strategy="left-to-right", beam=beam), rules=rules) for beam in (1, 6)
    )
    gains = [w.log_likelihood - g.log_likelihood for w, g in zip(wide, narrow, strict=True)]
    assert sum(gains) > 0 and sum(gain < -1e-4 for gain in gains) <= 1


def test_a_stream_keeps_constraints_too() -> None:
    rules = rules_of(required=["new york"], banned=["red"], length=(4, 6))
    steps = list(stream(DENOISERS["length"], some_vectors(1)[0], DecodeConfig(passes=2), rules=rules))
    text = TOKENIZER.decode(steps[-1].ids)
    assert steps[-1].final and count_word(text, "new york") and not count_word(text, "red")


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"length": (5, 3)}, "holds no length from 1 to 8"),
        ({"length": (9, 12)}, "holds no length from 1 to 8"),
        ({"prefix": "new york city", "length": (1, 2)}, "takes the positions 0 to 2"),
        ({"known": {8: "red"}}, "takes the positions 8 to 8"),
        ({"known": {-1: "red"}}, "of a known word is not a whole number from 0"),
        ({"prefix": "new", "known": {0: "red"}}, "differ at position 0"),
        ({"prefix": "new york", "given": [[IDS["new"], IDS["red"]]]}, "differ at position 1"),
        ({"required": ["red"], "banned": ["red"]}, "'red' is in the required 'red'"),
        ({"required": ["new york"], "banned": ["york"]}, "'york' is in the required"),
        ({"prefix": "new york", "banned": ["new york"]}, "is in the known tokens"),
        ({"required": ["new york city"], "length": (1, 2)}, "find no room"),
        ({"required": ["new york"], "known": {1: "a", 3: "a"}, "length": 5}, "find no room"),
        ({"required": ["zebra"]}, "does not know"),
        ({"required": [""]}, "is empty or holds"),
        ({"required": "red"}, "cannot be read for 1 vectors"),
        ({"banned": [["red"], ["blue"]]}, "cannot be read for 1 vectors"),
        ({"given": [[IDS["play"], IDS["##s"]]], "known": {0: "play"}}, "is continued by the token after it"),
    ],
)
def test_contradictions_are_told_in_two_sentences(values: dict[str, Any], what: str) -> None:
    with pytest.raises(InputError) as caught:
        rules_of(**values)
    assert what in caught.value.what
    assert caught.value.what.endswith(".") and caught.value.do.endswith(".")
    assert ". " not in caught.value.what and ". " not in caught.value.do


def test_numbers_of_numpy_are_numbers() -> None:
    rules = rules_of(2, length=np.array([3, 5]), known={np.int64(1): "red"}, given=np.full((2, 3), -1))
    assert rules.least.tolist() == rules.most.tolist() == [3, 5]
    assert rules.given[:, 1].tolist() == [IDS["red"]] * 2


def test_words_of_a_tokenizer_that_marks_spaces() -> None:
    """Byte-level BPE: a word inside a text holds the space before it, a word at the beginning does not."""
    model = tokenizers.Tokenizer(tokenizers.models.BPE())
    model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=280, initial_alphabet=alphabet, show_progress=False)
    model.train_from_iterator(["the red town is a red town"] * 3, trainer)
    bpe = Tokenizer.from_json(model.to_str())
    rules = Constraints(required=["red town"], banned=["is"]).compile(bpe, 1, LIMIT)
    assert bpe.decode(rules.required[0][0]) == "red town" and rules.banned == ((" is",),)
    i, s = bpe.encode(["i"])[0][0], bpe.encode(["s"])[0][0]
    assert rules.lexicon.holds([i, s], rules.banned[0]) == " is"
    assert s in rules.lexicon.completing([i, -1], 1, rules.banned[0])[0]
    assert rules.lexicon.holds([bpe.encode(["x"])[0][0], i, s], rules.banned[0]) is None  # "xis"


def test_rules_of_other_vectors_are_refused() -> None:
    with pytest.raises(InputError, match="do not fit 3 vectors"):
        decode(DENOISERS["length"], some_vectors(3), rules=rules_of(2))


@given(st.lists(st.integers(0, 5), max_size=4), st.lists(st.integers(1, 4), max_size=4))
def test_words_fit_where_a_search_finds_places(runs: list[int], sizes: list[int]) -> None:
    def search(left: list[int], words: list[int]) -> bool:
        if not words:
            return True
        return any(
            left[i] >= words[0] and search([*left[:i], left[i] - words[0], *left[i + 1 :]], words[1:])
            for i in range(len(left))
        )

    assert fits(runs, sizes) == search(runs, sizes)


def test_known_lengths_must_leave_room() -> None:
    with pytest.raises(InputError, match="other constraints allow"):
        decode(
            DENOISERS["length"],
            some_vectors(1),
            rules=rules_of(required=["new york"]),
            known_lengths=torch.tensor([1]),
        )


def test_the_prior_strategy_keeps_tokens_and_lengths_and_refuses_words() -> None:
    denoiser = DENOISERS["length"]
    config = DecodeConfig(strategy="prior")
    for words in ({"required": ["red"]}, {"banned": ["red"]}, {"known": {1: "red"}}):
        with pytest.raises(InputError, match="but no other constraints"):
            decode(denoiser, some_vectors(1), config, rules=rules_of(**words))
