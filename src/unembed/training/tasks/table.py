"""Which task a recipe names. Contents: `make_task`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from unembed.errors import RecipeError
from unembed.training.recipes.recipe import Recipe
from unembed.training.tasks.task import Task


def make_task(
    recipe: Recipe,
    device: torch.device,
    known: Mapping[str, Any] | None = None,
    init_from: str | Path | None = None,
    box: float = 0.0,
) -> Task:
    """Open the data and build the network of a recipe.

    Args:
        recipe: its `task` decides.
        device: where the network goes.
        known: facts of the state that a run continues from, empty for a new run; None for an estimate, for which
            nothing is written.
        init_from: what weights start from: a checkpoint, or the file of a student or corrector.
        box: time box of the session in seconds, 0 for none; where data is made first, for half of it at most.

    Raises:
        RecipeError, DataError, CheckpointError: see the tasks.
    """
    if recipe.task == "student":
        from unembed.training.tasks.student_task import make_student_task

        return make_student_task(recipe, device, known, init_from, box)
    if recipe.task == "corrector":
        from unembed.training.tasks.corrector_task import make_corrector_task

        return make_corrector_task(recipe, device, known, init_from, box)
    from unembed.training.tasks.denoiser_task import DenoiserTask
    from unembed.training.tasks.device_task import DeviceTask, refuse
    from unembed.training.tasks.prepare import prepare

    if recipe.data.buckets:
        refuse(recipe, device)
    prepared = prepare(recipe, device, known, init_from)
    if not recipe.data.buckets:
        return DenoiserTask(recipe, prepared, device)
    if prepared.pack is None:
        raise RecipeError(
            "data.buckets keeps everything on the device, which needs texts as packs.",
            "Make them with `unembed pack`, or set data.buckets = [].",
        )
    return DeviceTask(recipe, prepared, device)
