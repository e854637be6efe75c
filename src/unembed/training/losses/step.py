"""The loss of one batch of one exact length.

Contents: `StepLoss`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from unembed.diffusion.schedule import get_schedule
from unembed.network.base import MASK, Network
from unembed.training.losses.cross_entropy import Shortlist
from unembed.training.losses.rows import (
    Columns,
    Rows,
    extend_with_end,
    full_columns,
    prepare_causal,
    prepare_masked,
    rows_loss,
)
from unembed.training.recipes.recipe_parts import ObjectivePart


class StepLoss:
    """Turn a batch of one length into a loss.

    Args:
        denoiser: the network.
        part: what is learnt.
        shortlist: draws the columns of the softmax, or None for the full vocabulary.
        precision: "bf16" (autocast) or "fp32".
        noise: length of the Gaussian noise on the vectors, as a share of their norm.

    Attributes:
        positions, cells: rows that went through the blocks, and logits, since they were last set to zero.
    """

    def __init__(
        self, denoiser: Network, part: ObjectivePart, shortlist: Shortlist | None, precision: str, noise: float = 0.0
    ) -> None:
        self.denoiser = denoiser
        self.part = part
        self.shortlist = shortlist
        self.precision = precision
        self.noise = noise
        self.positions = self.cells = 0
        self._schedule = get_schedule(part.schedule) if part.masking == "time" else None

    def _canvas(self, ids: Tensor, generator: torch.Generator) -> Tensor:
        """Fill with end tokens: half the batches up to the whole canvas, the others to a length drawn at random."""
        config = self.denoiser.config
        if config.canvas == "length":
            return ids
        least, most = ids.shape[1] + 1, config.canvas_length
        draw = torch.rand(2, generator=generator)
        width = most if draw[0] < 0.5 else least + int(draw[1] * (most - least + 1))
        return extend_with_end(ids, min(width, most), config.eos_id)

    def _columns(self, rows: list[Rows], ids: Tensor, generator: torch.Generator) -> list[Columns]:
        if self.shortlist is None:
            return [full_columns(self.denoiser, r.causal) for r in rows]
        config = self.denoiser.config
        shown = [torch.where(r.states == MASK, config.eos_id, r.ids).reshape(-1) for r in rows]
        wanted = torch.cat([r.targets for r in rows] + shown + [ids.reshape(-1)])
        tokens, correction, place = self.shortlist.draw(wanted, generator)
        out = []
        for r in rows:
            added = correction
            if config.canvas == "length" and not r.causal:
                added = correction.masked_fill(tokens == config.eos_id, -torch.inf)
            out.append(Columns(tokens, added, place))
        return out

    def __call__(
        self, ids: Tensor, vectors: Tensor, generator: torch.Generator, fitted: Tensor | None = None
    ) -> Tensor:
        """Return the loss of one batch, nats a scored row, and the weighted loss of the lengths on top.

        Args:
            ids: (B, n) token ids on the CPU.
            vectors: (B, d) raw encoder vectors.
            generator: of masks, shortlist and noise.
            fitted: (B,) bool, texts that the closed-form parts were fitted on; None for none of them.
        """
        part = self.part
        device = self.denoiser.embedding.weight.device
        if self.noise:
            spread = self.noise * vectors.norm(dim=1, keepdim=True) * vectors.shape[1] ** -0.5
            vectors = vectors + spread * torch.randn(vectors.shape, generator=generator)
        order = torch.randperm(len(ids), generator=generator)
        ids, vectors = ids[order], vectors[order]
        fitted = None if fitted is None or not bool(fitted.any()) else fitted[order]
        causal = round(part.causal_share * len(ids))
        shares: list[tuple[Rows, slice]] = []
        if causal < len(ids):
            mine = slice(causal, len(ids))
            canvas = self._canvas(ids[mine], generator)
            shares.append((prepare_masked(canvas, generator, part.loss_weight, self._schedule), mine))
        if causal:
            config = self.denoiser.config
            mine = slice(0, causal)
            shares.append((prepare_causal(ids[mine], config.bos_id, config.eos_id), mine))
        columns = self._columns([rows for rows, _ in shares], ids, generator)
        losses = []
        table = None
        if columns[0].tokens is not None:
            table = F.embedding(columns[0].tokens.to(device), self.denoiser.embedding.weight)
        for (rows, mine), column in zip(shares, columns, strict=True):
            count = mine.stop - mine.start
            # Each share counts by its texts: causal_share is the share of the loss, too.
            rows.weights = rows.normalised(count / len(ids))
            dropped = None
            if part.vector_drop:
                dropped = (torch.rand(count, generator=generator) < part.vector_drop).to(device)
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16"):
                condition = self.denoiser.condition(vectors[mine].to(device), dropped)
                own = None if fitted is None else (ids[mine].to(device), fitted[mine].to(device))
                loss, _ = rows_loss(self.denoiser, condition, rows.to(device), column.to(device), own, table)
            losses.append(loss)
            self.positions += rows.ids.numel() + count * self.denoiser.config.stream_prefix
            self.cells += len(rows.owner) * len(column.correction)
        log_n = self.denoiser.length_log_probs(vectors.to(device))
        target = torch.full((len(ids),), ids.shape[1] - 1, device=device)
        return torch.stack(losses).sum() + part.length_weight * F.nll_loss(log_n, target)
