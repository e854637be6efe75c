"""The state of an interrupted run: weights, average, optimizer, generators, step. Safetensors and JSON only.

Contents: `save_state`, `load_state`, `read_facts`, `has_state`, `not_finite`; `check_recipe`, `check_data`: a run is
resumed with its own recipe, its own encoder, its own texts and further ones after them.
"""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unembed.encoders.identity import EncoderIdentity
from unembed.errors import CheckpointError, RecipeError
from unembed.files import atomic_path
from unembed.training.recipes.recipe import Recipe
from unembed.training.stepper import Stepper
from unembed.training.tasks.task import Task

FILE = "state.safetensors"
_BEGIN = "Begin the run first, without --resume or --cooldown, or name its folder."


def has_state(folder: Path) -> bool:
    """Whether a run's folder holds a state."""
    return (folder / FILE).is_file()


def not_finite(what: str, folder: Path) -> RecipeError:
    """The error of a run that came to numbers which are not finite, and keeps the state that it saved before."""
    kept = has_state(folder)
    return RecipeError(
        f"{what}{', and the state that was saved before is kept' if kept else ''}.",
        "Lower optimizer.lr" + (", or continue from that state with --resume." if kept else "."),
    )


def save_state(folder: Path, stepper: Stepper, facts: dict[str, Any]) -> None:
    """Write everything that a run needs to continue, as one file that appears whole.

    Args:
        folder: of the run.
        stepper: its model, average, optimizer and generator.
        facts: JSON values: step, texts, seconds, horizon, recipe.
    """
    from safetensors.torch import save_file

    model, ema = stepper.task.model, stepper.ema
    tensors: dict[str, Tensor] = {f"model/{k}": v.detach().contiguous() for k, v in model.state_dict().items()}
    tensors |= {f"ema/{k}": v for k, v in zip(ema.names, ema.values, strict=True)}
    for index, values in stepper.optimizer.state_dict()["state"].items():
        for key, value in values.items():
            tensors[f"optimizer/{index}/{key}"] = torch.as_tensor(value).detach().clone().contiguous()
    tensors["generator"] = stepper.generator.get_state()
    tensors["torch_generator"] = torch.get_rng_state()
    with atomic_path(folder / FILE) as part:
        save_file({k: v.cpu() for k, v in tensors.items()}, str(part), metadata={"facts": json.dumps(facts)})


def read_facts(folder: Path) -> dict[str, Any]:
    """The facts of a state alone: step, texts, seconds, horizon, recipe, data, place, notes.

    Raises:
        CheckpointError: no state there, or none that can be read.
    """
    from safetensors import SafetensorError, safe_open

    if not has_state(folder):
        raise CheckpointError(f"There is no training state in {folder}.", _BEGIN)
    try:
        with safe_open(str(folder / FILE), framework="pt") as stored:
            facts: dict[str, Any] = json.loads(stored.metadata()["facts"])
    except (SafetensorError, KeyError, ValueError, TypeError, OSError) as error:
        raise CheckpointError(
            f"The training state in {folder} cannot be read: {str(error).splitlines()[0].rstrip('.')}.",
            "Begin a new run, from its checkpoint with --init-from if there is one.",
        ) from error
    return facts


def load_state(folder: Path, stepper: Stepper) -> dict[str, Any]:
    """Read a state into a stepper and its task's model, and return its facts.

    Raises:
        CheckpointError: no state there, or one of another shape.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    facts, ema, optimizer = read_facts(folder), stepper.ema, stepper.optimizer
    try:
        tensors = load_file(str(folder / FILE))
        weights = {k.removeprefix("model/"): v for k, v in tensors.items() if k.startswith("model/")}
        stepper.task.model.load_state_dict(weights)
        for name, value in zip(ema.names, ema.values, strict=True):
            value.copy_(tensors[f"ema/{name}"])
        state = optimizer.state_dict()
        entries: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith("optimizer/"):
                _, index, name = key.split("/")
                entries.setdefault(int(index), {})[name] = value
        state["state"] = entries
        optimizer.load_state_dict(state)
        stepper.generator.set_state(tensors["generator"])
        torch.set_rng_state(tensors["torch_generator"])
    except (SafetensorError, RuntimeError, KeyError, ValueError, TypeError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"The training state in {folder} does not fit this run: {first.rstrip('.')}.",
            "Resume with the recipe that the run began with, or begin a new run.",
        ) from error
    return facts


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
            "Restore the earlier encoder or packs, or begin a new run.",
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
