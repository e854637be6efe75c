"""The loss of one batch and its gradient.

Contents: `StepLoss`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from unembed.diffusion.schedule import get_schedule
from unembed.model.denoiser import MASK, Denoiser
from unembed.training.objective import (
    Columns,
    Rows,
    extend_with_end,
    full_columns,
    prepare_causal,
    prepare_masked,
)
from unembed.training.objective import (
    rows_loss as rows_loss,  # the dry run counts by putting its own in this place
)
from unembed.training.recipe import ObjectivePart
from unembed.training.shortlist import Shortlist


class StepLoss:
    """Turn a batch of one length, or padded to one, into gradients.

    Args:
        denoiser: the network.
        part: what is learnt.
        shortlist: draws the columns of the softmax, or None for the full vocabulary.
        counts: (V,) token counts; wrong guesses are drawn from them.
        precision: "bf16" (autocast) or "fp32".
        noise: standard deviation of noise on the vectors, as a share of their norm.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        part: ObjectivePart,
        shortlist: Shortlist | None,
        counts: Tensor,
        precision: str,
        noise: float = 0.0,
    ) -> None:
        self.denoiser = denoiser
        self.part = part
        self.shortlist = shortlist
        self.precision = precision
        self.noise = noise
        self._schedule = get_schedule(part.schedule) if part.masking == "time" else None
        self._replacements = None
        if part.guess_share:
            pool = torch.Generator().manual_seed(0)
            self._replacements = torch.multinomial(counts.float(), 100_000, replacement=True, generator=pool)

    def _canvas(self, ids: Tensor, lengths: Tensor | None, generator: torch.Generator) -> Tensor:
        """Fill with end tokens: half the batches up to the whole canvas, the others to a length drawn at random."""
        config = self.denoiser.config
        if config.canvas == "length":
            return ids
        least, most = ids.shape[1] + 1, config.canvas_length
        if lengths is not None:
            ids = ids.masked_fill(torch.arange(ids.shape[1]) >= lengths.unsqueeze(1), config.eos_id)
            return extend_with_end(ids, most, config.eos_id)
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

    def backward(
        self,
        ids: Tensor,
        vectors: Tensor,
        generator: torch.Generator,
        scale: float = 1.0,
        lengths: Tensor | None = None,
    ) -> float:
        """Accumulate the gradient of one batch and return its loss, nats a scored row.

        Args:
            ids: (B, n) token ids on the CPU.
            vectors: (B, d) raw encoder vectors.
            generator: of masks, shortlist and noise.
            scale: factor of the gradient.
            lengths: (B,) tokens of each text where rows are padded to n; None where all have n.
        """
        part = self.part
        device = self.denoiser.embedding.weight.device
        if self.noise:
            spread = self.noise * vectors.norm(dim=1, keepdim=True) * vectors.shape[1] ** -0.5
            vectors = vectors + spread * torch.randn(vectors.shape, generator=generator)
        order = torch.randperm(len(ids), generator=generator)
        ids, vectors = ids[order], vectors[order]
        own = torch.full((len(ids),), ids.shape[1]) if lengths is None else lengths[order]
        padded = None if lengths is None else own
        causal = round(part.causal_share * len(ids))
        shares: list[tuple[Rows, Tensor, Tensor]] = []
        if causal < len(ids):
            text = ids[causal:]
            part_lengths = None if padded is None else padded[causal:]
            rows = prepare_masked(
                self._canvas(text, part_lengths, generator),
                generator,
                part.loss_weight,
                part.guess_share,
                part.guess_error,
                self._replacements,
                part_lengths if self.denoiser.config.canvas == "length" else None,
                self._schedule,
            )
            shares.append((rows, vectors[causal:], text))
        if causal:
            config = self.denoiser.config
            part_lengths = None if padded is None else padded[:causal]
            rows = prepare_causal(ids[:causal], config.bos_id, config.eos_id, part_lengths)
            shares.append((rows, vectors[:causal], ids[:causal]))
        columns = self._columns([rows for rows, _, _ in shares], ids, generator)
        losses = []
        table = None
        if columns[0].tokens is not None:
            table = F.embedding(columns[0].tokens.to(device), self.denoiser.embedding.weight)
        for (rows, vector, text), column in zip(shares, columns, strict=True):
            # Each share counts by its texts: causal_share is the share of the loss, too.
            rows.weights = rows.normalised(len(text) / len(ids))
            dropped = None
            if part.vector_drop:
                dropped = (torch.rand(len(text), generator=generator) < part.vector_drop).to(device)
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16"):
                condition = self.denoiser.condition(vector.to(device), dropped)
                placed = rows.to(device), column.to(device), text.to(device)
                loss, _ = rows_loss(self.denoiser, condition, *placed, table)
            losses.append(loss)
        log_n = self.denoiser.length_log_probs(vectors.to(device))
        target = (own - 1).to(device)
        total = torch.stack(losses).sum()
        (scale * (total + part.length_weight * F.nll_loss(log_n, target))).backward()
        return float(total.detach())
