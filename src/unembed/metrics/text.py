"""Text metrics over token ids, each under one name.

A prediction and a reference are sequences of token ids without special tokens. Two quantities that the paper
(arXiv 2602.11047) calls by one name are two functions here:

- `token_accuracy`: after decoding from all masks, position by position over the reference's tokens, missing tokens
  wrong, micro-averaged.
- `masked_token_accuracy`: teacher forced, over the masked positions of a partly visible text; reported with its rate.

Beside them: `token_f1` (multiset), `exact_match`, `edit_similarity` (1 - Levenshtein / longer length), `rouge_l` (F1 of
the longest common subsequence), `length_error` (mean absolute difference in tokens), all over token ids, and `bleu`,
`sentence_bleu` over strings. `text_statistics` returns them all as `Statistic`, for bins and bootstrap.

BLEU is on sacrebleu's 0 to 100 scale; all others but `length_error` are in [0, 1].
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from unembed.errors import InputError
from unembed.metrics.bootstrap import Statistic

Ids = Sequence[int]
_PAD_A, _PAD_B = -1, -2  # never equal to each other, so padding never matches padding


def _check(preds: Sequence[Any], refs: Sequence[Any]) -> None:
    if len(preds) != len(refs) or not len(refs):
        raise InputError(
            f"{len(preds)} predictions cannot be scored against {len(refs)} references.",
            "Pass one prediction for each reference, and at least one pair.",
        )


def _padded(rows: Sequence[Ids], width: int, pad: int) -> np.ndarray:
    out = np.full((len(rows), width), pad, dtype=np.int64)
    for i, row in enumerate(rows):
        out[i, : len(row)] = row
    return out


def _lengths(rows: Sequence[Ids]) -> np.ndarray:
    return np.array([len(row) for row in rows], dtype=np.int64)


def edit_distance(preds: Sequence[Ids], refs: Sequence[Ids], substitution: int = 1) -> np.ndarray:
    """Levenshtein distance of each pair, vectorised over pairs: (n,) int64.

    One row of the table at a time, for all pairs together; the dependence on the cell to the left is a running minimum:
    D[j] = j + min over k <= j of (candidate[k] - k).

    Args:
        preds: n sequences of ids.
        refs: n sequences of ids.
        substitution: cost of a replacement; 2 makes it a deletion and an insertion, so that
            (len a + len b - distance) / 2 is the length of the longest common subsequence.
    """
    _check(preds, refs)
    pred_lengths, ref_lengths = _lengths(preds), _lengths(refs)
    width, height = int(ref_lengths.max()), int(pred_lengths.max())
    a, b = _padded(preds, height, _PAD_A), _padded(refs, width, _PAD_B)
    column = np.arange(width + 1, dtype=np.int64)
    row = np.broadcast_to(column, (len(preds), width + 1)).copy()
    result = np.where(pred_lengths == 0, ref_lengths, 0)
    for i in range(height):
        candidate = row + 1  # delete a[i]
        replaced = row[:, :-1] + np.where(a[:, i, None] == b, 0, substitution)
        np.minimum(candidate[:, 1:], replaced, out=candidate[:, 1:])
        row = np.minimum.accumulate(candidate - column, axis=1) + column  # insert b[j]
        done = pred_lengths == i + 1
        result[done] = row[done, ref_lengths[done]]
    return result


def _token_accuracy(preds: Sequence[Ids], refs: Sequence[Ids]) -> Statistic:
    rows = [
        (sum(int(p) == int(r) for p, r in zip(pred, ref, strict=False)), len(ref))
        for pred, ref in zip(preds, refs, strict=True)
    ]
    return Statistic(np.array(rows, dtype=np.float64))


def _token_f1(preds: Sequence[Ids], refs: Sequence[Ids]) -> Statistic:
    values = []
    for pred, ref in zip(preds, refs, strict=True):
        overlap = (Counter(map(int, pred)) & Counter(map(int, ref))).total()
        values.append(2 * overlap / (len(pred) + len(ref)) if len(pred) + len(ref) else 1.0)
    return Statistic.mean(values)


def _exact_match(preds: Sequence[Ids], refs: Sequence[Ids]) -> Statistic:
    return Statistic.mean([list(map(int, p)) == list(map(int, r)) for p, r in zip(preds, refs, strict=True)])


def _edit_similarity(preds: Sequence[Ids], refs: Sequence[Ids]) -> Statistic:
    longer = np.maximum(_lengths(preds), _lengths(refs))
    return Statistic.mean(1 - edit_distance(preds, refs) / np.maximum(longer, 1))


def _rouge_l(preds: Sequence[Ids], refs: Sequence[Ids]) -> Statistic:
    both = _lengths(preds) + _lengths(refs)
    common = both - edit_distance(preds, refs, substitution=2)  # twice the longest common subsequence
    return Statistic.mean(np.where(both == 0, 1.0, common / np.maximum(both, 1)))


def _length_error(preds: Sequence[Ids], refs: Sequence[Ids]) -> Statistic:
    return Statistic.mean(np.abs(_lengths(preds) - _lengths(refs)))


ID_METRICS: dict[str, Callable[[Sequence[Ids], Sequence[Ids]], Statistic]] = {
    "token_accuracy": _token_accuracy,
    "token_f1": _token_f1,
    "exact_match": _exact_match,
    "edit_similarity": _edit_similarity,
    "rouge_l": _rouge_l,
    "length_error": _length_error,
}


def id_statistics(preds: Sequence[Ids], refs: Sequence[Ids]) -> dict[str, Statistic]:
    """Every metric over token ids, by name, as a `Statistic` over the texts."""
    _check(preds, refs)
    return {name: metric(preds, refs) for name, metric in ID_METRICS.items()}


def token_accuracy(preds: Sequence[Ids], refs: Sequence[Ids]) -> float:
    """Share of the references' tokens found at their own position, over all texts (micro); missing ones are wrong.

    `preds` are texts decoded from all masks. For the teacher-forced quantity see `masked_token_accuracy`.
    """
    _check(preds, refs)
    return _token_accuracy(preds, refs).value


def token_f1(preds: Sequence[Ids], refs: Sequence[Ids]) -> float:
    """Mean over texts of the F1 of the two multisets of tokens: 2 |p and r| / (|p| + |r|)."""
    _check(preds, refs)
    return _token_f1(preds, refs).value


def exact_match(preds: Sequence[Ids], refs: Sequence[Ids]) -> float:
    """Share of texts whose token ids equal the reference's, all of them, in order."""
    _check(preds, refs)
    return _exact_match(preds, refs).value


