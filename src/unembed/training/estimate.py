"""What a run would cost, measured before it begins. Contents: `Estimate`, `estimate`, `Pace`, `measure_pace`.

The steps measured are the loop's own (`Stepper`), on a network that is thrown away. Operations are
counted as 6 A n for A block parameters over n tokens, and 6 x rows x columns x width for the head; modulation, prefix
tokens and attention scores are not counted.
"""

from __future__ import annotations

import dataclasses
import itertools
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from unembed.training.memory import keep_memory, limited_memory
from unembed.training.optimizer import learning_rate
from unembed.training.recipes.recipe import Recipe
from unembed.training.recipes.recipe_parts import parse_duration
from unembed.training.stepper import Stepper, make_task
from unembed.training.tasks.task import Task

_FITTED_TEXTS = 20_000


@dataclass(frozen=True)
class Pace:
    """How fast the steps of a recipe are on this machine.

    Attributes:
        steps: timed steps.
        texts, positions: texts of the timed steps, and positions that went through the blocks.
        seconds: their time.
        warmup_seconds: time of the steps before, compilation included.
        operations: floating-point operations of the timed steps, by the arithmetic above.
        precision: "fp32" or "bf16".
    """

    steps: int
    texts: int
    positions: float
    seconds: float
    warmup_seconds: float
    operations: float
    precision: str

    @property
    def texts_per_second(self) -> float:
        """Texts a second."""
        return self.texts / self.seconds


@dataclass(frozen=True)
class Estimate:
    """What a run is expected to cost.

    Attributes:
        parameters: trainable parameters: total, and for a denoiser those of vocabulary and blocks.
        operations_per_text: floating-point operations of one text.
        texts_per_second: measured.
        texts: training texts of an epoch, by its batches; 0 where they are embedded online.
        hours: length of the run: the time box, or what its steps take; 0 where nothing ends it.
        epochs: times that each text is seen in what preparing and compiling leave of it; 0 where that is unknown.
        preparation_seconds: reading, and fitting the closed-form parts on few texts, before the first step.
        memory_bytes: largest resident memory of this process while it was measured; for a GPU the memory it reserved.
        pace: what was measured.
    """

    parameters: dict[str, int]
    operations_per_text: float
    texts_per_second: float
    texts: int
    hours: float
    epochs: float
    memory_bytes: int
    preparation_seconds: float
    pace: Pace

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return dataclasses.asdict(self)


def measure_pace(
    recipe: Recipe,
    task: Task,
    warmup: int = 6,
    steps: int = 0,
    seconds: float = 10.0,
    on_step: Callable[[float], None] | None = None,
) -> Pace:
    """Make some steps of a recipe on a network that is thrown away.

    Args:
        recipe: what to train.
        task: of the recipe.
        warmup: steps before the clock starts; what is compiled is compiled by then.
        steps: timed steps; 0 measures until `seconds` have passed.
        seconds: see `steps`.
        on_step: called after each timed step with the share of the measurement that is done, 0 to 1.
    """
    keep_memory()
    stepper = Stepper(task, recipe)
    begun = time.perf_counter()
    stepper.warm_up()
    for number in range(warmup):
        stepper.step(number, learning_rate(recipe.optimizer, number, 0.0))
    stepper.wait()
    task.arithmetic()
    start = time.perf_counter()
    texts, took = 0, 0.0
    for done in itertools.count(1):
        _, count = stepper.step(warmup + done - 1, learning_rate(recipe.optimizer, warmup + done - 1, 0.0))
        stepper.wait()
        texts, took = texts + count, time.perf_counter() - start
        if on_step is not None:
            on_step(min(1.0, done / steps if steps else took / seconds))
        if done == steps or (not steps and took >= seconds):
            break
    counted = task.arithmetic()
    return Pace(done, texts, counted["positions"], took, start - begun, counted["operations"], task.precision)


@limited_memory()
def estimate(
    recipe: Recipe,
    device: str | None = None,
    seconds: float = 10.0,
    warmup: int = 6,
    on_step: Callable[[float], None] | None = None,
    init_from: str | Path | None = None,
) -> Estimate:
    """Measure what a run of a recipe would cost; nothing is written.

    It takes as long as the run's own preparation and compilation, and then `seconds`.

    Args:
        recipe: what to train. The closed-form parts are fitted on a few texts only.
        device: "cpu", "cuda", ...; None takes a GPU where there is one.
        seconds: length of the measurement after the warm-up.
        warmup: steps before it.
        on_step: see `measure_pace`.
        init_from: what weights start from, as for `train`.

    Raises:
        RecipeError, DataError, CheckpointError: as `make_task`.
    """
    begun = time.perf_counter()
    target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    run = recipe.run
    if run.threads:
        torch.set_num_threads(run.threads)
    few = dataclasses.replace(recipe.data, fitted=min(recipe.data.fitted or _FITTED_TEXTS, _FITTED_TEXTS))
    task = make_task(dataclasses.replace(recipe, data=few), target, init_from=init_from)
    preparation = time.perf_counter() - begun
    pace = measure_pace(recipe, task, warmup=warmup, seconds=seconds, on_step=on_step)
    per_batch = pace.texts / pace.steps / recipe.optimizer.accumulate
    # A task that counts its texts says so; otherwise an epoch's batches are taken to be like those that were timed.
    texts = getattr(task, "texts_per_epoch", round(task.batches_per_epoch * per_batch))
    rate, box = pace.texts_per_second, parse_duration(run.max_time)
    if run.steps:
        hours = run.steps * pace.seconds / pace.steps / 3600
    else:
        hours = box / 3600 if box else (0.0 if run.horizon == "none" else texts / rate / 3600)
    at_work = max(0.0, box - preparation - pace.warmup_seconds) if box and not run.steps else hours * 3600
    parameters = task.notes().get("parameters") or {
        "total": sum(p.numel() for p in task.model.parameters() if p.requires_grad)
    }
    return Estimate(
        parameters=parameters,
        operations_per_text=pace.operations / pace.texts,
        texts_per_second=rate,
        texts=texts,
        hours=hours,
        epochs=at_work * rate / texts if texts else 0.0,
        memory_bytes=_memory(target),
        preparation_seconds=preparation,
        pace=pace,
    )


def _memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_reserved(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
