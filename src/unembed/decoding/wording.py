"""Do the words of a text look like those that a model has learnt from?

Contents: `Wording`, `UNLIKE`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from unembed.data.tokenization import Tokenizer
    from unembed.priors.token_prior import TokenPrior

UNLIKE = 1.6
"""Ratio from which words are unlike the learnt ones. With the shipped model, 0.9% of 8,000 sentences of english-test
reach it, and of those of multilingual-test that its tokenizer can read 97% (French), 98% (Portuguese), 99% (Spanish)
and more than 99.5% (German, Russian, Japanese, Arabic)."""


class Wording:
    """How surprising the letters of a text are, beside those of the training texts.

    Each token costs -log of its share among the tokens of the training texts. Words of another language fall into rare
    and short pieces, so that a letter costs more.

    Args:
        tokenizer: of the model.
        prior: counts of the training texts.
    """

    def __init__(self, tokenizer: Tokenizer, prior: TokenPrior) -> None:
        share = prior.log_odds.double().sigmoid().cpu().numpy()
        self._letters = np.zeros(len(share))
        for token, surface in enumerate(tokenizer.surfaces[: len(share)]):
            self._letters[token] = sum(character.isalpha() for character in surface)
        share = share * (self._letters > 0)
        share /= max(share.sum(), 1e-300)
        self._nats = -np.log(np.maximum(share, 1e-30))
        self._usual = max(float(share @ self._nats) / max(float(share @ self._letters), 1e-300), 1e-9)

    def ratio(self, ids: Sequence[int]) -> float | None:
        """Nats a letter, over those of the training texts: about 1 for a text like them; None without any letter."""
        row = np.array([i for i in ids if i < len(self._letters) and self._letters[i] > 0], dtype=np.int64)
        if not len(row):
            return None
        return float(self._nats[row].sum() / self._letters[row].sum() / self._usual)
