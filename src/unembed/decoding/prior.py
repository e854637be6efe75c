"""Texts read off the closed-form priors, with no pass of the network: strategy `prior` and the closed-form baseline.

Contents: `PriorReader` (vectors to token ids), `PriorTexts`, `prior_drafts` (what the decode loop returns of them).

One matrix product scores the frequent tokens of a batch, the best `POOL` of each row are kept, and the rest is done in
that pool. The surest token is taken first. It explains a part of the vector: tokens whose means point the same way lose
`explain` times the product of the two means. The number of tokens is the likeliest length; the text is the n most
likely tokens without repetition, the surest first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from unembed.decoding.trace import Draft, Step, Trace
from unembed.errors import InputError
from unembed.network.base import Network
from unembed.network.denoiser import supports_fast_bf16
from unembed.priors.fit import ClosedForm
from unembed.priors.token_prior import TokenPrior
from unembed.priors.whitening import Whitening

VOCABULARY = 16_384
"""Tokens that are considered, the most frequent ones; they cover 98.7% of the tokens of English test texts."""

POOL = 64
"""Tokens kept for each row."""

PRESENCE, EXPLAIN = 0.6, 0.2
"""Weight of the token prior's z . m - 1/2 |m|^2 beside the log odds of presence, and of what a token explains."""

_CHUNK = 256  # rows whose scores are held at a time


@dataclass
class PriorTexts:
    """What was read: B texts, padded to the longest.

    Attributes:
        ids: (B, longest) int64, -1 after the end.
        lengths: (B,) int64.
        presence: (B, longest), how probable it is that the token occurs, see `PriorReader`; 1 for given tokens.
        log_length: (B,) log p(n | vector); 0 where the length was known.
    """

    ids: Tensor
    lengths: Tensor
    presence: Tensor
    log_length: Tensor

    def texts(self) -> list[list[int]]:
        """Token ids of each text."""
        return [row[:n] for row, n in zip(self.ids.tolist(), self.lengths.tolist(), strict=True)]


class PriorReader:
    """Reads texts off vectors with closed-form parts alone.

    The presence of a token is the sigmoid of its log odds, `PRESENCE` (z . m - 1/2 |m|^2) + log p / (1 - p), lessened
    by what the tokens that were taken before it explain. It speaks of the token and not of its place.

    Args:
        whitening: of the vectors.
        token_prior: which tokens occur.
        length_log_probs: raw vectors (B, d) -> log p(n | vector) (B, max_length).
        banned: (V,) bool, ids that are never output.

    Raises:
        InputError: the token prior has seen no text.
    """

    def __init__(
        self,
        whitening: Whitening,
        token_prior: TokenPrior,
        length_log_probs: Callable[[Tensor], Tensor],
        banned: Tensor | None = None,
    ) -> None:
        counts = token_prior.counts if banned is None else token_prior.counts.masked_fill(banned, 0)
        frequent = counts.argsort(descending=True, stable=True)[:VOCABULARY]
        self.tokens = frequent[counts[frequent] > 0].sort().values
        if not len(self.tokens):
            raise InputError(
                "The token prior of this checkpoint has seen no text.", "Use another strategy, such as adaptive."
            )
        self.whitening, self.length_log_probs = whitening, length_log_probs
        device = self.tokens.device
        self.dtype = torch.bfloat16 if supports_fast_bf16(device) else torch.float32
        self.means = token_prior.means(self.tokens).to(self.dtype)
        self.half = 0.5 * self.means.float().square().sum(1)
        self.log_odds = token_prior.log_odds[self.tokens]
        self.bias = (self.log_odds - PRESENCE * self.half).to(self.dtype)

    @classmethod
    def of(cls, denoiser: Network) -> PriorReader:
        """Make a reader of a denoiser's closed-form parts.

        Raises:
            InputError: the denoiser has no token prior.
        """
        if denoiser.token_prior is None:
            raise InputError(
                "This checkpoint has no token prior, which the strategy prior reads.",
                "Use another strategy, or train one with model.token_prior = true.",
            )
        banned = denoiser.banned.clone()
        banned[denoiser.config.eos_id] = True
        return cls(denoiser.whitening, denoiser.token_prior, denoiser.length_log_probs, banned)

    @classmethod
    def fitted(cls, parts: ClosedForm) -> PriorReader:
        """Make a reader of parts that have just been fitted."""

        def length_log_probs(vectors: Tensor) -> Tensor:
            return parts.length_head.log_probs(parts.whitening(vectors))

        return cls(parts.whitening, parts.token_prior, length_log_probs)

    @torch.no_grad()
    def read(
        self,
        vectors: Tensor,
        lengths: Tensor | None = None,
        given: Tensor | None = None,
        allowed: Tensor | None = None,
    ) -> PriorTexts:
        """Read a batch.

        Args:
            vectors: (B, d) as the encoder made them.
            lengths: (B,) where they are known; otherwise the likeliest ones.
            given: (B, up to max_length) token ids that are known, -1 where not.
            allowed: (B, max_length) bool, which of the lengths 1, 2, ..., max_length may be chosen; None for all.
        """
        rows, device = len(vectors), vectors.device
        log_length = torch.zeros(rows, device=device)
        if lengths is None:
            options = self.length_log_probs(vectors)
            if given is not None:
                position = torch.arange(given.shape[1], device=device)
                least = torch.where(given >= 0, position, -1).amax(1)
                too_short = torch.arange(options.shape[1], device=device) < least[:, None]
                options = options.masked_fill(too_short, -torch.inf)
            if allowed is not None:
                options = options.masked_fill(~allowed, -torch.inf)
            log_length, index = options.max(dim=1)
            lengths = index + 1
        n = int(lengths.max()) if rows else 0
        known = torch.full((rows, n), -1, dtype=torch.long, device=device)
        if given is not None:
            known[:, : given.shape[1]] = given[:, :n]
        ids, presence = torch.zeros_like(known), torch.zeros(rows, n, device=device)
        for part in lengths.argsort(stable=True).split(_CHUNK):  # rows of similar length together
            longest = int(lengths[part].max())
            own = known[part, :longest]
            pool = self._pool(self.whitening(vectors[part].float()), own if given is not None else None)
            inside = torch.arange(longest, device=device) < lengths[part, None]
            index, sure = _most_likely(pool, inside & (own < 0))
            ids[part, :longest], presence[part, :longest] = self.tokens[index], sure
        ids, presence = torch.where(known >= 0, known, ids), torch.where(known >= 0, 1.0, presence)
        behind = torch.arange(n, device=device) >= lengths[:, None]
        return PriorTexts(ids.masked_fill(behind, -1), lengths, presence.masked_fill(behind, 0.0), log_length)

    def _pool(self, z: Tensor, known: Tensor | None) -> _Pool:
        low = z.to(self.dtype)
        scores = torch.addmm(self.bias, low, self.means.T, alpha=PRESENCE)  # (C, d) x (d, N) -> (C, N)
        index = scores.topk(min(POOL, len(self.tokens)), dim=1, sorted=False).indices  # (C, N) -> (C, K)
        means = self.means[index]  # (C, K, d)
        shared = torch.bmm(means, means.transpose(1, 2)).float()  # (C, K, K)
        evidence = torch.bmm(means.float(), z[..., None])[..., 0] - self.half[index]
        log_odds = PRESENCE * evidence + self.log_odds[index]
        used = torch.zeros_like(index, dtype=torch.bool)
        if known is not None:
            used = (self.tokens[index][..., None] == known[:, None]).any(-1)
        return _Pool(index, log_odds, shared, used)


