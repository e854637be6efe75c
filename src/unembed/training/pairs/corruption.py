"""Texts with mistakes, as drafts have them: wrong, missing, doubled and moved tokens.

Contents: `Corruption`, `similar_tokens`.

The corrector learns from its own network's drafts and from these. Most have one to three
mistakes, because later rounds of refinement see no more than that; a wrong token is often one of similar meaning,
because such are the mistakes of a denoiser that knows the vector.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from unembed.errors import InputError
from unembed.network.base import Network
from unembed.network.denoiser import supports_fast_bf16

_KINDS = ("substitute", "delete", "insert", "swap", "move")
_SHARES = np.cumsum((0.5, 0.14, 0.14, 0.11, 0.11))
_POOL = 200_000


def similar_tokens(means: Tensor, counts: Tensor, neighbours: int = 12, least: int = 30) -> np.ndarray:
    """Tokens whose texts have similar vectors.

    Args:
        means: (V, d) class means in whitened space.
        counts: (V,) texts that hold each token; tokens with fewer than `least` are nobody's neighbour.
        neighbours: K.
        least: see `counts`.

    Returns:
        (V, K) int64 ids, the nearest first; the token itself where there are too few.
    """
    unit = torch.nn.functional.normalize(means.float(), dim=1)
    known = (counts >= least).nonzero().flatten()
    out = torch.arange(len(means)).unsqueeze(1).repeat(1, neighbours)
    if len(known) <= neighbours:
        return out.numpy()
    pool = unit[known]
    if supports_fast_bf16(means.device):
        pool = pool.bfloat16()
    for start in range(0, len(known), 2048):
        part = known[start : start + 2048]
        cosine = (pool[start : start + 2048] @ pool.T).float()
        cosine[torch.arange(len(part)), torch.arange(start, start + len(part))] = -torch.inf
        out[part] = known[cosine.topk(neighbours, dim=1).indices]
    return out.numpy()


class Corruption:
    """Makes drafts with mistakes out of true texts.

    Args:
        similar: (V, K) tokens of similar meaning, see `similar_tokens`.
        pool: (N,) tokens, frequent ones more often, that any token may be exchanged for.
        max_length: greatest length.
    """

    def __init__(self, similar: np.ndarray, pool: np.ndarray, max_length: int) -> None:
        self.similar, self.pool, self.max_length = similar, pool, max_length

    @classmethod
    def of(cls, denoiser: Network, seed: int) -> Corruption:
        """What a denoiser's token prior knows of similar and of frequent tokens.

        Args:
            denoiser: with a token prior.
            seed: of the pool.

        Raises:
            InputError: it has none.
        """
        prior = denoiser.token_prior
        if prior is None:
            raise InputError("The base has no token prior, which making mistakes needs.", "Set pairs.mistakes = 0.")
        allowed = ~denoiser.banned.cpu()
        allowed[denoiser.config.eos_id] = False
        counts = prior.counts.cpu() * allowed
        weights = counts.double().numpy() ** 0.7
        pool = np.random.default_rng(seed).choice(len(weights), size=_POOL, p=weights / weights.sum())
        return cls(similar_tokens(prior.means().cpu(), counts), pool, denoiser.config.max_length)

    def __call__(self, ids: Sequence[int], rng: np.random.Generator) -> list[int]:
        """Make one draft.

        Args:
            ids: the true text, at least one token.
            rng: of the mistakes.

        Returns:
            1 to `max_length` token ids; in a few percent of cases the text itself.
        """
        text = [int(i) for i in ids]
        draw = rng.random()
        if draw < 0.04:
            return text
        if draw < 0.10:
            return self._shuffled(text, rng)
        if draw < 0.62:
            mistakes = int(rng.integers(1, 4))
        else:
            mistakes = max(1, round(float(rng.uniform(0.08, 0.5)) * len(text)))
        for _ in range(mistakes):
            text = self._mistake(text, rng)
        return text

    def _mistake(self, text: list[int], rng: np.random.Generator) -> list[int]:
        """The text with one more mistake of a kind drawn at random."""
        kind = _KINDS[min(int(np.searchsorted(_SHARES, rng.random())), len(_KINDS) - 1)]
        n = len(text)
        at = int(rng.integers(n))
        if kind == "substitute" or (n < 2 and kind != "insert"):
            return [*text[:at], self._other(text, at, rng), *text[at + 1 :]]
        if kind == "insert":
            if n >= self.max_length:
                return text
            return [*text[:at], self._other(text, at, rng), *text[at:]]
        if kind == "delete":
            return [*text[:at], *text[at + 1 :]]
        if kind == "swap":
            at = min(at, n - 2)
            return [*text[:at], text[at + 1], text[at], *text[at + 2 :]]
        span = text[at : at + int(rng.integers(1, 5))]
        rest = text[:at] + text[at + len(span) :]
        place = int(rng.integers(len(rest) + 1))
        return rest[:place] + span + rest[place:]

    def _other(self, text: list[int], at: int, rng: np.random.Generator) -> int:
        """A token in place of, or beside, that at `at`: a similar one, any one, or another of the same text."""
        draw = rng.random()
        if draw < 0.55:
            near = self.similar[text[at]]
            return int(near[min(int(rng.exponential(3.0)), len(near) - 1)])
        if draw < 0.88:
            return int(self.pool[rng.integers(len(self.pool))])
        return text[int(rng.integers(len(text)))]

    def _shuffled(self, text: list[int], rng: np.random.Generator) -> list[int]:
        """The same tokens, cut into spans that are put together in another order."""
        cuts = np.sort(rng.integers(0, len(text) + 1, size=int(rng.integers(1, max(2, len(text) // 2)))))
        spans = [part.tolist() for part in np.split(np.array(text), cuts)]
        return [token for i in rng.permutation(len(spans)) for token in spans[i]]
