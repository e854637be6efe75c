"""One streaming pass over tokens and vectors fits every part of the model that needs no gradient.

What is here:
    ClosedForm       whitening, token prior, position prior and length head together
    fit_closed_form  the pass: memory does not depend on the size of the corpus

Class sums are linear, so they are collected in the encoder's own space and whitened once at the end.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from unembed.errors import DataError
from unembed.model.length import LengthHead
from unembed.model.prior import TokenPrior
from unembed.model.whitening import Moments, Whitening


class ClosedForm(nn.Module):
    """The closed-form parts of a model, as one module (one `state_dict`)."""

    def __init__(self, vocab_size: int, dim: int, limit: int) -> None:
        super().__init__()
        self.vocab_size, self.dim, self.limit = vocab_size, dim, limit
        self.whitening = Whitening(dim)
        self.token_prior = TokenPrior(vocab_size, dim)
        self.length_head = LengthHead(dim, limit)


class ClassSums:
    """Sums of vectors per class, float32, (C, d), and how many vectors each class has."""

    def __init__(self, classes: int, dim: int) -> None:
        self.sums = torch.zeros(classes, dim)
        self.counts = torch.zeros(classes, dtype=torch.int64)

    def add(self, vectors: Tensor, rows: Tensor, classes: Tensor) -> None:
        """Add vectors[rows[i]] to class classes[i], for every i. vectors (B, d) float32, rows (M,), classes (M,)."""
        if not len(rows):
            return
        order = classes.argsort()
        which, counts = classes[order].unique_consecutive(return_counts=True)
        offsets = counts.cumsum(0) - counts
        # A bag per class: a gather and a sum without the (M, d) intermediate.
        bags = nn.functional.embedding_bag(rows[order], vectors, offsets, mode="sum")
        self.sums.index_add_(0, which, bags)
        self.counts.index_add_(0, which, counts)

    def whitened(self, whitening: Whitening, shift: Tensor) -> Tensor:
        """The sums of whitened vectors (C, d), when `shift` was subtracted from every vector that was added."""
        return (self.sums - self.counts.float()[:, None] * (whitening.mean - shift)) @ whitening.matrix


def _distinct(ids: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and tokens of the distinct (row, token) pairs of a padded batch."""
    ordered, order = torch.where(valid, ids, -1).sort(dim=1)
    first = ordered >= 0
    first[:, 1:] &= ordered[:, 1:] != ordered[:, :-1]
    rows = first.nonzero()[:, 0]
    return rows, ordered[first]


def fit_closed_form(
    batches: Iterable[tuple[Tensor, Tensor, Tensor]],
    vocab_size: int,
    limit: int,
    *,
    shrink: float = 20.0,
    weight: float = 0.5,
    whitening_shrink: float = 1e-3,
) -> ClosedForm:
    """Fit whitening, priors and the length head in one pass.

    Args:
        batches: (ids (B, limit) int64 padded, lengths (B,) int64, vectors (B, d) as the encoder made them). Batches of some thousand rows are
            fastest. The order does not matter.
        vocab_size: V.
        limit: longest text, in tokens.
        shrink: pseudo-count of the class means.
        weight: weight of the Gaussian part of the token prior.
        whitening_shrink: see `Whitening.fit`.

    Raises:
        DataError: no batch, or a length outside 1..limit.
    """
    moments: Moments | None = None
    for ids, lengths, vectors in batches:
        vectors = vectors.float()
        if moments is None:
            dim = vectors.shape[1]
            moments, tokens, by_length = Moments(dim), ClassSums(vocab_size, dim), ClassSums(limit, dim)
            shift = vectors.mean(0)
        lengths = lengths.long()
        if len(lengths) and (int(lengths.min()) < 1 or int(lengths.max()) > limit):
            raise DataError(f"A text has {int(lengths.max())} or {int(lengths.min())} tokens.", f"Give texts of 1 to {limit} tokens.")
        moments.update(vectors)
        centred = vectors - shift
        valid = torch.arange(ids.shape[1])[None, :] < lengths[:, None]
        rows, present = _distinct(ids.long(), valid)
        tokens.add(centred, rows, present)
        by_length.add(centred, torch.arange(len(lengths)), lengths - 1)
    if moments is None:
        raise DataError("There is nothing to fit the priors on.", "Give at least one batch of texts and vectors.")

    result = ClosedForm(vocab_size, dim, limit)
    result.whitening = whitening = Whitening.fit(moments, whitening_shrink)
    result.token_prior = TokenPrior.from_sums(tokens.whitened(whitening, shift), tokens.counts, moments.count, shrink, weight)
    spread = whitening.matrix.double() @ moments.covariance @ whitening.matrix.double()
    result.length_head = LengthHead.from_sums(by_length.whitened(whitening, shift), by_length.counts, spread)
    return result
