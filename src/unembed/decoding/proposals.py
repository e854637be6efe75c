"""One pass of the denoiser over many drafts, reduced at once to what the rules need.

Contents: `Proposals`, `Proposer`, and the pure functions `choose_tokens`, `guided`.

Logits are (rows, V), by far the largest tensors of a decode: drafts are sorted by length and go through in chunks of
at most `LOGIT_BYTES`, and a chunk's logits are reduced to one token, log-probability and entropy a row before the next.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from unembed.decoding.canvas import Canvas
from unembed.decoding.config import DecodeConfig
from unembed.decoding.noise import Noise
from unembed.model.conditioning import Condition
from unembed.model.denoiser import GIVEN, MASK, Denoiser

LOGIT_BYTES = {"cpu": 64 * 2**20, "cuda": 1024 * 2**20}


@dataclass(frozen=True)
class Proposals:
    """What the denoiser proposes for each masked position.

    Attributes:
        tokens: (A, n) int64.
        log_prob: (A, n) float32, at temperature 1.
        entropy: (A, n) float32 nats, zeros unless asked for.
    """

    tokens: Tensor
    log_prob: Tensor
    entropy: Tensor


def choose_tokens(
    logits: Tensor, temperature: float = 0.0, gumbel: Tensor | None = None, entropy: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Choose a token a row, the likeliest or by the Gumbel-max trick in float64.

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
        last_given: (B,) last given position of each text; the end may not come before it.
    """

    def __init__(
        self, denoiser: Denoiser, condition: Condition, config: DecodeConfig, noise: Noise, last_given: Tensor
    ) -> None:
        self.denoiser, self.condition, self.config, self.noise = denoiser, condition, config, noise
        self.last_given = last_given
        if config.guidance != 1:
            self.unconditional = denoiser.condition(denoiser.whitening.mean.unsqueeze(0))

    def propose(self, canvas: Canvas, index: Tensor, entropy: bool = False) -> Proposals:
        """Predict the masked positions of the drafts `index` (A,); counts the passes."""
        tokens = canvas.ids[index]
        log_prob = torch.zeros_like(tokens, dtype=torch.float32)
        spread = torch.zeros_like(log_prob)
        for chunk in self._chunks(canvas.lengths[index], canvas.masked[index].sum(1)):
            drafts = index[chunk]
            rows = canvas.masked[drafts]
            logits = self._logits(canvas, drafts, canvas.ids[drafts], rows)
            gumbel = None
            if self.config.temperature > 0:
                gumbel = self.noise.gumbel(drafts.tolist(), rows.sum(1).tolist(), logits.shape[1])
            token, logp, h = choose_tokens(logits, self.config.temperature, gumbel, entropy)
            owner, column = rows.nonzero(as_tuple=True)
            tokens[chunk[owner], column] = token
            log_prob[chunk[owner], column] = logp
            spread[chunk[owner], column] = h
        canvas.count(index, self.config.cost)
        return Proposals(tokens, log_prob, spread)

    def judge(self, canvas: Canvas, index: Tensor, groups: int = 2) -> Tensor:
        """Log-probability of each free token when every `groups`-th position is masked: (A, n), 0 elsewhere.

        Takes `groups` passes (fewer for texts of fewer tokens), which are counted.
        """
        ids = canvas.ids[index]
        out = torch.zeros_like(ids, dtype=torch.float32)
        position = torch.arange(ids.shape[1], device=ids.device)
        judged = (canvas.free & canvas.written())[index]
        for group in range(groups):
            hidden = judged & (position % groups == group)
            some = hidden.any(1).nonzero().flatten()
            if not len(some):
                continue
            for part in self._chunks(canvas.lengths[index[some]], hidden[some].sum(1)):
                chunk = some[part]
                logits = self._logits(canvas, index[chunk], ids[chunk], hidden[chunk])
                owner, column = hidden[chunk].nonzero(as_tuple=True)
                truth = logits.gather(1, ids[chunk[owner], column].unsqueeze(1)).squeeze(1)
                out[chunk[owner], column] = truth - logits.logsumexp(-1)
            canvas.count(index[some], self.config.cost)
        return out

    def _chunks(self, lengths: Tensor, rows: Tensor) -> Iterator[Tensor]:
        """Split A drafts into chunks of similar length whose logits fit into memory."""
        budget = LOGIT_BYTES.get(lengths.device.type, LOGIT_BYTES["cpu"])
        most = max(1, budget // (4 * self.denoiser.config.vocab_size))
        order = lengths.argsort(stable=True)
        total = rows[order].cumsum(0)
        start, done = 0, 0
        while start < len(order):
            end = int(torch.searchsorted(total, done + most, right=True))
            end = max(end, start + 1)
            yield order[start:end]
            done = int(total[end - 1])
            start = end

    def _logits(self, canvas: Canvas, drafts: Tensor, ids: Tensor, rows: Tensor) -> Tensor:
        """Logits (R, V) at the positions `rows` (C, n), which are masked; all other positions count as given."""
        text, lengths = canvas.text[drafts], canvas.lengths[drafts]
        n = int(lengths.max())
        ids, rows = ids[:, :n], rows[:, :n]
        states = torch.where(rows, MASK, GIVEN)
        uneven = None if canvas.end_id >= 0 or bool((lengths == n).all()) else lengths
        logits = self.denoiser.logits(ids, states, self.condition.select(text), uneven, rows)
        if self.config.guidance != 1:
            free = self.unconditional.select(torch.zeros_like(text))
            logits = guided(logits, self.denoiser.logits(ids, states, free, uneven, rows), self.config.guidance)
        if canvas.end_id >= 0:
            owner, column = rows.nonzero(as_tuple=True)
            early = column <= self.last_given[text[owner]].clamp_min(0)  # a text has at least one token
            logits[:, canvas.end_id].masked_fill_(early, -torch.inf)
        return logits
