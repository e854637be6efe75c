"""Drafts of texts, and the encoder's vectors of them: how pairs are made.

Contents: `PairMaker`, `write_own_drafts`.

Some are the denoiser's work: it writes drafts left to right, greedily or sampled, some after a true beginning, so
that drafts of all depths are there, or fills a part of a true text anew. The rest are true texts with mistakes
(`corruption.py`). Every draft is embedded once by the real encoder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from functools import cached_property
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from unembed.data.tokenization import Tokenizer
from unembed.decoding.causal.beams import BeamOptions, Beams
from unembed.decoding.causal.writer import write_texts
from unembed.decoding.loop import finish
from unembed.network.base import GIVEN, MASK, Network
from unembed.network.conditioning import Condition
from unembed.network.corrector import Corrector
from unembed.network.denoiser import autocast
from unembed.training.pairs.corruption import Corruption
from unembed.training.pairs.pair_files import KINDS, Pairs, Texts

_Some = TypeVar("_Some", bound=Texts)
_TOP = 24
_BATCH = 192

Drafts = tuple[list[list[int]], np.ndarray]
"""Token ids of each draft, and their kinds (N,)."""


def write_own_drafts(
    denoiser: Network,
    condition: Condition,
    temperature: Tensor,
    begun: Tensor,
    true: Tensor,
    generator: torch.Generator,
) -> list[list[int]]:
    """Write one draft of each text, left to right.

    Args:
        denoiser: with causal rows.
        condition: of B vectors.
        temperature: (B,) 0 for the likeliest token.
        begun: (B,) how many tokens of the true text the draft begins with.
        true: (B, n) the true texts.
        generator: of the samples, on the CPU.

    Returns:
        Token ids of each draft, at least one and at most the limit.
    """

    def choose(logits: Tensor, beams: Beams, alive: Tensor, position: int) -> BeamOptions:
        values, tokens = logits.topk(min(_TOP, logits.shape[1]), dim=1)  # (A, V) -> (A, T)
        heat = temperature[alive].unsqueeze(1)
        pick = torch.where(heat > 0, values / heat.clamp_min(1e-6) + _gumbel(values, generator), values)
        chosen = tokens.gather(1, pick.argmax(1, keepdim=True))  # (A, 1)
        if position < true.shape[1]:
            chosen = torch.where((position < begun[alive]).unsqueeze(1), true[alive, position, None], chosen)
        nothing = torch.zeros_like(chosen, dtype=torch.float32)
        return BeamOptions(chosen, nothing, nothing)

    return [list(one[0][0]) for one in finish(write_texts(denoiser, condition, 1, choose))[0]]


def _gumbel(like: Tensor, generator: torch.Generator) -> Tensor:
    """Gumbel noise of a tensor's shape: the largest of logits + noise is a sample of their softmax."""
    return -torch.empty(like.shape).exponential_(generator=generator).log().to(like.device)