def edit_similarity(preds: Sequence[Ids], refs: Sequence[Ids]) -> float:
    """Mean over texts of 1 - Levenshtein distance / length of the longer one."""
    _check(preds, refs)
    return _edit_similarity(preds, refs).value


def rouge_l(preds: Sequence[Ids], refs: Sequence[Ids]) -> float:
    """Mean F1 of the longest common subsequence of token ids (Lin 2004, beta = 1)."""
    _check(preds, refs)
    return _rouge_l(preds, refs).value


def length_error(preds: Sequence[Ids], refs: Sequence[Ids]) -> float:
    """Mean absolute difference of the lengths, in tokens."""
    _check(preds, refs)
    return _length_error(preds, refs).value


def masked_token_accuracy(predicted: np.ndarray, truth: np.ndarray, masked: np.ndarray) -> float:
    """Share of the MASKED tokens that are predicted right when the other tokens are visible (teacher forced).

    This is what the paper's 76 to 81% are. Report it as `masked_token_accuracy@rate`, never beside `token_accuracy`
    without the rate. Arguments as in `masked_token_statistic`.
    """
    return masked_token_statistic(predicted, truth, masked).value


def masked_token_statistic(predicted: np.ndarray, truth: np.ndarray, masked: np.ndarray) -> Statistic:
    """Return `masked_token_accuracy` as a statistic over texts (micro over tokens).

    Args:
        predicted: (B, n) token ids, read at the masked positions only.
        truth: (B, n) token ids.
        masked: (B, n) bool, the positions that were masked.

    Raises:
        InputError: the shapes differ.
    """
    predicted, truth, masked = np.asarray(predicted), np.asarray(truth), np.asarray(masked, dtype=bool)
    if not predicted.shape == truth.shape == masked.shape or predicted.ndim != 2:
        raise InputError(
            f"Shapes {predicted.shape}, {truth.shape} and {masked.shape} do not belong together.",
            "Pass three arrays of shape (texts, positions).",
        )
    right = ((predicted == truth) & masked).sum(axis=1)
    return Statistic(np.stack([right, masked.sum(axis=1)], axis=1).astype(np.float64))


