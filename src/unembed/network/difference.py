"""The difference prior: what target minus draft says about missing and wrong tokens.

Contents: `Difference`, `DifferencePrior`, `Directions`.

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
from unembed.network.base import Network
from unembed.priors.token_prior import TokenPrior

_CHUNK = 8192


@dataclass
class Difference:
    """Scores of all tokens for D drafts; above 0: rather missing, below 0: rather too much.

    Attributes:
        whitened: (D, V) float32.
        plain: (D, V) float32.
    """

    whitened: Tensor
    plain: Tensor


def _parts(denoiser: Network) -> tuple[TokenPrior, Tensor | None]:
    """The token prior, and the map back out of whitened space where there is one."""
    if denoiser.token_prior is None:
        raise InputError(
            "This checkpoint has no closed-form token prior, which refinement needs.",
            "Train with model.token_prior = true.",
        )
    if not denoiser.config.whiten:
        return denoiser.token_prior, None
    return denoiser.token_prior, torch.linalg.inv(denoiser.whitening.matrix.double()).float()


class DifferencePrior:
    """Scores tokens by target minus draft.

    Args:
        denoiser: its whitening and its token prior are used.

    Raises:
        InputError: the checkpoint holds no token prior.
    """

    def __init__(self, denoiser: Network) -> None:
        prior, self._to_plain = _parts(denoiser)
        self._means = prior.means()
        self._to_white = denoiser.whitening.matrix if denoiser.config.whiten else None

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


class Directions:
    """The same products for chosen tokens, with training texts taken out; what a corrector is given.

    Args:
        denoiser: its whitening and its token prior are used.

    Raises:
        InputError: the checkpoint holds no token prior.
    """

    def __init__(self, denoiser: Network) -> None:
        self._prior, self._inverse = _parts(denoiser)
        self._mean = denoiser.whitening.mean
        self._unit = denoiser.config.vector_dim**0.5

    def __call__(self, white: Tensor, vectors: Tensor, draft: Tensor) -> tuple[Tensor, Tensor]:
        """Directions among the class means along which the drafts should move.

        Args:
            white: (D, d) targets as the networks see them.
            vectors: (D, d) vectors of the drafts.
            draft: (D, d) the same as the networks see them.

        Returns:
            (2, D, d), the whitened difference and the plain one, both of the whitened one's length; and the cosine of
            targets and drafts (D, 1).
        """
        target = (white @ self._inverse if self._inverse is not None else white / self._unit) + self._mean
        target = torch.nn.functional.normalize(target, dim=1)
        vectors = torch.nn.functional.normalize(vectors, dim=1)
        cosine = (target * vectors).sum(1, keepdim=True)
        difference = white - draft
        plain = target - cosine * vectors
        if self._inverse is not None:
            plain = plain @ self._inverse
        plain = plain * (difference.norm(dim=1, keepdim=True) / plain.norm(dim=1, keepdim=True).clamp_min(1e-6))
        return torch.stack((difference, plain)), cosine

    def scores(self, direction: Tensor, tokens: Tensor | None = None) -> Tensor:
        """Products of directions with the class means of tokens.

        Args:
            direction: (D, d).
            tokens: (K,) ids; None for all.

        Returns:
            (D, V) or (D, K) float32.
        """
        prior = self._prior
        codes = prior.codes if tokens is None else prior.codes[tokens]
        scale = prior.scale if tokens is None else prior.scale[tokens]
        parts = [
            (direction @ codes[i : i + _CHUNK].float().T) * scale[i : i + _CHUNK] for i in range(0, len(codes), _CHUNK)
        ]
        return torch.cat(parts, dim=1)

    def taken_out(self, scores: Tensor, tokens: Tensor, present: Tensor, direction: Tensor, white: Tensor) -> Tensor:
        """Scores (D, K) of tokens (K,), as if the targets had not been in the means of the tokens that they hold.

        Args:
            scores: from `scores`.
            tokens: (K,) ids.
            present: (D, K) bool, whether the target holds the token.
            direction: (D, d) that was scored.
            white: (D, d) targets as the networks see them.
        """
        size = self._prior.counts[tokens] + self._prior.shrink
        less = (size * scores - (direction * white).sum(1, keepdim=True)) / (size - 1)
        return torch.where(present, less, scores)

    def of_tokens(self, ids: Tensor, probes: Tensor, white: Tensor, own: Tensor | None) -> tuple[Tensor, Tensor]:
        """Products of P directions with the class mean of each token of the drafts.

        Args:
            ids: (D, m) tokens.
            probes: (D, P, d).
            white: (D, d) targets as the networks see them.
            own: (D, t) true texts to be taken out of the means, or None.

        Returns:
            (D, m, P), and the texts that each mean was made of, with the pseudo-count (D, m).
        """
        prior = self._prior
        means = prior.codes[ids].float() * prior.scale[ids].unsqueeze(-1)
        products = means @ probes.transpose(1, 2)
        size = prior.counts[ids] + prior.shrink
        if own is not None:
            present = (ids.unsqueeze(2) == own.unsqueeze(1)).any(2).unsqueeze(-1)
            against = (probes * white.unsqueeze(1)).sum(2).unsqueeze(1)
            less = (size.unsqueeze(-1) * products - against) / (size.unsqueeze(-1) - 1)
            products = torch.where(present, less, products)
        return products, size

    def norms(self, ids: Tensor) -> Tensor:
        """Length of the class mean of each token of ids."""
        return self._prior.square[ids].clamp_min(1e-6).sqrt()