class PairMaker:
    """Makes pairs.

    Args:
        denoiser: whose drafts are wanted; its matrices may be in bf16.
        tokenizer: between drafts and what the encoder sees.
        encode: texts -> vectors (N, d), the encoder's.
        seed: of the tokens that mistakes put in.
    """

    def __init__(
        self, denoiser: Network, tokenizer: Tokenizer, encode: Callable[[list[str]], np.ndarray], seed: int = 0
    ) -> None:
        self.denoiser, self.tokenizer, self.encode = denoiser, tokenizer, encode
        self.device = denoiser.banned.device
        self._seed = seed

    @cached_property
    def corruption(self) -> Corruption:
        """What makes mistakes, laid out at first use."""
        return Corruption.of(self.denoiser, self._seed)

    def own(self, texts: Texts, seed: int) -> Drafts:
        """The denoiser's own drafts: a third greedy, a third sampled, a third after a true beginning.

        Args:
            texts: N of them.
            seed: of kinds, temperatures and samples.
        """
        rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
        kinds = rng.integers(0, 3, size=len(texts)).astype(np.uint8)
        drafts: list[list[int]] = [[] for _ in range(len(texts))]
        for chosen, part in self._in_batches(texts):
            kind = kinds[chosen]
            heat = np.where(kind == 0, 0.0, rng.uniform(0.3, 1.0, size=len(part)) * (rng.random(len(part)) < 0.8))
            begun = np.where(kind == 2, (rng.random(len(part)) * (part.lengths + 1)).astype(np.int64), 0)
            true = self._tensor(part.ids)
            with torch.inference_mode(), autocast(self.denoiser):
                written = write_own_drafts(
                    self.denoiser,
                    self._condition(part),
                    self._tensor(heat).float(),
                    self._tensor(begun),
                    true,
                    generator,
                )
            for i, draft in zip(chosen, written, strict=True):
                drafts[i] = draft
        return drafts, kinds

    def corrected(self, corrector: Corrector, pairs: Pairs, seed: int) -> Drafts:
        """What a corrector makes of drafts, greedily for half of them: what later rounds of correction begin with.

        Args:
            corrector: of the same denoiser.
            pairs: the drafts that it is shown.
            seed: of temperatures and samples.
        """
        rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
        drafts: list[list[int]] = [[] for _ in range(len(pairs))]
        for chosen, part in self._in_batches(pairs):
            true = self._tensor(part.ids)
            heat = rng.uniform(0.3, 1.0, size=len(part)) * (rng.random(len(part)) < 0.5)
            shown = self._tensor(part.drafts), self._tensor(part.draft_lengths), self._tensor(part.draft_vectors)
            with torch.inference_mode(), autocast(self.denoiser):
                taken = torch.where(self._tensor(part.fitted).unsqueeze(1), true, self.denoiser.config.pad_id)
                condition = corrector(self._condition(part), shown[0], shown[1], shown[2].float(), taken)
                nothing = torch.zeros(len(part), dtype=torch.long, device=self.device)
                heats = self._tensor(heat).float()
                written = write_own_drafts(self.denoiser, condition, heats, nothing, true, generator)
            for i, draft in zip(chosen, written, strict=True):
                drafts[i] = draft
        return drafts, np.full(len(pairs), KINDS.index("corrected"), dtype=np.uint8)

    def filled(self, texts: Texts, seed: int) -> Drafts:
        """True texts of which the denoiser filled some positions anew, mostly with another token than the true one.

        Args:
            texts: N of them.
            seed: of positions and samples.
        """
        rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
        drafts: list[list[int]] = [[] for _ in range(len(texts))]
        for chosen, part in self._in_batches(texts):
            few = rng.random(len(part)) < 0.6
            share = np.where(few, rng.integers(1, 5, len(part)) / part.lengths, rng.uniform(0.1, 0.8, len(part)))
            # Positions after a text's end get 2: they are never among the smallest.
            draw = np.where(np.arange(part.ids.shape[1]) < part.lengths[:, None], rng.random(part.ids.shape), 2.0)
            rank = draw.argsort(1, kind="stable").argsort(1, kind="stable")
            hidden = self._tensor((rank < np.maximum(1, np.round(share * part.lengths))[:, None]) & (draw < 1))
            true, n = self._tensor(part.ids), self._tensor(part.lengths)
            with torch.inference_mode(), autocast(self.denoiser):
                states = torch.where(hidden, MASK, GIVEN)
                logits = self.denoiser.logits(true, states, self._condition(part), n, hidden)
                other = (torch.rand(len(logits), generator=generator) < 0.7).to(self.device)
                logits[other, true[hidden][other]] = -torch.inf
                values, tokens = logits.topk(min(_TOP, logits.shape[1]), dim=1)
                new = tokens.gather(1, (values + _gumbel(values, generator)).argmax(1, keepdim=True))[:, 0]
            written = true.clone()
            written[hidden] = new
            for i, row, length in zip(chosen, written.tolist(), part.lengths.tolist(), strict=True):
                drafts[i] = row[:length]
        return drafts, np.full(len(texts), KINDS.index("filled"), dtype=np.uint8)

    def mistakes(self, texts: Texts, seed: int) -> Drafts:
        """True texts with mistakes."""
        rng = np.random.default_rng(seed)
        drafts = [self.corruption(row[:n].tolist(), rng) for row, n in zip(texts.ids, texts.lengths, strict=True)]
        return drafts, np.full(len(texts), KINDS.index("mistakes"), dtype=np.uint8)

    def embed(self, texts: Texts, drafts: Sequence[Sequence[int]], kinds: np.ndarray) -> Pairs:
        """Settle drafts on what the encoder sees, and embed them; drafts that become empty or too long are left out."""
        max_length = self.denoiser.config.max_length
        written = [self.tokenizer.decode(list(draft)) for draft in drafts]
        seen = self.tokenizer.encode(written)
        kept = [i for i, ids in enumerate(seen) if 0 < len(ids) <= max_length]
        vectors = self.encode([written[i] for i in kept])
        mine = texts.take(np.array(kept, dtype=np.int64))
        own = {column.name: getattr(mine, column.name) for column in fields(Texts)}
        own["ids"] = _padded([row[:n].tolist() for row, n in zip(mine.ids, mine.lengths, strict=True)], max_length)
        return Pairs(
            **own,
            drafts=_padded([seen[i] for i in kept], max_length),
            draft_lengths=np.array([len(seen[i]) for i in kept], dtype=np.int64),
            draft_vectors=np.asarray(vectors),
            kinds=kinds[kept],
        )

    def _tensor(self, values: np.ndarray) -> Tensor:
        wide = values.astype(np.int64) if values.dtype.kind in "iu" else values
        return torch.from_numpy(wide).to(self.device)

    def _in_batches(self, texts: _Some) -> Iterator[tuple[np.ndarray, _Some]]:
        """Texts of about one length together: their rows, and they themselves, cut to the longest of them."""
        order = np.argsort(texts.lengths, kind="stable")
        for start in range(0, len(order), _BATCH):
            chosen = order[start : start + _BATCH]
            part = texts.take(chosen)
            part.ids = part.ids[:, : int(part.lengths.max())]
            yield chosen, part

    def _condition(self, texts: Texts) -> Condition:
        """The condition of the texts; those of the fit are taken out of the class means of their own tokens."""
        condition = self.denoiser.condition(self._tensor(texts.vectors).float())
        prior = self.denoiser.token_prior
        if condition.evidence is not None and prior is not None and texts.fitted.any():
            inside = (np.arange(texts.ids.shape[1]) < texts.lengths[:, None]) & texts.fitted[:, None]
            owner, column = np.nonzero(inside)
            present = torch.zeros(len(texts), prior.vocab_size, dtype=torch.bool, device=self.device)
            present[self._tensor(owner), self._tensor(texts.ids[owner, column])] = True
            condition.evidence = prior.scores(condition.whitened, frequency=False, present=present)
        return condition


def _padded(rows: Sequence[Sequence[int]], width: int) -> np.ndarray:
    """Rows of ids as (N, width), filled up with zeros."""
    out = np.zeros((len(rows), width), dtype=np.int64)
    for row, ids in zip(out, rows, strict=True):
        row[: len(ids)] = ids
    return out
