"""Hypotheses of left-to-right drafts, and one step of a beam. Contents: `Options`, `Beams`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Options(NamedTuple):
    """C ways to go on for each of A hypotheses.

    `tokens`, `gain` (what is added to the total) and `log_prob` (what is kept) are (A, C); `evidence` (A,) is the
    log-probability of a known token, None without constraints.
    """

    tokens: Tensor
    gain: Tensor
    log_prob: Tensor
    evidence: Tensor | None = None


@dataclass
class Beams:
    """K hypotheses of each of R texts (or samples of texts).

    `tokens` and `log_prob` are (R, K, max_length); `total`, `end`, `evidence`, `length`, `ended` (R, K). `total` orders
    the beams and is -inf for slots that hold nothing; `evidence` is the log-probability of known tokens. `best` holds
    the likeliest tokens of each position and their probabilities, (R, K, max_length, T) each, where they are kept.
    """

    tokens: Tensor
    log_prob: Tensor
    total: Tensor
    end: Tensor
    evidence: Tensor
    length: Tensor
    ended: Tensor
    best: tuple[Tensor, Tensor] | None = None

    @classmethod
    def start(cls, rows: int, beam: int, max_length: int, pad: int, device: torch.device, top: int = 0) -> Beams:
        """Empty hypotheses, of which the first of each row counts. `top` likeliest tokens are kept."""
        total = torch.full((rows, beam), -torch.inf, device=device)
        total[:, 0] = 0
        return cls(
            tokens=torch.full((rows, beam, max_length), pad, device=device),
            log_prob=torch.zeros(rows, beam, max_length, device=device),
            total=total,
            end=torch.zeros(rows, beam, device=device),
            evidence=torch.zeros(rows, beam, device=device),
            length=torch.zeros(rows, beam, dtype=torch.long, device=device),
            ended=total.isinf(),
            best=(
                torch.zeros(rows, beam, max_length, top, dtype=torch.long, device=device),
                torch.zeros(rows, beam, max_length, top, device=device),
            )
            if top
            else None,
        )

    def remember(self, alive: Tensor, parent: Tensor, position: int, best: tuple[Tensor, Tensor]) -> None:
        """Keep what was likeliest at `position` for the hypotheses `alive` (A,) before they moved: (A, T) each."""
        assert self.best is not None
        for kept, found in zip(self.best, best, strict=True):
            kept.flatten(0, 1)[alive, position] = found
            kept.copy_(kept.gather(1, parent[..., None, None].expand_as(kept)))

    def advance(self, alive: Tensor, options: Options, eos: int, position: int) -> Tensor:
        """Extend the live hypotheses `alive` (A,), flat indices, by C options each; keep the K best of each text.

        Returns:
            (R, K) the beam that each kept hypothesis came from.
        """
        rows, beam = self.total.shape
        count = options.tokens.shape[1]
        score = torch.full((rows * beam, count), -torch.inf, device=options.tokens.device)
        score[alive] = self.total.flatten()[alive].unsqueeze(1) + options.gain
        score[self.ended.flatten(), 0] = self.total[self.ended]
        token = torch.full_like(score, eos, dtype=torch.long)
        token[alive] = options.tokens
        single = torch.zeros_like(score)
        single[alive] = options.log_prob
        best = score.view(rows, -1).topk(beam, dim=1)
        parent = best.indices // count
        token = token.view(rows, -1).gather(1, best.indices)
        single = single.view(rows, -1).gather(1, best.indices)
        wide = parent.unsqueeze(2).expand(-1, -1, self.tokens.shape[2])
        self.tokens, self.log_prob = self.tokens.gather(1, wide), self.log_prob.gather(1, wide)
        self.end, self.length = self.end.gather(1, parent), self.length.gather(1, parent)
        if options.evidence is not None:
            self.evidence.view(-1)[alive] += options.evidence
            self.evidence = self.evidence.gather(1, parent)
        was_ended = self.ended.gather(1, parent)
        self.total = best.values
        real = self.total.isfinite()
        ends = real & ~was_ended & (token == eos)
        goes_on = real & ~was_ended & ~ends
        self.end = torch.where(ends, single, self.end)
        self.tokens[:, :, position] = torch.where(goes_on, token, self.tokens[:, :, position])
        self.log_prob[:, :, position] = torch.where(goes_on, single, self.log_prob[:, :, position])
        self.length = self.length + goes_on.long()
        self.ended = ~goes_on
        return parent
