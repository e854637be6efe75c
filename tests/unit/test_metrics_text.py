"""Text metrics: hand-computed values, laws, agreement with sacrebleu and rouge-score."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unembed.errors import InputError
from unembed.metrics import text

ids = st.lists(st.integers(0, 5), max_size=9)
pairs = st.lists(st.tuples(ids, ids.filter(bool)), min_size=1, max_size=6)


def levenshtein(a, b, substitution=1):
    """Textbook recursion by rows, one pair at a time."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a):
        previous, row = row, [i + 1]
        for j, y in enumerate(b):
            row.append(min(previous[j + 1] + 1, row[j] + 1, previous[j] + (0 if x == y else substitution)))
    return row[-1]


def test_hand_computed():
    preds, refs = [[1, 2, 3], [4, 4], []], [[1, 3, 2, 5], [4, 6], [7]]
    # positions: 1 of 4, 1 of 2, 0 of 1
    assert text.token_accuracy(preds, refs) == pytest.approx(2 / 7)
    # multisets: {1,2,3} vs {1,3,2,5} -> 6/7; {4,4} vs {4,6} -> 2/4; nothing
    assert text.token_f1(preds, refs) == pytest.approx((6 / 7 + 1 / 2 + 0) / 3)
    assert text.exact_match([[1, 2], [2, 1]], [[1, 2], [1, 2]]) == 0.5
    # 1 2 3 -> 1 3 2 5: two edits after one match of three rows: insert 3, replace 3 by 5
    assert text.edit_similarity(preds, refs) == pytest.approx(((1 - 2 / 4) + (1 - 1 / 2) + 0) / 3)
    # longest common subsequences: 2 (of 3 and 4), 1 (of 2 and 2), 0
    assert text.rouge_l(preds, refs) == pytest.approx((4 / 7 + 2 / 4 + 0) / 3)
    assert text.length_error(preds, refs) == pytest.approx((1 + 0 + 1) / 3)


def test_token_accuracy_is_micro_averaged():
    # 1 of 1 and 0 of 9: the mean over texts would be 0.5
    assert text.token_accuracy([[1], [0] * 9], [[1], [2] * 9]) == pytest.approx(0.1)


def test_token_accuracy_counts_missing_tokens_as_wrong_and_ignores_extra_ones():
    assert text.token_accuracy([[1]], [[1, 2, 3, 4]]) == 0.25
    assert text.token_accuracy([[1, 2, 9, 9]], [[1, 2]]) == 1.0  # length_error shows these
    assert text.length_error([[1, 2, 9, 9]], [[1, 2]]) == 2.0


def test_token_accuracy_shifted_by_one_is_zero_but_f1_is_not():
    assert text.token_accuracy([[9, 1, 2, 3]], [[1, 2, 3, 4]]) == 0.0
    assert text.token_f1([[9, 1, 2, 3]], [[1, 2, 3, 4]]) == 0.75
    assert text.edit_similarity([[9, 1, 2, 3]], [[1, 2, 3, 4]]) == 0.5


def test_token_accuracy_is_not_masked_token_accuracy():
    """Teacher forced and decoded from all masks are two quantities with two names.

    A predictor that copies its left neighbour plus one is right at every masked position of a text whose other tokens
    are visible, but once it has to start from all masks and is wrong at the first token, it is wrong at all of them.
    """
    truth = np.array([[10, 11, 12, 13], [20, 21, 22, 23]])
    masked = np.array([[False, True, False, True], [False, False, True, False]])
    visible = truth.copy()
    teacher_forced = np.concatenate([visible[:, :1], visible[:, :-1] + 1], axis=1)
    assert text.masked_token_accuracy(teacher_forced, truth, masked) == 1.0
    decoded = [[50, 51, 52, 53], [20, 61, 62, 63]]  # from all masks: the first token is guessed
    assert text.token_accuracy(decoded, truth.tolist()) == 1 / 8
    assert "masked_token_accuracy" not in text.text_statistics(decoded, truth.tolist())


def test_masked_token_accuracy_reads_masked_positions_only():
    truth = np.array([[1, 2, 3], [4, 5, 6]])
    predicted = np.array([[1, 9, 9], [9, 9, 6]])
    masked = np.array([[True, True, False], [False, False, True]])
    assert text.masked_token_accuracy(predicted, truth, masked) == pytest.approx(2 / 3)  # micro: 1 of 2 and 1 of 1
    with pytest.raises(InputError):
        text.masked_token_accuracy(predicted, truth[:1], masked)