def _sacrebleu() -> Any:
    try:
        from sacrebleu.metrics.bleu import BLEU
    except ImportError as error:
        raise InputError(
            "BLEU needs the package sacrebleu, which is not installed.", "Run: pip install sacrebleu."
        ) from error
    return BLEU


def bleu_signature() -> str:
    """The sacrebleu signature of `bleu`: references, case, tokenizer, smoothing, version."""
    scorer = _sacrebleu()(lowercase=True)
    scorer.corpus_score(["a"], [["a"]])
    return str(scorer.get_signature())


def _corpus_bleu(totals: np.ndarray) -> np.ndarray:
    """Corpus BLEU (Papineni 2002) with sacrebleu's exponential smoothing.

    Args:
        totals: (..., 10): 4 n-gram matches, 4 n-gram counts, prediction length, reference length; sums over texts.
    """
    matches, counts = totals[..., :4], totals[..., 4:8]
    pred_length, ref_length = totals[..., 8], totals[..., 9]
    smoothing = 2.0 ** np.cumsum((matches == 0) & (counts > 0), axis=-1)  # 1/2, 1/4, ... for each order without a match
    precision = np.where(matches > 0, matches, 1.0 / smoothing) / np.maximum(counts, 1)
    with np.errstate(divide="ignore", over="ignore"):
        brevity = np.where(pred_length < ref_length, np.exp(1 - ref_length / np.maximum(pred_length, 1e-9)), 1.0)
    value = 100 * brevity * np.exp(np.log(precision).mean(axis=-1))
    return np.where((counts > 0).all(axis=-1) & (matches.sum(axis=-1) > 0), value, 0.0)


def bleu_statistics(preds: Sequence[str], refs: Sequence[str]) -> dict[str, Statistic]:
    """`bleu` (corpus) and `sentence_bleu` (mean over texts) as statistics over the texts."""
    _check(preds, refs)
    scorer = _sacrebleu()(lowercase=True, effective_order=True)
    rows, scores = [], []
    for pred, ref in zip(preds, refs, strict=True):
        score = scorer.sentence_score(pred, [ref])
        rows.append([*score.counts, *score.totals, score.sys_len, score.ref_len])
        scores.append(score.score)
    sentence = Statistic.mean(scores)
    corpus = Statistic(np.array(rows, dtype=np.float64), _corpus_bleu, sentence.per_text)
    return {"bleu": corpus, "sentence_bleu": sentence}


def bleu(preds: Sequence[str], refs: Sequence[str]) -> float:
    """Corpus BLEU of strings, 0 to 100: sacrebleu, one reference, lower case, tok:13a, smooth:exp (`bleu_signature`).

    The strings are the display texts (`Tokenizer.detokenize`), so that "don't" is one word in both.
    """
    return bleu_statistics(preds, refs)["bleu"].value


def sentence_bleu(preds: Sequence[str], refs: Sequence[str]) -> float:
    """Mean sentence BLEU (what Vec2Text reports), same signature but eff:yes for texts of fewer than four words."""
    return bleu_statistics(preds, refs)["sentence_bleu"].value


def text_statistics(
    preds: Sequence[Ids], refs: Sequence[Ids], display: Callable[[Sequence[int]], str] | None = None
) -> dict[str, Statistic]:
    """Every text metric, by name.

    Args:
        preds: n predictions, token ids.
        refs: n references, token ids.
        display: ids to display text, for BLEU; without it BLEU is left out.
    """
    found = id_statistics(preds, refs)
    if display is not None:
        texts = [display([int(i) for i in ids]) for ids in preds], [display([int(i) for i in ids]) for ids in refs]
        found |= bleu_statistics(*texts)
    return found
