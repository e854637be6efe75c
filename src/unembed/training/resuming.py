"""What a run may be resumed with: its own recipe, its own encoder, its own texts and further ones after them.

Contents: `check_recipe`, `check_data`.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from unembed.encoders.identity import EncoderIdentity
from unembed.errors import CheckpointError
from unembed.training.recipes.recipe import Recipe
from unembed.training.tasks.task import Task

_log = logging.getLogger(__name__)
_FREE = ("max_time", "reserve", "validate_every", "save_every", "milestones", "threads", "compile", "store_dtype")
"""Keys of `run` that may change between the sessions of a run without a horizon in steps: they teach nothing."""


def check_recipe(known: dict[str, Any], recipe: Recipe, home: Path, cooling: bool) -> None:
    """Refuse to continue with another recipe; folders of texts may differ, `check_data` looks at the texts themselves.

    Where the rate follows no number of steps, the keys of `run` that change nothing that is learnt may differ too. A
    cool-down may have a decay, a hold and an average of its own.

    Args:
        known: facts of the state.
        recipe: what is asked for now.
        home: folder of the run, for errors.
        cooling: whether this is a cool-down.

    Raises:
        CheckpointError: naming the keys that differ.
    """
    old = Recipe.from_dict(known.get("recipe", {}))
    old = replace(old, data=replace(old.data, shards=recipe.data.shards))
    if cooling or recipe.run.horizon != "steps":
        old = replace(old, run=replace(old.run, **{key: getattr(recipe.run, key) for key in _FREE}))
        old = replace(old, validation=recipe.validation)
    if cooling:
        own = {key: getattr(recipe.optimizer, key) for key in ("decay", "hold", "ema", "warmup")}
        old = replace(old, optimizer=replace(old.optimizer, **own))
    if old != recipe:
        raise CheckpointError(
            f"The run in {home} began with another recipe: {_differences(old, recipe)}.",
            "Resume with the same recipe and overrides.",
        )


def _differences(old: Recipe, new: Recipe) -> str:
    """The keys that differ, with the values of both."""
    pairs = []
    before, after = old.to_dict(), new.to_dict()
    for table, values in after.items():
        if not isinstance(values, dict):
            if before[table] != values:
                pairs.append(f"{table} was {before[table]!r} and is {values!r}")
            continue
        pairs += [
            f"{table}.{key} was {before[table][key]!r} and is {value!r}"
            for key, value in values.items()
            if before[table][key] != value
        ]
    return "; ".join(pairs)


def check_data(facts: dict[str, Any], task: Task, home: Path) -> None:
    """Refuse to continue with another encoder or other texts; further ones after those of before are taken in.

    Args:
        facts: of the state; one that an earlier version wrote names no encoder.
        task: as it was made now.
        home: folder of the run, for errors.

    Raises:
        CheckpointError: which of the two differs.
    """
    if "encoder" in facts and not EncoderIdentity.from_dict(facts["encoder"]).same_vectors(task.identity):
        raise CheckpointError(
            f"The run in {home} began with another encoder's vectors than those of {task.identity.name}.",
            "Restore the encoder or the packs of before, or begin a new run.",
        )
    old = list(facts.get("data", task.data))
    if list(task.data[: len(old)]) == old:
        if len(task.data) > len(old):
            more = len(task.data) - len(old)
            _log.info("%d further folder%s of texts: a new epoch begins", more, "" if more == 1 else "s")
        return
    raise CheckpointError(
        f"The run in {home} began with other texts or vectors.",
        "Restore them and name further ones after them, or begin a new run.",
    )
