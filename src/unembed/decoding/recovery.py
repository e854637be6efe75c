"""What comes back for a vector, and how drafts become it.

Contents: `Recovery`, `recoveries`, `asked`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from unembed.data.tokenization import Tokenizer
from unembed.decoding.confidence import Calibration, features_of
from unembed.decoding.trace import Draft, Trace


@dataclass(frozen=True)
class Recovery:
    """One recovered text.

    Attributes:
        text: for display ("don't", "check-out").
        confidence: the token_f1 that is expected on texts like the validation texts; without a calibration for the
            strategy the mean of `token_confidence`, and `p_exact` is None.
        p_exact: probability that every token is right, calibrated; None without a calibration.
        token_ids: ids without special tokens.
        tokens: the same as vocabulary entries ("##ing").
        token_confidence: probability of each token when it was committed (for the strategy prior, that it occurs
            anywhere in the text); 1 for given tokens.
        length: number of tokens.
        passes: denoiser passes spent on this text, those of its alternatives included.
        queries: texts sent to the encoder for this text; 0 without refinement.
        score: what the draft was chosen by; with queries the cosine.
        alternatives: the other drafts, best first, without repetition; they have no alternatives of their own.
        trace: the steps of the decode, where asked for.
        original: the text that was embedded (`invert_strings`), else None.
        given: which tokens were known beforehand (given tokens, prefix, known words).
        forced: which tokens belong to required words.
        cosine: of the text's vector to the target, at the target's precision; None where the encoder was not asked.
        met: whether the text's vector is the target's, up to the tolerance.
    """

    text: str
    confidence: float
    p_exact: float | None
    token_ids: tuple[int, ...]
    tokens: tuple[str, ...]
    token_confidence: tuple[float, ...]
    length: int
    passes: int
    queries: int = 0
    score: float = 0.0
    alternatives: tuple[Recovery, ...] = ()
    trace: Trace | None = None
    original: str | None = None
    given: tuple[bool, ...] = ()
    forced: tuple[bool, ...] = ()
    cosine: float | None = None
    met: bool = False


def recoveries(drafts: list[Draft], tokenizer: Tokenizer, calibration: Calibration | None) -> list[Recovery]:
    """Turn drafts into texts with their confidence.

    Args:
        drafts: one a text, with their alternatives.
        tokenizer: between ids and texts.
        calibration: of the strategy's confidence, or None.
    """
    confidence = np.array([_mean(draft.token_confidence) for draft in drafts])
    p_exact: list[float | None] = [None] * len(drafts)
    if calibration is not None and drafts:
        confidence, exact = calibration.apply(features_of(drafts))
        p_exact = exact.tolist()
    return [_recovery(draft, tokenizer, float(confidence[i]), p_exact[i]) for i, draft in enumerate(drafts)]


def asked(recovery: Recovery, cosine: float | None, queries: int, met: bool) -> Recovery:
    """Add what the encoder said of a text and of its alternatives.

    No calibration knows of queries: `confidence` is the mean probability of the tokens, but 1, and `p_exact` too, where
    the vector is met.

    Args:
        recovery: without a calibration.
        cosine: to the target; None where nothing was asked.
        queries: texts sent.
        met: whether the vector is met.
    """
    if cosine is None:
        return replace(recovery, queries=queries)
    others = tuple(replace(other, cosine=other.score) for other in recovery.alternatives)
    found = replace(recovery, cosine=cosine, queries=queries, met=met, alternatives=others)
    return replace(found, confidence=1.0, p_exact=1.0) if met else found


def _recovery(draft: Draft, tokenizer: Tokenizer, confidence: float, p_exact: float | None) -> Recovery:
    others: dict[tuple[int, ...], Draft] = {}
    for other in draft.alternatives:
        if other.ids != draft.ids:
            others.setdefault(other.ids, other)
    return Recovery(
        text=tokenizer.detokenize(draft.ids),
        confidence=confidence,
        p_exact=p_exact,
        token_ids=draft.ids,
        tokens=tuple(tokenizer.tokens(draft.ids)),
        token_confidence=draft.token_confidence,
        length=draft.length,
        passes=draft.spent,
        score=draft.score,
        alternatives=tuple(
            _recovery(other, tokenizer, _mean(other.token_confidence), None) for other in others.values()
        ),
        trace=draft.trace,
        given=draft.given,
        forced=draft.forced,
    )


def _mean(probabilities: tuple[float, ...]) -> float:
    """The mean; 1 for an empty text."""
    return math.fsum(probabilities) / len(probabilities) if probabilities else 1.0