@settings(max_examples=60, deadline=None)
@given(pairs, st.sampled_from([1, 2]))
def test_vectorised_levenshtein_equals_the_textbook(rows, substitution):
    preds, refs = [a for a, _ in rows], [b for _, b in rows]
    expected = [levenshtein(a, b, substitution) for a, b in rows]
    assert text.edit_distance(preds, refs, substitution).tolist() == expected


@settings(max_examples=60, deadline=None)
@given(pairs)
def test_laws(rows):
    preds, refs = [a for a, _ in rows], [b for _, b in rows]
    found = text.id_statistics(preds, refs)
    for name, statistic in found.items():
        assert len(statistic) == len(rows)
        if name != "length_error":
            assert 0 <= statistic.value <= 1
            assert ((statistic.per_text >= 0) & (statistic.per_text <= 1)).all()
    perfect = {name: statistic.value for name, statistic in text.id_statistics(refs, refs).items()}
    assert perfect.pop("length_error") == 0
    assert set(perfect.values()) == {1.0}
    # order cannot help token_f1; a common subsequence is a common multiset; an exact text is right everywhere
    assert (found["rouge_l"].per_text <= found["token_f1"].per_text + 1e-12).all()
    exact = found["exact_match"].per_text == 1
    assert (found["token_accuracy"].per_text[exact] == 1).all()
    shuffled = text.id_statistics([sorted(p) for p in preds], refs)
    assert shuffled["token_f1"].value == pytest.approx(found["token_f1"].value)


@settings(max_examples=40, deadline=None)
@given(pairs)
def test_rouge_l_agrees_with_rouge_score(rows):
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rougeL"])

    def words(x):
        return " ".join(f"t{i}" for i in x)

    expected = np.mean([scorer.score(words(ref), words(pred))["rougeL"].fmeasure for pred, ref in rows])
    assert text.rouge_l([a for a, _ in rows], [b for _, b in rows]) == pytest.approx(expected)


TEXTS = [
    ("the cat sat on the mat .", "the cat sat on a mat ."),
    ("don't stop", "don't stop now"),
    ("", "nothing came back"),
    ("entirely different words here today", "no match at all whatsoever"),
    ("The Same", "the same"),
]


@pytest.mark.parametrize("chosen", [slice(0, 5), slice(0, 1), slice(1, 3), slice(2, 3), slice(3, 4), slice(4, 5)])
def test_corpus_bleu_is_sacrebleus(chosen):
    from sacrebleu.metrics import BLEU

    preds, refs = zip(*TEXTS[chosen], strict=True)
    expected = BLEU(lowercase=True).corpus_score(list(preds), [list(refs)]).score
    assert text.bleu(preds, refs) == pytest.approx(expected)
    sentence = BLEU(lowercase=True, effective_order=True)
    assert text.sentence_bleu(preds, refs) == pytest.approx(
        np.mean([sentence.sentence_score(p, [r]).score for p, r in zip(preds, refs, strict=True)])
    )


def test_bleu_signature_states_case_tokenizer_smoothing_and_version():
    parts = text.bleu_signature().split("|")
    assert {"nrefs:1", "case:lc", "eff:no", "tok:13a", "smooth:exp"} <= set(parts)
    assert parts[-1].startswith("version:")


def test_corpus_bleu_of_a_subset_equals_scoring_the_subset():
    preds, refs = zip(*TEXTS, strict=True)
    whole = text.bleu_statistics(preds, refs)["bleu"]
    assert whole.select(np.array([0, 1])).value == pytest.approx(text.bleu(preds[:2], refs[:2]))


def test_text_statistics_names_are_the_designs():
    names = set(text.text_statistics([[1, 2]], [[1, 3]], display=lambda x: " ".join(map(str, x))))
    assert names == set(
        "token_accuracy token_f1 exact_match edit_similarity rouge_l length_error bleu sentence_bleu".split()
    )


@pytest.mark.parametrize("metric", [text.token_accuracy, text.token_f1, text.rouge_l, text.edit_similarity, text.bleu])
def test_nothing_to_score_says_what_to_do(metric):
    with pytest.raises(InputError, match="at least one pair"):
        metric([], [])
    with pytest.raises(InputError, match="2 predictions"):
        metric([[1], [2]] if metric is not text.bleu else ["a", "b"], [[1]] if metric is not text.bleu else ["a"])
