"""What comes back for a vector, and how drafts become it.

Contents: `Recovery`, `recoveries`, `asked`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from unembed.data.tokenization import Tokenizer
from unembed.decoding.confidence import Calibration, features_of
from unembed.decoding.trace import Draft, Trace
from unembed.priors.fit_score import Judged

_SHOWN = 60


@dataclass(frozen=True)
class Recovery:
    """One recovered text.

    Attributes:
        text: for display ("don't", "check-out").
        confidence: the token_f1 that is expected, calibrated on validation texts and lowered by what `fit` says; None
            where nothing is calibrated: other strategies, and texts that the encoder was asked about.
        p_exact: probability that every token is right, calibrated and lowered likewise; None where `confidence` is.
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
        matched: whether the text's vector is the target's, up to the tolerance.
        fit: share of held-out texts whose vectors look as unusual as this one or more; None where the checkpoint has no
            statistics of them (`priors.fit_score`).
        misfit: what a vector whose fit is below 0.01 looks like: "vector" (not this encoder's, or damaged), "long" (a
            text longer than those learnt from) or "language" (another one); else None.
    """

    text: str
    confidence: float | None
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
    matched: bool = False
    fit: float | None = None
    misfit: str | None = None

    def __repr__(self) -> str:
        """The beginning of the text, and the numbers that say how far to trust it."""
        text = self.text if len(self.text) <= _SHOWN else self.text[: _SHOWN - 3] + "..."
        numbers = {"confidence": self.confidence, "fit": self.fit, "cosine": self.cosine}
        told = [f"{name}={value:.3f}" for name, value in numbers.items() if value is not None]
        told += [f"misfit={self.misfit!r}"] if self.misfit else []
        told += [f"queries={self.queries}"] if self.queries else []
        return f"Recovery({', '.join([repr(text), *told, f'likelihood={self.likelihood:.3f}'])})"

    @property
    def likelihood(self) -> float:
        """Mean of `token_confidence`, 1 for an empty text: what the network says of its own draft, not calibrated."""
        return math.fsum(self.token_confidence) / len(self.token_confidence) if self.token_confidence else 1.0


def recoveries(
    drafts: list[Draft], tokenizer: Tokenizer, calibration: Calibration | None, judged: Judged | None = None
) -> list[Recovery]:
    """Turn drafts into texts with their confidence.

    Args:
        drafts: one per text, with their alternatives.
        tokenizer: between ids and texts.
        calibration: of the strategy's confidence, or None.
        judged: what is known of the vectors, one per text; None where nothing is.
    """
    confidence: list[float | None] = [None] * len(drafts)
    p_exact = confidence
    if calibration is not None and drafts:
        trust = 1.0 if judged is None else judged.trust
        f1, exact = calibration.apply(features_of(drafts))
        confidence, p_exact = (f1 * trust).tolist(), (exact * trust).tolist()
    found = [_recovery(draft, tokenizer, confidence[i], p_exact[i]) for i, draft in enumerate(drafts)]
    if judged is None:
        return found
    rows = zip(found, judged.fit.tolist(), judged.misfit, strict=True)
    return [replace(one, fit=fit, misfit=misfit) for one, fit, misfit in rows]


def asked(recovery: Recovery, cosine: float | None, queries: int, matched: bool) -> Recovery:
    """Add what the encoder said of a text and of its alternatives.

    No calibration knows of queries, so `confidence` and `p_exact` stay None: the cosine says how near a text is.

    Args:
        recovery: without a calibration.
        cosine: to the target; None where nothing was asked.
        queries: texts sent.
        matched: whether the vector is matched.
    """
    if cosine is None:
        return replace(recovery, queries=queries)
    others = tuple(replace(other, cosine=other.score) for other in recovery.alternatives)
    return replace(recovery, cosine=cosine, queries=queries, matched=matched, alternatives=others)


def _recovery(draft: Draft, tokenizer: Tokenizer, confidence: float | None, p_exact: float | None) -> Recovery:
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
        alternatives=tuple(_recovery(other, tokenizer, None, None) for other in others.values()),
        trace=draft.trace,
        given=draft.given,
        forced=draft.forced,
    )
