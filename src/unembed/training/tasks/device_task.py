"""The denoiser as a task with everything on the device: texts of packs, padded to a few widths. The fast way on a GPU.

Contents: `DeviceTask`. `training/device/` says how it works.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from unembed.errors import RecipeError
from unembed.network.denoiser import Denoiser
from unembed.training.device.corpus import BatchLoader, DeviceBatch
from unembed.training.device.device_step import DeviceLoss
from unembed.training.recipes.recipe import Recipe
from unembed.training.tasks.denoiser_task import DenoiserBase
from unembed.training.tasks.prepare import Prepared
from unembed.training.tasks.task import Part


class DeviceTask(DenoiserBase):
    """See `Task`.

    Args:
        recipe: of the run.
        prepared: network, texts on the device, validation.
        device: where the network goes.

    Raises:
        RecipeError: the recipe asks for something that has no fixed shapes here.
        DataError: there are too few texts for a batch.
    """

    def __init__(self, recipe: Recipe, prepared: Prepared, device: torch.device) -> None:
        assert prepared.resident is not None
        self.resident, data = prepared.resident, recipe.data
        feed = BatchLoader(
            self.resident.corpus,
            self.resident.buckets,
            data.batch_size,
            data.crop,
            recipe.run.seed,
            apart=self.resident.vectors is not None,
        )
        super().__init__(recipe, prepared, device, feed, compiled=())
        always = torch.zeros_like(self.model.banned) if self.shortlist is None else self.shortlist.always
        assert isinstance(self.model, Denoiser)  # `refuse` lets no other backbone in
        self.loss = DeviceLoss(self.model, recipe.objective, always, self.precision, self.resident.kernels)
        self._encoded = 0  # places that went through the encoder

    def warm_up(self) -> None:
        """See `Task`: every shape there is.

        Raises:
            RecipeError: the columns of the softmax do not hold the tokens of a batch.
        """
        most = 0
        for batch in self.feed.examples():
            ids, *rest = self.resident.of(batch)
            drawn = self.loss.draw(ids, batch.length)
            most = max(most, int(self.loss.columns.needed(self.loss.wanted(drawn)).sum()))
            if self.resident.kernels.compiled:
                self.loss(ids, batch.length, *rest).backward()  # type: ignore[no-untyped-call]
        if most > self.loss.columns.count:
            raise RecipeError(
                f"A batch has {most} different tokens, the softmax of a step has {self.loss.columns.count} columns.",
                "Set a larger objective.shortlist_sampled, or a smaller data.batch_size.",
            )
        self.arithmetic()

    def draw(self) -> list[Part]:
        """See `Task`: one part."""
        batch: DeviceBatch = self.feed.next()
        return [Part(1.0, len(batch.rows), batch)]

    def score(self, part: Part, generator: torch.Generator) -> Tensor:
        """See `Task`: nats a scored token, and the weighted loss of the lengths; masks are drawn on the device."""
        batch: DeviceBatch = part.values
        if batch.cut or self.resident.vectors is None:
            self._encoded += len(batch.rows) * (batch.width + 2)
        ids, vectors, full, known = self.resident.of(batch)
        return self.loss(ids, batch.length, vectors, full, known)

    def restore(self, place: dict[str, Any]) -> None:
        """See `Task`. On a CPU the masks continue where they were; on a GPU they begin anew, not as they did before."""
        self.feed.restore(place)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(hash((self.recipe.run.seed, place["epoch"], place["position"])) % (1 << 63))

    def uncompile(self) -> bool:
        """See `Task`."""
        return self.resident.kernels.uncompile()

    def arithmetic(self) -> dict[str, float]:
        """See `Task`; padding and rows that only fill up are counted, for they are computed."""
        loss, config, encoder = self.loss, self.model.config, self.resident.encoder
        blocks = self.model.parameter_counts()["blocks"]
        # Frozen columns have two products, forward and for the slope of the rows, not three.
        width = (config.embedding_dim or config.width) + loss.evidence.frozen.shape[1] * 2 / 3
        embedded = 2.0 * sum(t.numel() for name, t in encoder.state().items() if name.startswith("layers."))
        operations = 6.0 * blocks * loss.positions + 6.0 * loss.cells * width + embedded * self._encoded
        counted = {"positions": float(loss.positions), "operations": operations}
        loss.positions = loss.cells = self._encoded = 0
        return counted


def refuse(recipe: Recipe, device: torch.device) -> None:
    """Refuse what has no fixed shapes here, before anything is read.

    Raises:
        RecipeError: the key, and what it may be.
    """
    model, objective = recipe.model, recipe.objective
    for key, value, wanted in (
        ("model.backbone", model.backbone, "adaln-zero"),
        ("model.canvas", model.canvas, "length"),
        ("model.token_prior", model.token_prior, True),
        ("model.time_conditioning", model.time_conditioning, False),
        ("objective.masking", objective.masking, "count"),
        ("objective.loss_weight", objective.loss_weight, "flat"),
        ("objective.vector_drop", objective.vector_drop, 0.0),
    ):
        if value != wanted:
            raise RecipeError(
                f"With data.buckets everything stays on the device, which {key} = {_toml(value)} does not allow.",
                f"Set {key} = {_toml(wanted)}, or data.buckets = [].",
            )
    if device.type not in ("cpu", "cuda"):
        raise RecipeError(
            f"data.buckets was not made for the device {device}.", "Use a CUDA device or cpu, or data.buckets = []."
        )


def _toml(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value).lower()
