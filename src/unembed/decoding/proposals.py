"""One pass of the denoiser over many drafts, reduced at once to what the rules need.

Contents: `Proposals`, `Proposer`, and the pure functions `choose_tokens`, `sample_tokens`, `likeliest`, `guided`.

Logits are (rows, V), by far the largest tensors of a decode. Drafts are sorted by length and go through the blocks in
chunks of `CHUNK_ROWS` rows to score; their logits are made and reduced to one token, log-probability and entropy per
row in parts of `LOGIT_BYTES`, which on a CPU stay in its cache.

`Noise` and `vector_seeds` give random numbers that do not depend on the drafts in the same batch: every draft has a
generator of its own, seeded by the seed, its vector, its length and its sample number. A row therefore decodes to the
same text alone and in a batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unembed.decoding.canvas import Canvas
from unembed.decoding.config import DecodeConfig
from unembed.decoding.constraints.enforcing import Enforcer
from unembed.decoding.constraints.rules import no_text
from unembed.network.base import GIVEN, MASK, Network
from unembed.network.conditioning import Condition, Reading
from unembed.network.heads import row_parts

_BLOCK = 256  # tokens whose weights are summed at once to find a sampled token
CHUNK_ROWS = {"cpu": 2048, "cuda": 16384}


@dataclass(frozen=True)
class Proposals:
    """What the denoiser proposes for each masked position.

    Attributes:
        tokens: (A, n) int64.
        log_prob: (A, n) float32, at temperature 1.
        entropy: (A, n) float32 nats, zeros unless asked for.
        words: (A, n, U) log-probabilities of the tokens that were asked for, or None.
        best: tokens (A, n, K) and probabilities (A, n, K) of the K likeliest, 0 where not predicted, or None.
    """

    tokens: Tensor
    log_prob: Tensor
    entropy: Tensor
    words: Tensor | None = None
    best: tuple[Tensor, Tensor] | None = None


def choose_tokens(
    logits: Tensor, temperature: float = 0.0, gumbel: Tensor | None = None, entropy: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Choose a token per row, the likeliest or by the Gumbel-max trick in float64.

    Args:
        logits: (R, V) float32, -inf where banned; overwritten, because a copy would cost as much as the network.
        temperature: of the choice.
        gumbel: (R, V) float64 noise, overwritten; None takes the likeliest.
        entropy: whether the entropy is asked for.

    Returns:
        Tokens (R,), their log-probabilities at temperature 1 (R,), and the entropies in nats (R,), or zeros.
    """
    top, token = logits.max(-1)
    if gumbel is not None:
        token = gumbel.add_(logits, alpha=1 / temperature).argmax(-1)
    logits.sub_(top.unsqueeze(-1))
    chosen = logits.gather(1, token.unsqueeze(1)).squeeze(1)
    if not entropy:
        return token, chosen - logits.exp_().sum(-1).log(), torch.zeros_like(top)
    logits.clamp_(min=-80.0)  # exp(-80) V is below float32 rounding; keeps 0 * inf out of the entropy
    weights = logits.exp()
    total = weights.sum(-1)
    mean = torch.linalg.vecdot(weights, logits) / total
    return token, chosen - total.log(), total.log() - mean


