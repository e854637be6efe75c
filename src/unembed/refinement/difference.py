"""The difference prior: what target minus draft says about missing and wrong tokens (design, decision 14).

Contents: `Difference`, `DifferencePrior`.

The class means m_w of the token prior live in whitened space. If a draft lacks the token w, the target's vector lies
from the draft's in the direction of m_w; if it holds a wrong one, in the opposite direction. Two products are kept,
because the whitened metric sees word order and rare words, and the plain one is what the cosine is made of:

    whitened[w] = (W (v - e)) . m_w          plain[w] = (v - c e) . (W^-1 m_w),   c the cosine of v and e

No gradient and no further query is needed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from unembed.errors import InputError
from unembed.model.denoiser import Denoiser


@dataclass
class Difference:
    """Scores of all tokens for D drafts; above 0: rather missing, below 0: rather too much.

    Attributes:
        whitened: (D, V) float32.
        plain: (D, V) float32.
    """

    whitened: Tensor
    plain: Tensor


class DifferencePrior:
    """Scores tokens by target minus draft.

    Args:
        denoiser: its whitening and its token prior are used.

    Raises:
        InputError: the checkpoint holds no token prior.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        if denoiser.token_prior is None:
            raise InputError(
                "This checkpoint has no closed-form token prior, which refinement needs.",
                "Train with model.token_prior = true.",
            )
        matrix = denoiser.whitening.matrix if denoiser.config.whiten else None
        self._means = denoiser.token_prior.means()
        self._to_white = matrix
        self._to_plain = None if matrix is None else torch.linalg.inv(matrix.double()).float()

    def __call__(self, target: Tensor, draft: Tensor) -> Difference:
        """Score the tokens of D drafts.

        Args:
            target: (D, d) vectors that are inverted, unit length.
            draft: (D, d) vectors of the drafts, unit length.
        """
        cosine = (target * draft).sum(1, keepdim=True)
        white, plain = target - draft, target - cosine * draft
        if self._to_white is not None and self._to_plain is not None:
            white, plain = white @ self._to_white, plain @ self._to_plain
        return Difference(white @ self._means.T, plain @ self._means.T)
