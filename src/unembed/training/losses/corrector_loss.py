"""What one batch of pairs teaches a corrector, whose base stays as it is.

Contents: `CorrectorLoss`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from unembed.network.base import MASK
from unembed.network.corrector import Corrector
from unembed.training.losses.rows import Columns, Rows, full_columns, prepare_causal, prepare_masked, rows_loss
from unembed.training.losses.shortlist import Shortlist
from unembed.training.pairs.pair_feed import PairBatch


class CorrectorLoss:
    """Turn a batch of pairs into a loss, in nats a scored token.

    Args:
        corrector: its base is not trained.
        precision: "bf16" (autocast) or "fp32".

    Attributes:
        shown, drafted, cells: positions of the base, rows of drafts and logits since they were last set to zero.
    """

    def __init__(self, corrector: Corrector, precision: str) -> None:
        self.corrector, self.precision = corrector, precision
        self.shown = self.drafted = self.cells = 0

    def __call__(
        self,
        batch: PairBatch,
        causal: bool,
        shortlist: Shortlist | None,
        generator: torch.Generator,
        with_draft: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """Score a batch.

        Args:
            batch: texts and drafts, on the CPU.
            causal: left to right, or masks.
            shortlist: of the softmax; None for the whole vocabulary.
            generator: of masks and shortlist.
            with_draft: without, the base alone.

        Returns:
            The differentiable loss (), and the cross-entropies (R,) of the scored rows.
        """
        base, device = self.corrector.base, self.corrector.base.banned.device
        c = base.config
        rows = prepare_causal(batch.ids, c.bos_id, c.eos_id) if causal else prepare_masked(batch.ids, generator, "flat")
        columns = self._columns(rows, batch, shortlist, generator)
        rows.weights = rows.normalised(1.0)
        self.shown += rows.ids.numel()
        self.drafted += batch.drafts.numel()
        self.cells += len(rows.owner) * len(columns.correction)
        batch, rows, columns = batch.to(device), rows.to(device), columns.to(device)
        table = None if columns.tokens is None else F.embedding(columns.tokens, base.embedding.weight)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16"):
            with torch.no_grad():
                condition = base.condition(batch.vectors)
            more: list[tuple[Tensor, Tensor]] = []
            if with_draft:
                taken = batch.outside(c.pad_id)
                seen = self.corrector.see(condition, batch.drafts, batch.lengths, batch.own, taken)
                condition = seen.condition
                # The factors learn; the scores of both directions are closed forms.
                scores = [self._scores(direction, condition.whitened, columns, batch) for direction in seen.directions]
                more = list(zip(seen.factors.unbind(1), scores, strict=True))
            fitted = (batch.ids, batch.fitted) if bool(batch.fitted.any()) else None
            return rows_loss(base, condition, rows, columns, fitted, table, more)

    def _columns(
        self, rows: Rows, batch: PairBatch, shortlist: Shortlist | None, generator: torch.Generator
    ) -> Columns:
        """Columns of the softmax, on the CPU: the shortlist, and all tokens of texts and drafts."""
        c = self.corrector.base.config
        if shortlist is None:
            full = full_columns(self.corrector.base, rows.causal)
            return full.to(torch.device("cpu"))
        shown = torch.where(rows.states == MASK, c.eos_id, rows.ids)
        wanted = (rows.targets, shown.reshape(-1), batch.ids.reshape(-1), batch.drafts.reshape(-1))
        tokens, correction, place = shortlist.draw(torch.cat(wanted), generator)
        if c.canvas == "length" and not rows.causal:
            correction = correction.masked_fill(tokens == c.eos_id, -torch.inf)
        return Columns(tokens, correction, place)

    @torch.no_grad()
    def _scores(self, direction: Tensor, white: Tensor, columns: Columns, batch: PairBatch) -> Tensor:
        """Products (B, K) of a direction with the columns' class means, less the share of texts of the fit in them."""
        directions = self.corrector.directions
        with torch.autocast(white.device.type, enabled=False):
            tokens = columns.tokens
            if tokens is None:
                tokens = torch.arange(len(columns.place), device=white.device)
            present = torch.zeros(len(batch.ids), len(tokens), dtype=torch.bool, device=white.device)
            owner = torch.arange(len(batch.ids), device=white.device).unsqueeze(1)
            present[owner, columns.place[batch.ids]] = True
            present &= batch.fitted.unsqueeze(1)
            scores = directions.scores(direction, columns.tokens)
            return directions.taken_out(scores, tokens, present, direction, white)
