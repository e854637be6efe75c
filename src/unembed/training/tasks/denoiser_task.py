"""The denoiser as a task: batches of one exact length, nothing padded. The fast way on a CPU.

Contents: `DenoiserTask`, and `DenoiserBase`, what it shares with the fast way on a GPU (`device_task.py`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unembed.checkpoint.checkpoint import save_checkpoint
from unembed.network.base import Network
from unembed.training.losses.cross_entropy import Shortlist
from unembed.training.losses.step import StepLoss
from unembed.training.memory import resolve_precision
from unembed.training.recipes.recipe import Recipe
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
        self.loss = StepLoss(self.model, recipe.objective, self.shortlist, self.precision, recipe.data.noise)

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
