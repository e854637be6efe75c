"""One streaming pass over tokens and vectors fits every part of the model that needs no gradient.

What is here:
    ClosedForm       whitening, token prior, position prior and length head together
    fit_closed_form  the pass: memory does not depend on the size of the corpus
    prior_decode     the baseline inverter that every network has to beat: these parts alone

Class sums are linear, so they are collected in the encoder's own space and whitened once at the end.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from unembed.errors import DataError
from unembed.model.class_sums import ClassSums, PositionSums, distinct_tokens
from unembed.model.length import LengthHead
from unembed.model.prior import SHRINK, PositionPrior, TokenPrior
from unembed.model.whitening import Moments, Whitening

Batch = tuple[Tensor, Tensor, Tensor]


class ClosedForm(nn.Module):
    """The closed-form parts of a model, as one module (one `state_dict`).

    Args:
        vocab_size: V.
        dim: dimension d of the vectors.
        limit: longest text, in tokens.
        positions: whether there is a position prior; `position_prior` is None otherwise.
    """

    def __init__(self, vocab_size: int, dim: int, limit: int, positions: bool = True) -> None:
        super().__init__()
        self.vocab_size, self.dim, self.limit = vocab_size, dim, limit
        self.whitening = Whitening(dim)
        self.token_prior = TokenPrior(vocab_size, dim)
        self.position_prior = PositionPrior(limit, dim, vocab_size) if positions else None
        self.length_head = LengthHead(dim, limit)


class _Fitter:
    """What the pass has collected so far."""

    def __init__(self, vocab_size: int, limit: int, dim: int, shift: Tensor, positions: bool, warmup: int) -> None:
        self.vocab_size, self.limit, self.dim, self.shift = vocab_size, limit, dim, shift
        self.moments = Moments(dim)
        self.tokens = ClassSums(vocab_size, dim)
        self.by_length = ClassSums(limit, dim)
        self.positions = PositionSums(vocab_size, limit, dim, warmup=warmup) if positions else None

    def update(self, ids: Tensor, lengths: Tensor, vectors: Tensor) -> None:
        low, high = int(lengths.min()), int(lengths.max())
        if low < 1 or high > self.limit:
            raise DataError(
                f"There are texts of {low} to {high} tokens.",
                f"Give texts of 1 to {self.limit} tokens, cut the longer.",
            )
        self.moments.update(vectors)
        centred = vectors - self.shift
        inside = torch.arange(ids.shape[1]) < lengths[:, None]
        self.tokens.add(centred, *distinct_tokens(ids, inside))
        self.by_length.add(centred, torch.arange(len(lengths)), lengths - 1)
        if self.positions is not None:
            self.positions.add(centred, ids, lengths)

    def finish(self, shrink: float, weight: float, whitening_shrink: float) -> ClosedForm:
        result = ClosedForm(self.vocab_size, self.dim, self.limit, self.positions is not None)
        whitening = result.whitening = Whitening.fit(self.moments, whitening_shrink)
        matrix, offset = whitening.matrix, whitening.mean - self.shift
        result.token_prior = TokenPrior.from_sums(
            self.tokens.mapped(offset, matrix), self.tokens.counts, self.moments.count, shrink, weight
        )
        spread = matrix.double() @ self.moments.covariance @ matrix.double()
        result.length_head = LengthHead.from_sums(self.by_length.mapped(offset, matrix), self.by_length.counts, spread)
        if self.positions is not None:
            result.position_prior = PositionPrior.from_sums(*self.positions.finish(offset, matrix))
        return result


def fit_closed_form(
    batches: Iterable[Batch],
    vocab_size: int,
    limit: int,
    *,
    positions: bool = True,
    shrink: float = SHRINK,
    weight: float = 0.5,
    whitening_shrink: float = 1e-3,
    warmup: int = 50_000,
) -> ClosedForm:
    """Fit whitening, priors and the length head in one pass.

    Args:
        batches: (ids (B, <= limit) int64 padded, lengths (B,) int64, vectors (B, d) as the encoder made them). Batches
            of some thousand rows are fastest.
        vocab_size: V.
        limit: longest text, in tokens.
        positions: fit the position prior too (150 MB of sums at the size of MiniLM).
        shrink: pseudo-count of the token prior's means.
        weight: weight of the Gaussian part of the token prior.
        whitening_shrink: see `Whitening.fit`.
        warmup: texts that are held back to choose the classes of the position prior; they should be a fair sample.

    Returns:
        The fitted parts, on the CPU.

    Raises:
        DataError: no text at all, or a length outside 1..limit.
    """
    fitter: _Fitter | None = None
    for ids, lengths, vectors in batches:
        if not len(lengths):
            continue
        vectors = vectors.float()
        if fitter is None:
            fitter = _Fitter(vocab_size, limit, vectors.shape[1], vectors.mean(0), positions, warmup)
        fitter.update(ids.long(), lengths.long(), vectors)
    if fitter is None:
        raise DataError("There is nothing to fit the priors on.", "Give at least one batch of texts and vectors.")
    return fitter.finish(shrink, weight, whitening_shrink)


@torch.no_grad()
def prior_decode(
    parts: ClosedForm,
    vectors: Tensor,
    lengths: Tensor | None = None,
    *,
    token_weight: float = 0.4,
    explain: float = 0.15,
    repeat: float = 1.0,
    shortlist: int = 64,
) -> list[list[int]]:
    """Read texts off the closed-form parts alone, with no network.

    Each position scores its tokens by the position prior plus `token_weight` times the token prior's Gaussian part. The
    surest (position, token) is placed first. A placed token has explained its evidence: elsewhere it falls back on its
    frequency, less `repeat` nats, and tokens whose means point the same way lose a part of theirs.

    Args:
        parts: from `fit_closed_form`.
        vectors: (B, d) as the encoder made them.
        lengths: (B,) if known; otherwise the most likely ones.
        token_weight: weight of the token prior's z . m - 1/2 |m|^2.
        explain: a placed token w costs every other token u `explain` m_w . m_u nats.
        repeat: nats that a second use of a token costs.
        shortlist: candidates kept at each position.

    Returns:
        Token ids of each text.

    Raises:
        DataError: the parts have no position prior.
    """
    if parts.position_prior is None:
        raise DataError("These closed-form parts have no position prior.", "Fit them with positions=True.")
    z = parts.whitening(vectors)
    if lengths is None:
        lengths = parts.length_head.log_probs(z).argmax(1) + 1
    presence = parts.token_prior.scores(z, frequency=False) * (token_weight / float(parts.token_prior.weight))
    texts = []
    for b in range(len(z)):
        start = torch.arange(int(lengths[b]))
        end = start.flip(0)
        evidence = parts.position_prior.log_odds(z[b].expand(len(start), -1), start, end) + presence[b]
        scores = (evidence + parts.position_prior.log_frequencies(start, end)).log_softmax(dim=1)
        scores, tokens = scores.topk(min(shortlist, scores.shape[1]), dim=1)
        explained = evidence.gather(1, tokens).clamp(min=0) + repeat
        texts.append(_place(scores, tokens, explained, parts.token_prior, explain))
    return texts


def _place(scores: Tensor, tokens: Tensor, explained: Tensor, prior: TokenPrior, explain: float) -> list[int]:
    """Fill n positions from their candidates (n, K), the surest first."""
    distinct, number = tokens.unique(return_inverse=True)
    means = prior.means(distinct)
    out = [0] * len(tokens)
    used: set[int] = set()
    for _ in out:
        place, column = divmod(int(scores.argmax()), scores.shape[1])
        token = out[place] = int(tokens[place, column])
        which = int(number[place, column])
        scores[place] = -torch.inf
        if token not in used:
            used.add(token)
            shared = explain * (means @ means[which])
            scores = scores - torch.where(number == which, explained, shared[number])
    return out