def sample_tokens(logits: Tensor, temperature: float, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Sample a token per row by inverting the cumulative distribution, with one random number per row.

    The same distribution as `choose_tokens` with noise, without V random numbers and V logarithms per row.

    Args:
        logits: (R, V) float32, -inf where banned; overwritten.
        temperature: of the choice, above 0.
        uniform: (R,) float64 in [0, 1).

    Returns:
        Tokens (R,) and their log-probabilities at temperature 1 (R,).
    """
    rows, vocab = logits.shape
    blocks = -(-vocab // _BLOCK)
    top = logits.max(1, keepdim=True).values
    logits.sub_(top.masked_fill_(top.isneginf(), 0.0))  # a row without any token takes the first
    weights = logits.new_zeros(rows, blocks * _BLOCK)
    torch.div(logits, temperature, out=weights[:, :vocab])
    weights[:, :vocab].exp_()
    # First the block of tokens where the cumulative sum passes the random share of the total, then the token in it.
    by_block = weights.view(rows, blocks, _BLOCK)
    ends = by_block.sum(2, dtype=torch.float64).cumsum(1)  # (R, blocks)
    aim = uniform.unsqueeze(1) * ends[:, -1:]  # (R, 1)
    block = _first_above(ends, aim)  # (R, 1)
    before = torch.where(block > 0, ends.gather(1, (block - 1).clamp_min(0)), 0.0)
    inside = by_block[torch.arange(rows, device=logits.device), block[:, 0]].double().cumsum(1)  # (R, _BLOCK)
    token = block[:, 0] * _BLOCK + _first_above(inside, aim - before)[:, 0]
    chosen = logits.gather(1, token.unsqueeze(1)).squeeze(1)
    return token, chosen - logits.exp_().sum(1).log()


def _first_above(cumulative: Tensor, aim: Tensor) -> Tensor:
    """(R, 1) first column of (R, C) above `aim` (R, 1), or the last that rises, where rounding left none."""
    last = torch.searchsorted(cumulative, cumulative[:, -1:].contiguous())
    return torch.minimum(torch.searchsorted(cumulative, aim.contiguous(), right=True), last)


def likeliest(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` likeliest tokens of logits (R, V), best first, and their probabilities: (R, count) each."""
    values, tokens = logits.topk(count, dim=-1)
    return tokens, (values - logits.logsumexp(-1, keepdim=True)).exp()


def guided(logits: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance u + s (c - u) (2207.12598); banned tokens stay at -inf. All (R, V)."""
    return torch.where(logits.isfinite(), unconditional + scale * (logits - unconditional), logits)


class Proposer:
    """Runs passes for one decode.

    Args:
        denoiser: the network.
        condition: of the B texts.
        config: temperature and guidance.
        noise: random numbers of the drafts.
        enforcer: forbids tokens, where the texts have constraints.
        top: how many of the likeliest tokens of each position are kept for traces.
    """

    def __init__(
        self,
        denoiser: Network,
        condition: Condition,
        config: DecodeConfig,
        noise: Noise,
        enforcer: Enforcer | None = None,
        top: int = 0,
    ) -> None:
        self.denoiser, self.condition, self.config, self.noise = denoiser, condition, config, noise
        self.enforcer, self.top = enforcer, min(top, denoiser.config.vocab_size)
        if config.guidance != 1:
            self.unconditional = denoiser.unconditional()

    def propose(self, canvas: Canvas, index: Tensor, entropy: bool = False, needed: Tensor | None = None) -> Proposals:
        """Predict the masked positions of the drafts `index` (A,); counts the passes.

        Args:
            canvas: the drafts.
            index: (A,).
            entropy: whether entropies are asked for.
            needed: (U,) tokens whose log-probabilities are asked for.

        Raises:
            InputError: constraints leave no token for a position.
        """
        tokens = canvas.ids[index]  # (A, n)
        log_prob = torch.zeros_like(tokens, dtype=torch.float32)
        spread = torch.zeros_like(log_prob)
        words = None if needed is None else torch.full((*tokens.shape, len(needed)), -torch.inf, device=tokens.device)
        best = None
        if self.top:
            blank = torch.zeros(*tokens.shape, self.top, device=tokens.device)
            best = torch.zeros_like(blank, dtype=torch.long), blank
        for chunk in self._chunks(canvas.lengths[index], canvas.masked[index].sum(1)):
            drafts = index[chunk]
            rows = canvas.masked[drafts]
            readings = self._read(canvas, drafts, canvas.ids[drafts], rows)
            owner, column = rows.nonzero(as_tuple=True)  # (R,) each: masked positions, row by row
            at = chunk[owner]
            for part in self._parts(len(owner)):
                logits = self._scores(canvas, drafts, readings, part)  # (r, V)
                if words is not None and needed is not None:
                    words[at[part], column[part]] = logits[:, needed] - logits.logsumexp(-1, keepdim=True)
                if best is not None:
                    best[0][at[part], column[part]], best[1][at[part], column[part]] = likeliest(logits, self.top)
                gumbel = None
                if self.config.temperature > 0:
                    who, counts = owner[part].unique_consecutive(return_counts=True)
                    gumbel = self.noise.gumbel(drafts[who].tolist(), counts.tolist(), logits.shape[1])
                token, logp, h = choose_tokens(logits, self.config.temperature, gumbel, entropy)
                tokens[at[part], column[part]] = token
                log_prob[at[part], column[part]] = logp
                spread[at[part], column[part]] = h
        canvas.count(index, self.config.cost)
        if self.enforcer is not None and bool(log_prob.isnan().any()):
            raise no_text(int(canvas.text[index[log_prob.isnan().any(1).nonzero()[0]]]))
        return Proposals(tokens, log_prob, spread, words, best)

    def pseudo_likelihood(self, canvas: Canvas, index: Tensor) -> Tensor:
        """Log-probability of each unknown token given the positions of the other parity: (A, n), 0 elsewhere.

        Takes two passes (one for texts of one token), which are counted.
        """
        ids = canvas.ids[index]
        out = torch.zeros_like(ids, dtype=torch.float32)
        position = torch.arange(ids.shape[1], device=ids.device)
        judged = (canvas.unknown & canvas.written())[index]
        for parity in (0, 1):
            hidden = judged & (position % 2 == parity)
            some = hidden.any(1).nonzero().flatten()
            if not len(some):
                continue
            for part in self._chunks(canvas.lengths[index[some]], hidden[some].sum(1)):
                chunk = some[part]
                readings = self._read(canvas, index[chunk], ids[chunk], hidden[chunk])
                owner, column = hidden[chunk].nonzero(as_tuple=True)  # (R,) each
                at = chunk[owner]
                for rows in self._parts(len(owner)):
                    logits = self._scores(canvas, index[chunk], readings, rows, forbid=False)
                    places = at[rows], column[rows]
                    out[places] = logits.log_softmax(-1).gather(1, ids[places].unsqueeze(1)).squeeze(1)
            canvas.count(index[some], self.config.cost)
        return out

    def _chunks(self, lengths: Tensor, rows: Tensor) -> Iterator[Tensor]:
        """Split A drafts into chunks of similar length with about `CHUNK_ROWS` rows to score."""
        most = CHUNK_ROWS.get(lengths.device.type, CHUNK_ROWS["cpu"])
        order = lengths.argsort(stable=True)
        total = rows[order].cumsum(0)
        start, done = 0, 0
        while start < len(order):
            end = int(torch.searchsorted(total, done + most, right=True))
            end = max(end, start + 1)
            yield order[start:end]
            done = int(total[end - 1])
            start = end

    def _parts(self, rows: int) -> Iterator[slice]:
        """Cut `rows` into parts whose logits take at most `LOGIT_BYTES`."""
        return row_parts(rows, self.denoiser.config.vocab_size, self.denoiser.banned.device)

    def _read(self, canvas: Canvas, drafts: Tensor, ids: Tensor, rows: Tensor) -> list[Reading]:
        """Run the blocks over C drafts; the positions `rows` (C, n) are masked, all others count as given.

        Returns:
            The reading, and with guidance that of the unconditional pass.
        """
        text, lengths = canvas.text[drafts], canvas.lengths[drafts]
        n = int(lengths.max())
        ids, rows = ids[:, :n], rows[:, :n]
        states = torch.where(rows, MASK, GIVEN)
        uneven = None if canvas.end_id >= 0 or bool((lengths == n).all()) else lengths
        conditions = [self.condition.select(text)]
        if self.config.guidance != 1:
            conditions.append(self.unconditional.select(torch.zeros_like(text)))
        return [self.denoiser.read(ids, states, condition, uneven, rows) for condition in conditions]

    def _scores(
        self, canvas: Canvas, drafts: Tensor, readings: list[Reading], part: slice, forbid: bool = True
    ) -> Tensor:
        """Logits (R, V) of the rows `part` of a reading; with `forbid`, -inf for what constraints exclude there."""
        logits = self.denoiser.scores(readings[0], part)
        if len(readings) > 1:
            logits = guided(logits, self.denoiser.scores(readings[1], part), self.config.guidance)
        owner, column = readings[0].owner[part], readings[0].column[part]
        if canvas.end_id >= 0:
            logits[:, canvas.end_id].masked_fill_(column == 0, -torch.inf)  # a text has at least one token
        if self.enforcer is not None and forbid:
            self.enforcer.forbid(canvas, drafts[owner], column, logits)
        return logits


def vector_seeds(vectors: Tensor, seed: int) -> list[bytes]:
    """Digest each vector (B, d) with the seed; the base of its drafts' generators."""
    rows = vectors.detach().to("cpu", torch.float32).contiguous().numpy()
    prefix = seed.to_bytes(16, "little")
    return [hashlib.blake2b(prefix + row.tobytes(), digest_size=16).digest() for row in rows]


class Noise:
    """One generator for each draft.

    Args:
        seeds: for each draft its vector's digest, its length and its sample number.
        device: where the numbers are used.
    """

    def __init__(self, seeds: Sequence[tuple[bytes, int, int]], device: torch.device) -> None:
        self.device = device
        self.generators = []
        for base, length, sample in seeds:
            digest = hashlib.blake2b(base + f"{length}/{sample}".encode(), digest_size=8).digest()
            generator = torch.Generator(device=device)
            generator.manual_seed(int.from_bytes(digest, "little") >> 1)
            self.generators.append(generator)

    def uniform(self, drafts: Sequence[int], count: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Draw `count` numbers in [0, 1) for each of the named drafts: (A, count)."""
        out = torch.empty(len(drafts), count, dtype=dtype, device=self.device)
        for i, draft in enumerate(drafts):
            torch.rand(count, generator=self.generators[draft], dtype=dtype, device=self.device, out=out[i])
        return out

    def gumbel(self, drafts: Sequence[int], rows: Sequence[int], vocab: int) -> Tensor:
        """Draw Gumbel noise in float64; in float32 it would lower the effective temperature (2409.02908).

        Args:
            drafts: A drafts.
            rows: how many rows of noise each of them needs.
            vocab: V.

        Returns:
            (sum of rows, V).
        """
        out = torch.empty(sum(rows), vocab, dtype=torch.float64, device=self.device)
        start = 0
        for draft, count in zip(drafts, rows, strict=True):
            part = out[start : start + count]
            torch.rand(part.shape, generator=self.generators[draft], dtype=torch.float64, device=self.device, out=part)
            start += count
        return out.log_().neg_().log_().neg_()