@dataclass
class _Pool:
    """The K most likely tokens of C rows: `index` (C, K) into the reader's tokens, their `log_odds` (C, K), `shared`
    (C, K, K) products of their means, `used` (C, K) those that are in the text already."""

    index: Tensor
    log_odds: Tensor
    shared: Tensor
    used: Tensor


def _most_likely(pool: _Pool, free: Tensor) -> tuple[Tensor, Tensor]:
    """Fill the free places (C, n) with the most likely tokens in the order in which they are taken."""
    every = torch.arange(len(free), device=free.device)
    shared = EXPLAIN * pool.shared
    scores = pool.log_odds - (shared * pool.used[:, :, None]).sum(1)
    scores = scores.masked_fill(pool.used, -torch.inf)
    chosen, sure = [], []
    for _ in range(int(free.sum(1).max())):
        best, column = scores.max(dim=1)
        chosen.append(pool.index[every, column])
        sure.append(best)
        scores -= shared[every, column]
        scores[every, column] = -torch.inf
    if not chosen:
        return torch.zeros_like(free, dtype=torch.long), torch.zeros(free.shape, device=free.device)
    rank = (free.long().cumsum(1) - 1).clamp(0, len(chosen) - 1)
    return torch.stack(chosen, 1).gather(1, rank), torch.stack(sure, 1).sigmoid().gather(1, rank)


def prior_drafts(
    reader: PriorReader,
    vectors: Tensor,
    given: Tensor | None = None,
    lengths: Tensor | None = None,
    traced: bool = False,
    allowed: Tensor | None = None,
) -> list[Draft]:
    """Read vectors (B, d) and return a draft for each, with confidence from presence (four decimals), at 0 passes.

    The log-likelihood of a draft is the sum of the logs of the presence of its tokens, given ones left out.
    """
    read = reader.read(vectors, lengths, given, allowed)
    presence = read.presence.double().round(decimals=4).clamp(0.0001, 1.0)
    inside = torch.arange(read.ids.shape[1], device=vectors.device) < read.lengths[:, None]
    likelihood = (presence.log() * inside).sum(1)
    columns = (read.ids, presence, read.lengths, likelihood, read.log_length.double())
    drafts: list[Draft] = []
    for ids, sure, n, total, prior in zip(*(column.tolist() for column in columns), strict=True):
        tokens, confidence = tuple(ids[:n]), tuple(sure[:n])
        trace = None
        if traced:
            known = [] if given is None else given[len(drafts), :n].tolist()
            free = tuple(i for i in range(n) if i >= len(known) or known[i] < 0)
            trace = Trace((Step(0, 0, tokens, (False,) * n, confidence, free, (), 0),))
        drafts.append(
            Draft(tokens, confidence, total, prior, length=n, passes=0, spent=0, score=prior + total, trace=trace)
        )
    return drafts
