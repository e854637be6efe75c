"""One streaming pass over tokens and vectors fits every part of the model that needs no gradient.

What is here:
    ClosedForm       whitening, token prior and length head together
    fit_closed_form  the pass: memory does not depend on the size of the corpus

Texts are read off them by `decoding/prior.py`.

Class sums are linear, so they are collected in the encoder's own space and whitened once at the end.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from unembed.errors import DataError
from unembed.priors.class_sums import ClassSums, distinct_tokens
from unembed.priors.length_prior import LengthHead
from unembed.priors.token_prior import SHRINK, TokenPrior
from unembed.priors.whitening import Moments, Whitening

Batch = tuple[Tensor, Tensor, Tensor]


class ClosedForm(nn.Module):
    """The closed-form parts of a model, as one module (one `state_dict`).

    Args:
        vocab_size: V.
        dim: dimension d of the vectors.
        max_length: longest text, in tokens.
    """

    def __init__(self, vocab_size: int, dim: int, max_length: int) -> None:
        super().__init__()
        self.vocab_size, self.dim, self.max_length = vocab_size, dim, max_length
        self.whitening = Whitening(dim)
        self.token_prior = TokenPrior(vocab_size, dim)
        self.length_head = LengthHead(dim, max_length)


class _Fitter:
    """What the pass has collected so far."""

    def __init__(self, vocab_size: int, max_length: int, dim: int, shift: Tensor) -> None:
        self.vocab_size, self.max_length, self.dim, self.shift = vocab_size, max_length, dim, shift
        self.moments = Moments(dim)
        self.tokens = ClassSums(vocab_size, dim, shift.device)
        self.by_length = ClassSums(max_length, dim, shift.device)

    def update(self, ids: Tensor, lengths: Tensor, vectors: Tensor) -> None:
        low, high = int(lengths.min()), int(lengths.max())
        if low < 1 or high > self.max_length:
            raise DataError(
                f"There are texts of {low} to {high} tokens.",
                f"Give texts of 1 to {self.max_length} tokens; cut longer ones.",
            )
        self.moments.update(vectors)
        centred = vectors - self.shift
        inside = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
        self.tokens.add(centred, *distinct_tokens(ids, inside))
        self.by_length.add(centred, torch.arange(len(lengths), device=ids.device), lengths - 1)

    def finish(self, shrink: float, weight: float, whitening_shrink: float) -> ClosedForm:
        result = ClosedForm(self.vocab_size, self.dim, self.max_length)
        whitening = result.whitening = Whitening.fit(self.moments, whitening_shrink)
        matrix, offset = whitening.matrix, whitening.mean - self.shift.cpu()
        result.token_prior = TokenPrior.from_sums(
            self.tokens.mapped(offset, matrix), self.tokens.counts.cpu(), self.moments.count, shrink, weight
        )
        spread = matrix.double() @ self.moments.covariance @ matrix.double()
        lengths = self.by_length
        result.length_head = LengthHead.from_sums(lengths.mapped(offset, matrix), lengths.counts.cpu(), spread)
        return result


def fit_closed_form(
    batches: Iterable[Batch],
    vocab_size: int,
    max_length: int,
    *,
    shrink: float = SHRINK,
    weight: float = 0.5,
    whitening_shrink: float = 1e-3,
) -> ClosedForm:
    """Fit whitening, priors and the length head in one pass.

    Args:
        batches: (ids (B, <= max_length) int64 padded, lengths (B,) int64, vectors (B, d) as the encoder makes). Batches
            of some thousand rows are fastest. On any device, which then holds all sums.
        vocab_size: V.
        max_length: longest text, in tokens.
        shrink: pseudo-count of the token prior's means.
        weight: weight of the Gaussian part of the token prior.
        whitening_shrink: see `Whitening.fit`.

    Returns:
        The fitted parts, on the CPU.

    Raises:
        DataError: no text at all, or a length outside 1..max_length.
    """
    fitter: _Fitter | None = None
    for ids, lengths, vectors in batches:
        if not len(lengths):
            continue
        vectors = vectors.float()
        if fitter is None:
            fitter = _Fitter(vocab_size, max_length, vectors.shape[1], vectors.mean(0))
        fitter.update(ids.long(), lengths.long(), vectors)
    if fitter is None:
        raise DataError("There is nothing to fit the priors on.", "Give at least one batch of texts and vectors.")
    return fitter.finish(shrink, weight, whitening_shrink)
