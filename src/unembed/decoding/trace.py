"""What a decode leaves behind: steps, their trace, and drafts.

Contents: `Step`, `Trace`, `Draft`, `alternatives`. Plain tuples of Python numbers: they outlive the tensors and turn
into JSON as is.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Step:
    """One pass over one draft: positions were re-masked, the network ran, positions were committed.

    With `before` the masks of the step before (all free positions at first):
    masked = (before or remasked) and not chosen. In a left-to-right draft the canvas grows by the committed token.

    Attributes:
        draft: number of the draft among those of its text, 0 for the likeliest length's first sample.
        index: the step's number in its draft, from 0.
        ids: token ids of the canvas after the step; the mask id where masked.
        masked: which positions are masked after the step.
        confidences: probability of each token when it was committed; 0 where masked, 1 for given tokens.
        chosen: positions committed in this step.
        remasked: positions reopened at the beginning of this step.
        pass_count: denoiser passes of this draft so far.
        final: True for the last step of a stream: the draft that was chosen, as a whole.
        alternatives: for each position the likeliest tokens of this pass with their probabilities at temperature 1,
            best first; empty where the pass did not predict the position, and altogether where not asked for.
        preview: True for the leading hypothesis of a beam that is still growing: what is shown until the beam has ended
            and its drafts' own steps follow. No part of a trace.
    """

    draft: int
    index: int
    ids: tuple[int, ...]
    masked: tuple[bool, ...]
    confidences: tuple[float, ...]
    chosen: tuple[int, ...]
    remasked: tuple[int, ...]
    pass_count: int
    final: bool = False
    alternatives: tuple[tuple[tuple[int, float], ...], ...] = ()
    preview: bool = False


@dataclass(frozen=True)
class Trace:
    """All steps of one draft, in order."""

    steps: tuple[Step, ...]

    def __repr__(self) -> str:
        """How long it is."""
        return f"<Trace: {len(self.steps)} steps, {self.passes} passes>"

    @property
    def passes(self) -> int:
        """Denoiser passes of the draft."""
        return self.steps[-1].pass_count if self.steps else 0


@dataclass(frozen=True)
class Draft:
    """A full text hypothesis.

    Attributes:
        ids: token ids, without the end token.
        token_confidence: probability of each token when it was committed, at temperature 1; 1 for given tokens. In
            draft-correct a token that was kept has its probability given the other half of the draft.
        log_likelihood: log-likelihood that the score uses, the end token included, given
            tokens left out; nats.
        log_prior_length: log p(n | vector) of the length head; 0 where the canvas learns the end.
        length: number of tokens.
        passes: denoiser passes of this draft.
        spent: denoiser passes of all drafts of this text, pruned ones included.
        score: what the choice is made by: the weighted sum of the two above, or the mean token F1 to the others.
        alternatives: the other drafts of the text, best first.
        trace: the steps, where asked for.
        given: which tokens were known beforehand.
        forced: which tokens belong to required words.
    """

    ids: tuple[int, ...]
    token_confidence: tuple[float, ...]
    log_likelihood: float
    log_prior_length: float
    length: int
    passes: int
    spent: int
    score: float
    alternatives: tuple[Draft, ...] = ()
    trace: Trace | None = field(default=None, compare=False)
    given: tuple[bool, ...] = ()
    forced: tuple[bool, ...] = ()


def alternatives(tokens: Tensor, probabilities: Tensor) -> tuple[tuple[tuple[int, float], ...], ...]:
    """Pairs of token and probability of each position for `Step.alternatives`; tensors (n, K), 0 is left out."""
    rows = zip(tokens.tolist(), probabilities.tolist(), strict=True)
    return tuple(tuple((i, p) for i, p in zip(ids, shares, strict=True) if p > 0) for ids, shares in rows)
