"""The denoiser as a task: batches of one exact length, nothing padded. The fast way on a CPU.

Contents: `DenoiserTask`, and `DenoiserBase`, what it shares with the fast way on a GPU (`device_task.py`); `StepLoss`:
what one batch of one length teaches.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unembed.checkpoint.checkpoint import save_checkpoint
from unembed.diffusion.schedule import get_schedule
from unembed.network.base import MASK, Network
from unembed.training.losses.cross_entropy import Shortlist
from unembed.training.losses.rows import (
    Rows,
    ScoredColumns,
    extend_with_end,
    full_columns,
    prepare_causal,
    prepare_masked,
    rows_loss,
)
from unembed.training.memory import resolve_precision
from unembed.training.recipes.recipe import Recipe
from unembed.training.recipes.recipe_parts import ObjectivePart
from unembed.training.tasks.prepare import Prepared
from unembed.training.tasks.task import Part, Task, in_parts


class DenoiserBase(Task):
    """What every way of training a denoiser has: network, validation, checkpoint.

    Args:
        recipe: of the run.
        prepared: network, data, validation.
        device: where the network goes.
        feed, compiled: see `Task`.
    """

    model: Network

    def __init__(
        self,
        recipe: Recipe,
        prepared: Prepared,
        device: torch.device,
        feed: Any,
        compiled: Sequence[nn.Module] | None = None,
    ) -> None:
        precision = resolve_precision(recipe.run.precision, device)
        super().__init__(recipe, device, precision, prepared.denoiser, feed, prepared.data, prepared.identity, compiled)
        self.prepared = prepared
        self.shortlist = Shortlist.of(recipe.objective, prepared.counts, self.model.banned)

    def figures(self, decode_until: float | None) -> dict[str, Any]:
        """See `Task`; `training.validation` names the figures."""
        figures: dict[str, Any] = dict(self.prepared.validation.loss(self.model))
        if decode_until is not None:
            figures |= self.prepared.validation.decoded(self.model, decode_until)
        return figures

    def save(self, folder: Path, notes: dict[str, Any], state: dict[str, Tensor]) -> Path:
        """See `Task`: a checkpoint directory."""
        prepared = self.prepared
        save_checkpoint(
            folder,
            self.model,
            prepared.tokenizer.to_json(),
            prepared.identity.to_dict(),
            self.recipe.told(),
            notes=notes,
            dtype=self.recipe.run.store_dtype,
            state=state,
            fit_score=prepared.validation.fit_score(self.model),
        )
        return folder

    def notes(self) -> dict[str, Any]:
        """See `Task`."""
        fitted = self.prepared.fitted
        return {
            "parameters": self.model.parameter_counts(),
            "fitted": None if fitted is None else dataclasses.asdict(fitted),
        }


class DenoiserTask(DenoiserBase):
    """See `Task`.

    Args:
        recipe: of the run.
        prepared: network, data, validation.
        device: where the network goes.
    """

    def __init__(self, recipe: Recipe, prepared: Prepared, device: torch.device) -> None:
        super().__init__(recipe, prepared, device, prepared.feed)
        self.loss = StepLoss(self.model, recipe.objective, self.shortlist, self.precision)

    @property
    def texts_per_epoch(self) -> int:
        """Texts of an epoch; 0 where they come from a stream."""
        rows = getattr(self.feed, "rows", None)
        return 0 if rows is None else len(rows)

    def trials(self) -> Iterator[Tensor]:
        """See `Task`."""
        ids = torch.randint(self.model.config.vocab_size, (8, self.model.config.max_length))
        ids = ids.masked_fill(self.model.banned.cpu()[ids], 0)
        vectors = self.model.whitening.mean.cpu().repeat(8, 1)
        for n in (self.model.config.max_length, max(1, self.model.config.max_length // 2)):
            yield self.loss(ids[:, :n], vectors, torch.Generator().manual_seed(0))

    def draw(self) -> list[Part]:
        """See `Task`."""
        return in_parts(self.feed.next())

    def score(self, part: Part, generator: torch.Generator) -> Tensor:
        """See `Task`: nats a scored row, and the weighted loss of the lengths."""
        group = part.values
        fitted = None if group.fitted is None else torch.from_numpy(group.fitted)
        return self.loss(torch.from_numpy(group.ids), torch.from_numpy(group.vectors), generator, fitted)

    def arithmetic(self) -> dict[str, float]:
        """See `Task`."""
        c, loss = self.model.config, self.loss
        blocks = self.model.parameter_counts()["blocks"]
        head = 6.0 * loss.cells * (c.embedding_dim or c.width)
        counted = {"positions": float(loss.positions), "operations": 6.0 * blocks * loss.positions + head}
        loss.positions = loss.cells = 0
        return counted


class StepLoss:
    """Turn a batch of one length into a loss.

    Args:
        denoiser: the network.
        part: what is learnt.
        shortlist: draws the columns of the softmax, or None for the full vocabulary.
        precision: "bf16" (autocast) or "fp32".

    Attributes:
        positions, cells: rows that went through the blocks, and logits, since they were last set to zero.
    """

    def __init__(self, denoiser: Network, part: ObjectivePart, shortlist: Shortlist | None, precision: str) -> None:
        self.denoiser = denoiser
        self.part = part
        self.shortlist = shortlist
        self.precision = precision
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

    def _columns(self, rows: list[Rows], ids: Tensor, generator: torch.Generator) -> list[ScoredColumns]:
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
            out.append(ScoredColumns(tokens, added, place))
        return out

    def __call__(
        self, ids: Tensor, vectors: Tensor, generator: torch.Generator, fitted: Tensor | None = None
    ) -> Tensor:
        """Return the loss of one batch, nats a scored row, and the weighted loss of the lengths on top.

        Args:
            ids: (B, n) token ids on the CPU.
            vectors: (B, d) raw encoder vectors.
            generator: of masks and shortlist.
            fitted: (B,) bool, texts that the closed-form parts were fitted on; None for none of them.
        """
        part = self.part
        device = self.denoiser.embedding.weight.device
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
