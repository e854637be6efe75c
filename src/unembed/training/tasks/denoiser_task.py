"""The denoiser as a task: batches of one exact length, nothing padded. The fast way on a CPU.

Contents: `DenoiserTask`, and `DenoiserBase`, what it shares with the fast way on a GPU (`device_task.py`).
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unembed.checkpoint.checkpoint import save_checkpoint
from unembed.network.block import compile_blocks, compiled_blocks, uncompile_blocks
from unembed.training.losses.shortlist import Shortlist
from unembed.training.losses.step import StepLoss
from unembed.training.memory import resolve_precision
from unembed.training.recipes.recipe import Recipe
from unembed.training.tasks.prepare import Prepared
from unembed.training.tasks.task import Part, in_parts, lighter


class DenoiserBase:
    """What every way of training a denoiser has: network, validation, checkpoint.

    Args:
        recipe: of the run.
        prepared: network, data, validation.
        device: where the network goes.
    """

    def __init__(self, recipe: Recipe, prepared: Prepared, device: torch.device) -> None:
        self.recipe, self.prepared, self.device = recipe, prepared, device
        self.precision = resolve_precision(recipe.run.precision, device)
        self.model = prepared.denoiser.to(device).train()
        self.data, self.identity = prepared.data, prepared.identity

    def validate(self, decode_until: float | None) -> dict[str, Any]:
        """See `Task`; `training.validation` names the figures."""
        self.model.eval()
        try:
            figures: dict[str, Any] = dict(self.prepared.validation.loss(self.model))
            if decode_until is not None:
                figures |= self.prepared.validation.decoded(self.model, decode_until)
        finally:
            self.model.train()
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
        super().__init__(recipe, prepared, device)
        assert prepared.feed is not None
        self.feed = prepared.feed
        if recipe.run.compiles(device.type):
            compile_blocks(self.model)
        shortlist = Shortlist.of(recipe.objective, prepared.counts, self.model.banned)
        self.loss = StepLoss(self.model, recipe.objective, shortlist, self.precision, recipe.data.noise)

    @property
    def texts_per_epoch(self) -> int:
        """Texts of an epoch; 0 where they come from a stream."""
        rows = getattr(self.feed, "rows", None)
        return 0 if rows is None else len(rows)

    @property
    def batches_per_epoch(self) -> int:
        """See `Task`."""
        return self.feed.batches_per_epoch

    def warm_up(self) -> None:
        """See `Task`; only compiled code needs it."""
        if not compiled_blocks(self.model):
            return
        ids = torch.randint(self.model.config.vocab_size, (8, self.model.config.max_length))
        ids = ids.masked_fill(self.model.banned.cpu()[ids], 0)
        vectors = self.model.whitening.mean.cpu().repeat(8, 1)
        for n in (self.model.config.max_length, max(1, self.model.config.max_length // 2)):
            loss = self.loss(ids[:, :n], vectors, torch.Generator().manual_seed(0))
            loss.backward()  # type: ignore[no-untyped-call]
        self.loss.positions = self.loss.cells = 0

    def draw(self) -> list[Part]:
        """See `Task`."""
        return in_parts(self.feed.next())

    def score(self, part: Part, generator: torch.Generator) -> Tensor:
        """See `Task`: nats a scored row, and the weighted loss of the lengths."""
        group = part.values
        fitted = None if group.fitted is None else torch.from_numpy(group.fitted)
        return self.loss(torch.from_numpy(group.ids), torch.from_numpy(group.vectors), generator, fitted)

    def place(self) -> dict[str, Any]:
        """See `Task`."""
        return self.feed.state()

    def restore(self, place: dict[str, Any]) -> None:
        """See `Task`."""
        self.feed.restore(place)

    def lighten(self, error: Exception) -> str:
        """See `Task`."""
        return lighter(error, self.feed.halve, lambda: uncompile_blocks(self.model))

    def arithmetic(self) -> dict[str, float]:
        """See `Task`."""
        c, loss = self.model.config, self.loss
        blocks = self.model.parameter_counts()["blocks"]
        head = 6.0 * loss.cells * (c.embedding_dim or c.width)
        counted = {"positions": float(loss.positions), "operations": 6.0 * blocks * loss.positions + head}
        loss.positions = loss.cells = 0
        return counted
