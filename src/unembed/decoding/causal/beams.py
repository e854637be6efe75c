"""Hypotheses of left-to-right texts, and one step of a beam. Contents: `BeamOptions`, `Beams`, `Texts`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

Texts = list[list[tuple[tuple[int, ...], float]]]
"""For each row pairs of token ids and log-probability, the likeliest first."""


class BeamOptions(NamedTuple):
    """C continuations for each of A hypotheses.

    `tokens`, `gain` (what is added to the total) and `log_prob` (what is kept) are (A, C). `evidence` (A,) is the
    log-probability of a known token, None without constraints. `best` holds the T likeliest tokens and their
    probabilities, (A, T) each, where a trace wants them.
    """

    tokens: Tensor
    gain: Tensor
    log_prob: Tensor
    evidence: Tensor | None = None
    best: tuple[Tensor, Tensor] | None = None


@dataclass
class Beams:
    """K hypotheses of each of R rows (texts, or samples of texts). Mutable: `advance` writes one position.

    `tokens` and `log_prob` are (R, K, max_length); `total`, `end`, `evidence`, `length`, `ended` (R, K). `total` orders
    the beams and is -inf for slots that hold nothing; `evidence` is the log-probability of known tokens. `best` holds
    the likeliest tokens of each position and their probabilities, (R, K, max_length, T) each, where they are kept.
    `passes` (R,) counts the hypotheses that went through the network; `left` are texts that made room for others.
    """

    tokens: Tensor
    log_prob: Tensor
    total: Tensor
    end: Tensor
    evidence: Tensor
    length: Tensor
    ended: Tensor
    passes: Tensor
    left: Texts
    best: tuple[Tensor, Tensor] | None = None

    @classmethod
    def start(cls, rows: int, beam: int, max_length: int, pad: int, device: torch.device, top: int = 0) -> Beams:
        """Empty hypotheses, of which the first of each row counts. `top` likeliest tokens are kept."""
        total = torch.full((rows, beam), -torch.inf, device=device)
        total[:, 0] = 0
        shape = (rows, beam, max_length)
        best = torch.zeros(*shape, top, dtype=torch.long, device=device), torch.zeros(*shape, top, device=device)
        return cls(
            tokens=torch.full(shape, pad, device=device),
            log_prob=torch.zeros(shape, device=device),
            total=total,
            end=torch.zeros(rows, beam, device=device),
            evidence=torch.zeros(rows, beam, device=device),
            length=torch.zeros(rows, beam, dtype=torch.long, device=device),
            ended=total.isinf(),
            passes=torch.zeros(rows, dtype=torch.long, device=device),
            left=[[] for _ in range(rows)],
            best=best if top else None,
        )

    def advance(self, alive: Tensor, options: BeamOptions, eos: int, position: int) -> Tensor:
        """Extend the live hypotheses `alive` (A,), flat indices, by C options each; keep the K best of each row.

        Returns:
            (R K,) the flat index of the hypothesis that each kept one came from.
        """
        rows, beam = self.total.shape
        count = options.tokens.shape[1]
        # Options of all R K slots: (A, C) -> (R K, C). One that has ended has a single way on: to stay as it is.
        score = torch.full((rows * beam, count), -torch.inf, device=options.tokens.device)
        score[alive] = self.total.flatten()[alive].unsqueeze(1) + options.gain
        score[self.ended.flatten(), 0] = self.total[self.ended]
        token = torch.full_like(score, eos, dtype=torch.long)
        token[alive] = options.tokens
        single = torch.zeros_like(score)
        single[alive] = options.log_prob
        self.total, best = score.view(rows, -1).topk(beam, dim=1)  # (R, K C) -> best K of K C
        parent = best // count  # (R, K) slot of the same row
        token = token.view(rows, -1).gather(1, best)
        single = single.view(rows, -1).gather(1, best)
        if options.evidence is not None:
            self.evidence.view(-1)[alive] += options.evidence
        if self.best is not None and options.best is not None:
            for kept, found in zip(self.best, options.best, strict=True):
                kept.flatten(0, 1)[alive, position] = found
                kept.copy_(kept.gather(1, parent[..., None, None].expand_as(kept)))
        # Each kept hypothesis takes over what its parent had.
        wide = parent.unsqueeze(2).expand_as(self.tokens)
        self.tokens, self.log_prob = self.tokens.gather(1, wide), self.log_prob.gather(1, wide)
        self.end, self.length = self.end.gather(1, parent), self.length.gather(1, parent)
        self.evidence = self.evidence.gather(1, parent)
        live = self.total.isfinite() & ~self.ended.gather(1, parent)
        ends, goes_on = live & (token == eos), live & (token != eos)
        self.end = torch.where(ends, single, self.end)
        self.tokens[:, :, position] = torch.where(goes_on, token, self.tokens[:, :, position])
        self.log_prob[:, :, position] = torch.where(goes_on, single, self.log_prob[:, :, position])
        self.length = self.length + goes_on.long()
        self.ended = ~goes_on
        return (torch.arange(rows, device=parent.device).unsqueeze(1) * beam + parent).flatten()

    def make_room(self) -> None:
        """Take out the hypotheses that have ended, and those that K ended ones are ahead of: they only lose."""
        self._take_out(self.ended)
        beam = self.total.shape[1]
        for row, left in enumerate(self.left):
            if len(left) >= beam:
                worst = sorted((score for _, score in left), reverse=True)[beam - 1]
                self.total[row] = self.total[row].masked_fill(self.total[row] <= worst, -torch.inf)
        self.ended = ~self.total.isfinite()

    def texts(self) -> Texts:
        """The K likeliest texts of each row, whether they have ended or reached the limit."""
        self._take_out(torch.ones_like(self.ended))
        return [sorted(part, key=lambda one: -one[1])[: self.total.shape[1]] for part in self.left]

    def _take_out(self, which: Tensor) -> None:
        """Move the hypotheses `which` (R, K) to `left`."""
        which = which & self.total.isfinite()
        at = which.nonzero().tolist()
        for (row, _), ids, n, total in zip(
            at, self.tokens[which].tolist(), self.length[which].tolist(), self.total[which].tolist(), strict=True
        ):
            self.left[row].append((tuple(ids[:n]), total))
        self.total = self.total.masked_fill(which, -torch.inf)
